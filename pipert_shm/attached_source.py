"""A source that sends what a routine of another pipe sends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipert_shm.data import Meta
from pipert_shm.errors import EndOfStream, PipeStateError, UnknownTarget
from pipert_shm.limits import check_flag, check_seconds
from pipert_shm.routine import SourceRoutine
from pipert_shm.shm.finding import find

if TYPE_CHECKING:
    from pipert_shm.attached import Attached
    from pipert_shm.tap import Tap

LOOK_S = 0.5  # how long a call waits, so that a stop waits for no more than that
AGAIN_S = 0.1  # between two tries to tap a routine whose flow is being restarted
OVER = ("ended", "failed")


class AttachedSource(SourceRoutine):
    """Sends the newest outputs of a routine of another pipe of this machine: one camera for several programs.

    It attaches in its own process, so it may be made and started before the other pipe is. While it is busy or its wires are
    full, it misses outputs, and never slows the other pipe. Each output is copied once, into this pipe's memory. The capture
    time, `pts`, `wall_clock`, the sequence number and the format are those of the other pipe; the origin is this source.

    It goes on when the other routine's flow is restarted. When that routine or its pipe has ended, so has this stream. It logs
    when it waits, when it is attached, when frames begin to come and when they end, once each.

    :param pipe: the other pipe's name or id.
    :param routine: the name of the other routine.
    :param timeout: seconds to wait for the other pipe in `setup()`, which fails without it. By default it is waited for as long
        as it takes.
    :param reconnect: go on with the next pipe of this name, and the next start of the routine, instead of ending.
    :raises ValueError: when the timeout is out of range.

    >>> from pipert_shm import AttachedSource
    >>> camera = AttachedSource("yard", "camera", name="the yard's camera")
    """

    def __init__(
        self, pipe: str, routine: str, name: str | None = None, *, timeout: float | None = None, reconnect: bool = False
    ) -> None:
        for what, value in (("pipe", pipe), ("routine", routine)):
            if not isinstance(value, str):
                raise TypeError(f"{what} must be the name of a {what}, not {value!r}")
        if timeout is not None:
            check_seconds("timeout", timeout, none="as long as it takes")
        check_flag("reconnect", reconnect)
        super().__init__(name)
        self._pipe, self._its = pipe, routine
        self._timeout = timeout
        self._reconnect = bool(reconnect)
        self._attached: Attached | None = None
        self._tap: Tap | None = None
        self._asked: Callable[[float], Tap | None] | None = None  # waits for the tap that was asked for
        self._told = ""  # what was logged last

    def setup(self) -> None:
        """Attaches to the other pipe, if it is there.

        :raises UnknownTarget: when it is not there in time, or has no such routine.
        :raises PipeStateError, OSError: when it refuses.
        """
        self._was_attached = self._was_tapped = False
        self._told = ""
        if self._timeout is not None:
            self._attach(self._timeout)
        else:
            with suppress(
                PipeStateError
            ):  # it is just beginning or ending, or one of two: `main_logic` sees what becomes of it
                if find(self._pipe) is not None:
                    self._attach(LOOK_S)
        try:
            self._require_routine()
        except UnknownTarget:
            self._detach()
            raise

    def _require_routine(self) -> None:
        """:raises UnknownTarget: when the other pipe is there, and has no such routine."""
        if self._attached is not None:
            with suppress(PipeStateError):  # it has ended meanwhile: `main_logic` sees that
                known = list(self._attached.statistics().routines)
                if self._its not in known:
                    raise UnknownTarget("routine", self._its, known)

    def main_logic(self) -> Any:
        """The other routine's newest output; None when there is none for a while."""
        if self._attached is None and not self._attach(LOOK_S):
            return None
        if self._tap is None and not self._make_tap():
            return None
        assert self._tap is not None
        try:
            payload = self._tap.read(LOOK_S)
        except TimeoutError:
            return None
        except StopIteration:
            self._tap = None
            if self._reconnect or not (self._attached and self._attached.has_ended):
                self._tell(logging.WARNING, "gets no more of %r of pipe %r: that has ended, for now", self._its, self._pipe)
            return None
        if self._tap.meta is not None:
            self._copy_meta(self._tap.meta)
        return payload

    def cleanup(self) -> None:
        """Detaches."""
        self._detach()

    def _attach(self, seconds: float) -> bool:
        from pipert_shm.attached import attach  # which knows this module

        try:
            self._attached = attach(self._pipe, timeout=seconds)
        except UnknownTarget:
            if self._timeout is not None and not self._was_attached:
                raise
            self._tell(logging.INFO, "waits for pipe %r, which is not there", self._pipe)
            return False
        except (PipeStateError, OSError) as error:
            time.sleep(AGAIN_S)  # before the next try, which an error does not keep from coming
            if not (isinstance(error, PipeStateError) and self._was_attached and self._reconnect):
                raise
            self._tell(logging.INFO, "waits for pipe %r: %s", self._pipe, error)  # it is just beginning or ending
            return False
        self._was_attached = True
        self._tell(logging.INFO, "is attached to pipe %r (%s), and waits for %r", self._pipe, self._attached.pipe_id, self._its)
        return True

    def _make_tap(self) -> bool:
        """Whether the other routine is tapped now.

        :raises EndOfStream: when it has ended, or its pipe has, and that is the end of this stream, too.
        :raises UnknownTarget: when it has never been there.
        """
        assert self._attached is not None
        if not self._attached.has_ended:
            try:
                return self._ask()
            except UnknownTarget:
                if not self._was_tapped:
                    time.sleep(AGAIN_S)
                    raise
            except PipeStateError:
                if not self._attached.has_ended and self._is_to_run():
                    time.sleep(AGAIN_S)
                    return False
        if not self._reconnect:
            self._tell(logging.INFO, "ends, as %r of pipe %r has", self._its, self._pipe)
            raise EndOfStream
        if self._attached.has_ended:
            self._detach()
        else:
            time.sleep(AGAIN_S)
        return False

    def _ask(self) -> bool:
        """Asks for a tap, and waits a little: a long call of the other routine must not hold up a stop of this one."""
        assert self._attached is not None
        asked, self._asked = self._asked, None
        if asked is None:
            asked = self._attached.begin_tap(self._its)
        self._tap = asked(LOOK_S)
        if self._tap is None:
            self._asked = asked
            return False
        self._was_tapped = True
        self._tell(logging.INFO, "gets what %r of pipe %r sends", self._its, self._pipe)
        return True

    def _is_to_run(self) -> bool:
        assert self._attached is not None
        routine = self._attached.statistics().routines.get(self._its)
        return routine is not None and routine.state not in OVER

    def _tell(self, level: int, text: str, *values: object) -> None:
        """Logs what has changed: not again what was logged last."""
        told = text % values
        if told != self._told:
            self._told = told
            self.logger.log(level, "%s", told)

    def _copy_meta(self, meta: Meta) -> None:
        own = self.meta
        own.captured_ns, own.sequence = meta.captured_ns, meta.sequence
        own.pts, own.wall_clock = meta.pts, meta.wall_clock
        own.describe(*meta.described)

    def _detach(self) -> None:
        attached, self._attached, self._tap, self._asked = self._attached, None, None, None
        if attached is not None:
            attached.close()
