"""The compiled part, built from csrc/ by cffi: its functions `lib` and its types `ffi`.

It is loaded here alone, so that one place says what to do where it is missing.
"""

import os

try:
    import pipert_shm._native as _native
except ModuleNotFoundError as error:
    raise ImportError(
        f"{os.path.dirname(os.path.dirname(__file__))} has pipert_shm's source without its compiled part, and hides a "
        "pipert_shm that is installed: run your program from another directory, or compile this one: pip install -e CLONE"
    ) from error

ffi = _native.ffi
lib = _native.lib
NATIVE_FILE: str = _native.__file__
