"""Tells whether the program ran to its last line, or ended early."""

from __future__ import annotations

import opcode
import sys
import threading
from types import FrameType

_main: FrameType | None = None  # of the program's own file: it keeps the file's globals alive, but no function's variables


def remember_main() -> None:
    """Remembers the program's frame for `why_ended_early`. To be called while the program runs."""
    global _main
    if not hasattr(sys, "ps1"):  # in an interactive session, each line has a frame of its own
        _main = _find_main() or _main


def forget_main() -> None:
    """Forgets the program's frame."""
    global _main
    _main = None


def why_ended_early() -> str:
    """At exit: what ended the program before its last line. Empty if it ran to its end, or if that is unknown.

    At exit the exception is gone. But the frame still stands at the last instruction that it executed: a return, or the one
    that raised.
    """
    if hasattr(sys, "ps1"):
        return "the interactive session has ended"
    failed = getattr(sys, "last_value", None) is not None
    if failed if _main is None else not _has_returned(_main):
        return "an exception has ended the program" if failed else "sys.exit() has ended the program"
    return ""


def _find_main() -> FrameType | None:
    """The frame of the program's file, if the main thread is in it."""
    module = sys.modules.get("__main__")
    names = None if module is None else vars(module)
    found = None
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals is names and frame.f_code.co_name == "<module>":
            found = frame  # go on to the outermost frame: code that the file gives to exec() has the same globals
        frame = frame.f_back
    return found


def _has_returned(frame: FrameType) -> bool:
    return frame.f_lasti >= 0 and opcode.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN_")
