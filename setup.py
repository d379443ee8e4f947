import sysconfig

from setuptools import setup

# The extension uses the stable ABI (cffi's default), so one wheel serves every Python from 3.10 on; the free-threaded
# build has no stable ABI.
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

setup(
    cffi_modules=["csrc/build_native.py:ffibuilder"],
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
