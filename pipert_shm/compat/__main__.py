"""Runs a script, or a module, with PipeRT2's names: see `pipert_shm.compat`."""

from __future__ import annotations

import multiprocessing
import runpy
import sys
from pathlib import Path
from types import ModuleType

from pipert_shm.compat import install

USAGE = "usage: python -m pipert_shm.compat (script.py | -m module) [arguments]"


def main() -> None:
    """Runs the rest of the command line as `python` would."""
    arguments = sys.argv[1:]
    if not arguments or arguments == ["-m"]:
        sys.exit(USAGE)
    install()
    if multiprocessing.get_all_start_methods()[0] != "fork":  # the default, from Python 3.14 on
        multiprocessing.set_start_method("fork")  # as the scripts of PipeRT2's time take for granted
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = arguments
    script = Path(arguments[0])
    try:
        code = compile(script.read_bytes(), str(script), "exec", dont_inherit=True)
    except OSError as error:
        sys.exit(f"can't read {script}: {error.strerror}; {USAGE}")
    sys.path[0] = str(script.resolve().parent)
    module = sys.modules["__main__"] = ModuleType("__main__")  # until the end: payloads' classes are looked up there
    module.__file__ = str(script)
    exec(code, vars(module))


if __name__ == "__main__":
    main()
