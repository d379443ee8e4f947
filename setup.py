import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit("pipert_shm does not run on a free-threaded Python, for which OpenCV has no wheels: take the usual build")

BENCH = "pipert_shm.bench"
NOT_PACKED = {"conftest", "ends", "flow_control", "in_flow", "instructions", "test_calls", "video"}  # tools of the clone


class BuildPy(build_py):
    """Packs bench/ as pipert_shm.bench. Named in pyproject.toml, it would make editable installs ones by import hook."""

    def finalize_options(self):
        super().finalize_options()
        self.packages = [*self.packages, BENCH]
        self.package_dir = {**self.package_dir, BENCH: "bench"}

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if package != BENCH or Path(module[2]).stem not in NOT_PACKED]


setup(
    cffi_modules=["csrc/build_native.py:ffibuilder"],
    cmdclass={"build_py": BuildPy},
    # The stable ABI (cffi's default): one wheel serves every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
