"""When a routine's next call is due: by its frame rate, and, with auto pacing, by the room at its receivers."""

from __future__ import annotations

from collections.abc import Callable

from pipert_shm import binding
from pipert_shm.flow.context import Context
from pipert_shm.limits import LONGEST_WAIT

LONGEST_REST_NS = int(LONGEST_WAIT * 1e9)


class Pacing:
    """Waits until the next call is due. The routine's thread only.

    :param obey: obeys the commands that came; says whether the run is to end.

    Attributes:
        auto: whether calls wait for room at a receiver.
        turn_ns: when the last call was due; 0: there was none.
    """

    def __init__(self, context: Context, obey: Callable[[], bool]) -> None:
        self._obey = obey
        self._port = context.port
        self._outbox = context.outbox
        self._routine = context.plan.routine
        self.auto = context.host.plan.auto_pacing
        self.turn_ns = 0

    @property
    def interval_ns(self) -> int:
        """From one call to the next; 0: as soon as possible. It may change at any time."""
        fps = self._routine._const_fps
        return round(1e9 / fps) if fps > 0 else 0

    def wait(self) -> None:
        """Rests until the next call is due, or the run is to end."""
        if self.auto:
            while self._outbox.await_room() != binding.OK:
                if self._obey():
                    return
        while self.turn_ns:
            interval = self.interval_ns
            left = self.turn_ns + interval - binding.now_ns() if interval else 0
            if left <= 0:
                return
            if self._port.rest(min(left, LONGEST_REST_NS)) == binding.NOTICE and self._obey():
                return

    def take_turn(self) -> None:
        """Notes that a call begins.

        Its deadline is absolute, so that delays do not add up; but a routine makes up for one interval at most.
        """
        interval, now = self.interval_ns, binding.now_ns()
        self.turn_ns = max(self.turn_ns + interval, now - interval) if interval and self.turn_ns else now
