"""Says how late the frames of a live stream are, and which of them are too old to be handed over."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import NamedTuple

OLD = 2.0
"""Gaps between frames: a frame of this age is late."""

STRICT = 1.7
"""The same for a frame that had piled up; what is left of two gaps is for its conversion and its way to a receiver."""

WINDOW = 2.0
"""Seconds of the stream, or eight frames, whose least delay counts as none. A delay that stays is forgotten after these."""

OPENING = 2.0
"""Seconds after a stream was opened in which frames may come that had piled up."""

JITTER = 0.1
"""Seconds: the most that an unsteady network may delay frames without making them late."""

STARVED = 2.0
"""Seconds of nothing but late frames after which they are handed over, unless they get less late."""

LONGEST_CHASE = 10.0
"""Seconds of nothing but late frames after which they are handed over anyway."""

MOST_ASKEW = 0.12
"""By more than this share the time between frames may not differ from that between their stamps, two seconds in a row."""

DRIFT = 0.0005
"""Seconds a second by which clocks may run apart while the reader waits for no frame."""

WAITED = 8
"""The reader waited for a frame if it did so for this part of a gap. What is less may be a wait for a processor."""

_GAP = 0.04  # seconds, while nothing is known
_LONGEST_GAP = 10.0
_STEPS = 9  # of which the middle one counts
_FEWEST = 8  # frames that the window has at least, where there are few a second
_USUAL = 60  # frames that tell what delay is usual
_BLOCK = 1.0  # seconds over which stamps are compared with the clock


def data_wait(waited: float, queued: float, passed_over: int) -> float:
    """Returns the seconds that the reader waited for data, and not for a processor.

    :param waited: the longest of its waits for the frame, and for those that it passed over before it.
    :param queued: seconds of all these waits in which the reader waited for a processor.
    :param passed_over: frames that were passed over, as those of an idle camera are.
    """
    return waited - queued / (1 + passed_over)


class Verdict(NamedTuple):
    """What is known of a frame.

    Attributes:
        lag: seconds by which it came later than by the least delay; 0 where that is not known.
        is_late: whether it is too old to be handed over.
    """

    lag: float
    is_late: bool


class Lateness:
    """Compares when frames come with what their stamps say. Pure logic; one thread at a time.

    A frame's *delay* is its time of arrival minus its stamp, and its *lag* what it has more of that than the least delay of the
    last two seconds of the stream. So the clocks of camera and machine may run apart, and where a network gets slower for good,
    it counts as slower for two seconds only. But the window moves on only with frames that the reader *waited* for. While it
    finds each frame there already, as after a stall or with a decoder that is too slow, it is the reader that lags, and no time
    makes that forgotten. The window is one of stamps, since the clock goes on while the process is stopped.

    A frame is late when it is older than two gaps between frames. Late frames are handed over where it helps nobody to
    wait for others: if the reader waited for two of them in a row, it is the network that is slow; and if they don't get less
    late, the reader is too slow for the stream (`is_hopeless`).

    Stamps need not be times: for MJPEG over HTTP, FFmpeg counts the frames and assumes 25 a second. Such stamps are found out
    after two seconds. From then on frames are late if they come much faster than usual, without the reader having waited.
    """

    def __init__(self) -> None:
        self.is_hopeless = False
        self._begun: float | None = None
        self._opened = False
        self._last_pts: float | None = None
        self._last_came = 0.0
        self._waited_last = False
        self._lag_last = 0.0
        self._least: deque[tuple[float, float]] = deque()  # stamps and delays, both growing: the first is the least one
        self._waited_for: deque[float] = deque(maxlen=_FEWEST)  # stamps
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._ages: deque[float] = deque(maxlen=_USUAL)
        self._pacing = _Pacing()
        self._late_since: tuple[float, float] | None = None
        self._late_last = False

    @property
    def gap(self) -> float:
        """Seconds between two frames."""
        gap = sorted(self._steps)[len(self._steps) // 2] if self._steps else _GAP
        return gap * self._pacing.pace

    def judge(self, pts: float | None, came: float, waited: float, held: float = 0.0) -> Verdict:
        """Judges the next frame.

        :param pts: its stamp, seconds.
        :param came: when it came, seconds.
        :param waited: seconds that the reader waited for its data.
        :param held: seconds since it came.
        """
        waits = waited >= min(max(self.gap, 0.01), 0.1) / WAITED
        waits_still = waits and self._waited_last
        step = None if pts is None or self._last_pts is None else pts - self._last_pts
        if step is not None and 0 < step <= _LONGEST_GAP:
            self._steps.append(step)
        if pts is not None and waits_still:
            self._pacing.note(pts, came)
        lag = 0.0 if pts is None or self._pacing.is_askew else self._lag(pts, came, waits)
        hurries = self._pacing.is_askew and self._hurries(came, waits, waited)
        self._last_pts, self._last_came, self._waited_last, self._lag_last = pts, came, waits, lag
        if not self._opened:
            self._begun = came if self._begun is None else self._begun
            self._opened = waits_still or came - self._begun >= OPENING
            if not self._opened:
                return Verdict(lag, True)
        return Verdict(lag, self._is_late(lag + held, came + held, waits, hurries))

    def _lag(self, pts: float, came: float, waits: bool) -> float:
        delay, least = came - pts, self._least
        if self._last_pts is not None and pts < self._last_pts:  # the stamps begin anew; what lagged goes on lagging
            least.clear()
            self._waited_for.clear()
            least.append((pts, delay - self._lag_last))
        if not least or waits or delay <= least[0][1]:
            while least and least[-1][1] >= delay:
                least.pop()
            least.append((pts, delay))
        if waits:
            self._waited_for.append(pts)
            begin = min(pts - WINDOW, self._waited_for[0])
            while least[0][0] < begin:
                least.popleft()
        since, least_delay = least[0]
        return max(0.0, delay - least_delay - DRIFT * (pts - since))

    def _hurries(self, came: float, waits: bool, waited: float) -> bool:
        """Whether a frame came as one that had piled up; or first after the others did."""
        return waited > 3 * self.gap or (not waits and came - self._last_came < self.gap / 2)

    def _is_late(self, age: float, now: float, waits: bool, hurries: bool) -> bool:
        usual = sorted(self._ages)[len(self._ages) * 4 // 5] if self._ages else 0.0
        is_old = hurries or age > max((OLD if waits else STRICT) * self.gap, min(JITTER, 1.25 * usual))
        is_slow_network = is_old and waits and self._late_last
        self._late_last = is_old and waits
        if waits:
            self._ages.append(age)
        if not is_old:
            self.is_hopeless = False
        if not is_old or is_slow_network:
            self._late_since = None
            return False
        if self._late_since is None:
            self._late_since = now, age
        since, before = self._late_since
        chased = now - since
        if chased >= LONGEST_CHASE or (chased >= STARVED and age > before - chased / 5):
            self.is_hopeless = True
        return not self.is_hopeless


class _Pacing:
    """Finds out stamps that are no times.

    Attributes:
        is_askew: whether they are none.
        pace: how much slower frames come than their stamps say, if they are none; else 1.
    """

    def __init__(self) -> None:
        self.is_askew = False
        self.pace = 1.0
        self._begun: tuple[float, float] | None = None
        self._before = 1.0

    def note(self, pts: float, came: float) -> None:
        """Takes note of a frame for which the reader waited, as it did for the one before."""
        begun_pts, begun_came = self._begun or (pts, came)
        if self._begun is None or pts < begun_pts:
            self._begun = pts, came
        if came - begun_came < _BLOCK:
            return
        pace = (came - begun_came) / (pts - begun_pts) if pts > begun_pts else inf
        self._begun = pts, came
        if not self.is_askew and min(abs(pace - 1), abs(self._before - 1)) > MOST_ASKEW and (pace > 1) == (self._before > 1):
            self.is_askew = True
        self._before = pace
        if self.is_askew:
            self.pace = pace if pace < inf else 1.0  # the stamps stand still
