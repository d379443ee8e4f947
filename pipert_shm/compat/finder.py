"""The import hook: modules named `pipert2…`, made of what the table in names.py says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

from pipert_shm.errors import PipertError

ROOT = "pipert2"
GUIDE = "docs/how-to/migrating_from_pipert2.md says what to use instead"


def install() -> None:
    """Makes `import pipert2` import this package's names, in this process. May be called again.

    :raises PipertError: when the real PipeRT2 is imported already.

    >>> from pipert_shm.compat import install
    >>> install()
    >>> from pipert2.core.base.routines import FPSRoutine
    >>> FPSRoutine("camera").name
    'camera'
    """
    loaded = sys.modules.get(ROOT)
    if loaded is not None and not isinstance(loaded.__loader__, Finder):
        raise PipertError(f"PipeRT2 is imported already, from {loaded.__file__}: call install() before that")
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Finder(MetaPathFinder, Loader):
    """Finds and makes the modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of PipeRT2's; None for all others.

        :raises ModuleNotFoundError: when it has no counterpart.
        """
        if fullname.partition(".")[0] != ROOT:
            return None
        from pipert_shm.compat.names import MODULES

        if fullname not in MODULES:
            raise ModuleNotFoundError(f"{fullname} has no counterpart in pipert_shm: {GUIDE}", name=fullname)
        return spec_from_loader(fullname, self, is_package=any(name.startswith(f"{fullname}.") for name in MODULES))

    def exec_module(self, module: ModuleType) -> None:
        """Fills the module."""
        from pipert_shm.compat.names import MODULES, NO_COUNTERPARTS

        names = MODULES[module.__name__]()
        vars(module).update(names, __all__=[name for name in names if not name.startswith("_")])

        def refuse(name: str) -> object:
            if name in NO_COUNTERPARTS:
                raise ImportError(f"{module.__name__}.{name} has no counterpart in pipert_shm: {GUIDE}")
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = refuse
