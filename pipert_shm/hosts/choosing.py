"""Which codec suits the link and the processor: what `codec="auto"` decides, from measurements, without I/O or clocks."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

LadderCodec = Literal["none", "jpeg", "h264"]
LADDER: tuple[LadderCodec, ...] = ("none", "jpeg", "h264")
"""From the cheapest for the processors to the smallest for the link."""

PERIOD = 1.0  # seconds between two decisions
FEWEST = 5  # messages of a period that say something
SHARE_OF_LINK, SHARE_OF_TIME = 0.8, 0.7  # that pictures may take
ENOUGH = 0.95  # of the rate at which pictures come, with which a codec counts as keeping up
CLEARLY = 1.15  # times as many pictures for which another codec is taken
BEHIND = 0.1  # share of messages that had to be dropped, or of the time that was waited
FIRST_CALM, LONGEST_CALM = 5, 320  # periods in which a cheaper codec must fit before it is tried; doubled when that was wrong
REGRET = 10  # periods within which going back says that it was wrong
JITTER_S = 0.0005  # of a trip that says nothing of the link
GUESSED: dict[LadderCodec, float] = {"none": 1.0, "jpeg": 0.1, "h264": 0.005}  # size of what was never tried, against raw


@dataclass(frozen=True, slots=True)
class Chosen:
    """Another codec, and why."""

    codec: LadderCodec
    why: str


class CodecChoice:
    """Chooses among raw, JPEG and H.264 by how many pictures a second each would bring through. Times are in seconds.

    That is the least of three: the rate at which pictures come, what the link carries of their size, and what the processor
    encodes. The cheapest codec that keeps up is taken; if none does, the one that brings the most. It begins with JPEG, since
    a raw picture may hold up a slow link for seconds.

    The link's rate is what was acknowledged while it was the bottleneck. Else it is estimated from how long single messages
    took, beyond a trip without a body. If the receiver is the bottleneck no codec helps, and all stays as it is.
    """

    def __init__(self) -> None:
        self.codec: LadderCodec = "jpeg"
        self.link = math.inf  # bytes a second
        self._sizes: dict[LadderCodec, float] = {}
        self._costs: dict[LadderCodec, float] = {}
        self._shortest: float | None = None
        self._calm, self._calm_needed = 0, FIRST_CALM
        self._since_cheaper = LONGEST_CALM  # periods since a cheaper one was taken
        self._raw = 0.0
        self._began: float | None = None
        self._begin(0.0)
        self._began = None

    def _begin(self, now: float) -> None:
        self._began = now
        self._offered = self._dropped = self._acknowledged = self._answers = self._queued = 0
        self._waited = 0.0
        self._rates: list[float] = []

    def note_offered(self, *, dropped: bool, waited: float) -> None:
        """A message came, and waited so long for its turn; or was dropped since it had none."""
        self._offered += 1
        self._dropped += dropped
        self._waited += waited

    def note_encoded(self, raw: int, encoded: int, seconds: float) -> None:
        """A message's pictures were encoded: bytes before and after, and how long it took."""
        self._raw = raw
        for known, new in ((self._sizes, float(encoded)), (self._costs, seconds)):
            before = known.get(self.codec)
            known[self.codec] = new if before is None else before + (new - before) / 8

    def note_trip(self, size: int, seconds: float) -> None:
        """A message of so many bytes was acknowledged, and so long it took, without what the receiver took.

        :param size: 0 where it had no body: these say how long a trip takes at least.
        """
        if not size:
            self._shortest = seconds if self._shortest is None else min(self._shortest, seconds)
        elif self._shortest is not None:
            self._rates.append(size / (max(seconds - self._shortest, 0) + JITTER_S))

    def note_acknowledged(self, size: int, waiting: int) -> None:
        """So many bytes are with the receiver, where so many messages wait to be taken."""
        self._acknowledged += size
        self._answers += 1
        self._queued += waiting > 0

    def choose(self, now: float) -> Chosen | None:
        """Returns another codec if one suits better. To be called at each message."""
        if self._began is None:
            self._begin(now)
            return None
        elapsed = now - self._began
        if elapsed < PERIOD or self._offered < FEWEST:
            return None
        chosen = self._decide(elapsed)
        self._begin(now)
        return chosen

    def _decide(self, elapsed: float) -> Chosen | None:
        self._since_cheaper += 1
        behind = max(self._dropped / self._offered, self._waited / elapsed) > BEHIND
        if behind and self._queued > self._answers / 2:
            return None  # the receiver is slow
        if behind:
            self.link = self._acknowledged / elapsed
        elif self._rates:
            median = statistics.median(self._rates)
            self.link = median if math.isinf(self.link) else self.link + (median - self.link) / 2
        fps = self._offered / elapsed
        found = {codec: self._brings(codec, fps) for codec in LADDER}
        best = next((codec for codec in LADDER if found[codec] >= ENOUGH * fps), max(LADDER, key=found.__getitem__))
        if best == self.codec:
            self._calm = 0
            return None
        if LADDER.index(best) > LADDER.index(self.codec) or found[self.codec] < ENOUGH * fps:
            return self._dearer(best, fps, found) if behind or found[self.codec] * CLEARLY < found[best] else None
        self._calm += 1
        if behind or self._calm < self._calm_needed:
            return None
        self._since_cheaper = 0
        return self._taken(best, fps)

    def _dearer(self, best: LadderCodec, fps: float, found: dict[LadderCodec, float]) -> Chosen | None:
        if found[best] < CLEARLY * found[self.codec]:
            return None
        if self._since_cheaper <= REGRET:
            self._calm_needed = min(2 * self._calm_needed, LONGEST_CALM)
        return self._taken(best, fps)

    def _taken(self, codec: LadderCodec, fps: float) -> Chosen:
        why = (
            f"{self.codec} needs {self._needs(self.codec, fps)}, {codec} {self._needs(codec, fps)}, "
            f"and the link carries {8e-6 * self.link:.3g} Mbit/s"
        )
        self.codec, self._calm = codec, 0
        return Chosen(codec, why)

    def _needs(self, codec: LadderCodec, fps: float) -> str:
        cost = self._costs.get(codec)
        told = f"{8e-6 * self._size(codec) * fps:.3g} Mbit/s at {fps:.3g} messages a second"
        return told if cost is None else f"{told} and {1000 * cost:.2g} ms of processor time for each"

    def _size(self, codec: LadderCodec) -> float:
        if codec == "none":
            return self._raw
        return self._sizes.get(codec, GUESSED[codec] * self._raw)

    def _brings(self, codec: LadderCodec, fps: float) -> float:
        """Messages a second."""
        size, cost = self._size(codec), self._costs.get(codec, 0.0)
        by_link = SHARE_OF_LINK * self.link / size if size else math.inf
        return min(fps, by_link, SHARE_OF_TIME / cost if cost else math.inf)
