"""What is sent, how often, and the sheet on which the processes of a measurement note what came of it.

A sender has its frames ready before the clock starts. At each tick of its pace it notes the time and hands over the next one;
the receiver notes the time as soon as it holds a numpy view of the frame. The notes stand in memory that all processes map,
where they disturb nobody. A tick whose predecessor is still on its way is skipped, by every way alike: so no time is spent in
a queue, and a way that can't keep the pace shows its own cost. Flat out there are no ticks: the queue, of `DEPTH` messages, is
kept full, and nothing may be lost.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass, field

import numpy as np

FRAMES = 6  # distinct frames that are sent in turn: more than can be on their way at once
FEWEST = 12  # frames that each round sends, however long it takes
DEPTH = 2  # messages that a queue holds
WARM_UP = 0.1  # share of each round that is not counted, and no less than one turn of the frames
MOST = 400_000  # frames of one round
HEADER = 64

Shape = tuple[int, ...]
SIZES: dict[str, Shape] = {
    "VGA": (480, 640, 3),
    "1080p": (1080, 1920, 3),
    "4K": (2160, 3840, 3),
    "8K": (4320, 7680, 3),
}


@dataclass(frozen=True)
class Load:
    """What one round offers.

    Attributes:
        shapes: of the frames, in turn.
        fps: how often one is offered; 0: flat out.
        seconds: how long.
        written: whether the source writes every byte of each frame first; else they lie ready.
        payload: `frame`, or what carries it: `dataclass`, or `dict` for a small dict with no frame.
        skips: whether a tick is skipped while the last frame is on its way; else frames are offered whatever becomes of them.
    """

    size: str
    fps: int = 30
    seconds: float = 1.2
    written: bool = False
    payload: str = "frame"
    skips: bool = True
    shapes: tuple[Shape, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.shapes:
            object.__setattr__(self, "shapes", (SIZES[self.size],))

    def shape(self, number: int) -> Shape:
        return self.shapes[number % len(self.shapes)]

    @property
    def largest(self) -> Shape:
        return max(self.shapes, key=lambda shape: int(np.prod(shape)))

    @property
    def frame_bytes(self) -> int:
        return int(np.prod(self.largest))

    @property
    def period_ns(self) -> int:
        return 1_000_000_000 // self.fps if self.fps else 0

    @property
    def ticks(self) -> int:
        return round(self.seconds * self.fps)

    @property
    def pace(self) -> str:
        return {0: "flat out", 1000: "1 kHz"}.get(self.fps, f"{self.fps} fps") + (", written" if self.written else "")

    def frames(self) -> list[np.ndarray]:
        """What is sent, in private memory."""
        return [np.full(self.shape(number), number, np.uint8) for number in range(FRAMES)]


class Sheet:
    """What one round of one way came to, in memory that its processes share.

    :param receivers: how many there are; each has a column of its own.
    :param together: whether all ends are threads of one process.
    """

    SENT, OVER, READY, BEGUN = range(4)
    WRONG, RECEIVED, CPU = 8, 16, 32  # per receiver; CPU: two words a process, the sender's first

    def __init__(self, load: Load, receivers: int = 1, *, together: bool = False) -> None:
        self.load = load
        self.receivers = receivers
        self._clock = time.thread_time_ns if together else time.process_time_ns
        self.room = MOST if not load.fps else load.ticks + FEWEST + 1
        self._words = np.frombuffer(mmap.mmap(-1, (HEADER + self.room * (1 + receivers)) * 8), np.int64)
        self._sent_ns = self._words[HEADER : HEADER + self.room]
        self._received_ns = self._words[HEADER + self.room :].reshape(receivers, self.room)

    # ---- the sender's ----------------------------------------------------------------------------

    @property
    def sent(self) -> int:
        return int(self._words[self.SENT])

    def is_full(self, ticks: int) -> bool:
        """Whether the round ends after so many ticks."""
        if self.sent >= self.room - 1:
            return True
        if self.load.fps:
            return ticks >= self.load.ticks and self.sent >= FEWEST
        begun = int(self._words[self.BEGUN])
        if not begun:
            self._words[self.BEGUN] = time.monotonic_ns()
            return False
        return self.sent >= FEWEST and time.monotonic_ns() - begun > self.load.seconds * 1e9

    def may_send(self) -> bool:
        """Whether the sender is to send at this tick; not so while the last frame is on its way."""
        return (
            not (self.load.fps and self.load.skips)
            or int(self._words[self.RECEIVED : self.RECEIVED + self.receivers].min()) >= self.sent
        )

    def stamp(self) -> int:
        """Notes that the next frame is being sent, and says which one it is."""
        number = self.sent
        if number == FRAMES:
            self.mark(0)
        self._words[self.SENT] += 1
        self._sent_ns[number] = time.monotonic_ns()
        return number

    # ---- the receiver's --------------------------------------------------------------------------

    def note(self, frame: np.ndarray | None, number: int | None = None, at: int = 0, now: int | None = None) -> None:
        """Notes that a receiver holds a frame, the next one unless it says which.

        :param frame: None where the message carries none.
        :param now: since when, if not just now.
        """
        now = now or time.monotonic_ns()
        if number is None:
            number = self.received(at)
        if self.received(at) == FRAMES:
            self.mark(1 + at)
        self._received_ns[at, number] = now
        if frame is not None:
            expected = number % FRAMES
            right = frame.shape == self.load.shape(number) and frame[0, 0, 0] == frame[-1, -1, -1] == expected
            self._words[self.WRONG + at] += not right
        self._words[self.RECEIVED + at] += 1

    def received(self, at: int = 0) -> int:
        return int(self._words[self.RECEIVED + at])

    def mark(self, process: int, *, end: bool = False) -> None:
        """Notes the processor time of the caller so far: of the sender (0), or of a receiver (1 + its number)."""
        self._words[self.CPU + 2 * process + end] = self._clock()

    # ---- what all wait for -----------------------------------------------------------------------

    def set(self, flag: int) -> None:
        self._words[flag] = 1

    def wait_for(self, flag: int) -> None:
        while not self._words[flag]:
            time.sleep(0.001)

    # ---- afterwards ------------------------------------------------------------------------------

    @property
    def wrong(self) -> int:
        """Frames that were not what had been sent."""
        return int(self._words[self.WRONG : self.WRONG + self.receivers].sum())

    @property
    def _first(self) -> int:
        return min(max(FRAMES, round(self.sent * WARM_UP)), self.sent // 2)

    def numbers(self, at: int = 0) -> np.ndarray:
        """Of the frames that were received, after the warm-up."""
        first = self._first
        return first + np.flatnonzero(self._received_ns[at, first : self.sent])

    def times(self, at: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """When each frame was sent, and received; 0 where it was not. Also while frames are being sent."""
        sent = self.sent
        return self._sent_ns[:sent], self._received_ns[at, :sent]

    def latencies_us(self, at: int = 0) -> np.ndarray:
        """Of the frames after the warm-up."""
        numbers = self.numbers(at)
        latencies: np.ndarray = (self._received_ns[at, numbers] - self._sent_ns[numbers]) / 1000
        return latencies

    @property
    def first_received_ns(self) -> int:
        """When the first frame was there, CLOCK_MONOTONIC."""
        return int(self._received_ns[0, 0])

    def rate(self, at: int = 0) -> float:
        """Frames received per second, after the warm-up."""
        times = self._received_ns[at, self.numbers(at)]
        return (len(times) - 1) / ((times[-1] - times[0]) / 1e9) if len(times) > 1 else 0.0

    def cpu_us(self, process: int) -> float:
        """Processor time per frame of one process: 0 the sender's, 1 and more the receivers'; after the first turn."""
        begin, end = self._words[self.CPU + 2 * process : self.CPU + 2 * process + 2]
        frames = (self.sent if process == 0 else self.received(process - 1)) - FRAMES
        return float(end - begin) / 1000 / frames if begin and end and frames > 0 else float("nan")

    @property
    def cpu_both_us(self) -> float:
        """Processor time per frame of the sender and of all receivers."""
        return sum(self.cpu_us(process) for process in range(1 + self.receivers))

    @property
    def words(self) -> np.ndarray:
        """For the control, which is written in C."""
        words: np.ndarray = self._words
        return words
