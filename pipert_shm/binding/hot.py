"""What a frame passes on its way through a routine: csrc/hot/, a second Python module in the file of the first."""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from typing import Any

from pipert_shm.binding.native import NATIVE_FILE

_NAME = "pipert_shm._hot"


def _load() -> Any:
    loader = ExtensionFileLoader(_NAME, NATIVE_FILE)
    module = module_from_spec(ModuleSpec(_NAME, loader, origin=NATIVE_FILE))
    loader.exec_module(module)
    sys.modules[_NAME] = module
    return module


_hot = _load()

HotPath: Any = _hot.HotPath
Lease: type = _hot.Lease
lease: Any = _hot.lease
array: Any = _hot.array
array_at: Any = _hot.array_at
pickle_rules: Any = _hot.pickle_rules
AXES: int = _hot.AXES
UNKNOWN: int = _hot.UNKNOWN
FOUND: int = _hot.FOUND
NOTICED: int = _hot.NOTICED
RESULT: int = _hot.RESULT
SENT: int = _hot.SENT
REFUSED: int = _hot.REFUSED
KIND_ARRAY: int = _hot.KIND_ARRAY
KIND_TICKETED: int = _hot.KIND_TICKETED
KIND_STAMPED: int = _hot.KIND_STAMPED
