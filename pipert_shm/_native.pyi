"""The compiled binding, built from csrc/ by cffi; only pipert_shm.binding uses it."""

from typing import Any

ffi: Any
lib: Any
