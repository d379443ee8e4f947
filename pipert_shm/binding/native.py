"""The compiled part, built from csrc/: two Python modules in one file.

- cffi's, with its functions `lib` and its types `ffi`;
- what a frame passes on its way through a routine, from csrc/hot/: see hot.py.

They are loaded here alone, so that one place says what to do where they are missing. The second one comes first: it refuses
subinterpreters, in which cffi and NumPy may fail otherwise.
"""

import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import Any

HOT = "pipert_shm._hot"


def _load(name: str, file: str) -> Any:
    loader = ExtensionFileLoader(name, file)
    module = module_from_spec(ModuleSpec(name, loader, origin=file))
    loader.exec_module(module)
    sys.modules[name] = module
    return module


def _find() -> str:
    """The file of both."""
    found = None if sys.modules.get("pipert_shm._native", ...) is None else find_spec("pipert_shm._native")
    if found is not None and found.origin is not None:
        return found.origin
    import sysconfig

    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise ImportError("pipert_shm does not run on a free-threaded Python: take the usual build")
    raise ImportError(
        f"{os.path.dirname(os.path.dirname(__file__))} has pipert_shm's source without its compiled part, and hides a "
        "pipert_shm that is installed: run your program from another directory, or compile this one: pip install -e CLONE"
    )


NATIVE_FILE = _find()
_hot = _load(HOT, NATIVE_FILE)

import pipert_shm._native as _native  # noqa: E402

ffi = _native.ffi
lib = _native.lib
