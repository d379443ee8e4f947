"""What a frame passes on its way through a routine: csrc/hot/, a second Python module in the file of the first."""

from __future__ import annotations

from typing import Any

from pipert_shm.binding.native import _hot

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
