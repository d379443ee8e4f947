"""Tests and debugging of routines, without processes.

- `RoutineHarness` runs one routine on what a test gives it.
- `Pipe.run_inline()` runs a whole pipe on the calling thread; this package has what does it.
- `pipert_shm.testing.plugin` has `leaves_nothing`, a pytest fixture that fails a test which leaves anything behind.

Nothing here is imported by `import pipert_shm`.
"""

from __future__ import annotations

from pipert_shm.testing.harness import RoutineHarness
from pipert_shm.testing.surroundings import Notification, Output

__all__ = ["Notification", "Output", "RoutineHarness"]
