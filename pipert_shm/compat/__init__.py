"""PipeRT2's package names, so that its users' scripts run unchanged.

    python -m pipert_shm.compat script.py its arguments
    python -m pipert_shm.compat -m pytest tests

Or call `install()` before the first `import pipert2`. Nothing is named `pipert2` in site-packages, so a real PipeRT2 may be
installed beside it; it is this one that `install()` makes importable, in the process that calls it.
"""

from __future__ import annotations

from pipert_shm.compat.finder import install

__all__ = ["install"]
