"""The options of decoders."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

from pipert_shm.errors import shown
from pipert_shm.limits import is_count, is_number

SkipFrame: TypeAlias = Literal["noref", "nokey"]
SkipLoopFilter: TypeAlias = Literal["noref", "nokey", "all"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How PyAV is to decode. All of it is for PyAV only.

    Attributes:
        threads: of the decoder; None for as many as are good.
        skip_frame: pictures that are left out: `noref`, those that no other needs, or `nokey`, all but key frames.
        skip_loop_filter: pictures whose edges between blocks are not smoothed.
        low_delay: whether the decoder gives each picture at once, in the order of the stream.
        hwaccel: FFmpeg's name of hardware that decodes, or `auto`; None for the CPU.
        idle: seconds of stillness after which key frames will do; None for never.
    """

    threads: int | None = None
    skip_frame: SkipFrame | None = None
    skip_loop_filter: SkipLoopFilter | None = None
    low_delay: bool | None = None
    hwaccel: str | None = None
    idle: float | None = None

    def check(self) -> None:
        """:raises ValueError: when an option is out of range."""
        if self.threads is not None and not is_count(self.threads):
            raise ValueError(f"threads must be at least 1, or None, not {shown(self.threads)}")
        for name, kind in ("skip_frame", SkipFrame), ("skip_loop_filter", SkipLoopFilter):
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, or None, not {shown(value)}")
        if not (self.low_delay is None or isinstance(self.low_delay, bool)):
            raise ValueError(f"low_delay must be True, False or None, not {shown(self.low_delay)}")
        if self.hwaccel is not None and not (isinstance(self.hwaccel, str) and self.hwaccel):
            raise ValueError(f"hwaccel must be 'auto', or a name such as 'cuda', not {shown(self.hwaccel)}")
        if self.idle is not None and not (is_number(self.idle) and 0 < self.idle < float("inf")):
            raise ValueError(f"idle must be a number of seconds, more than 0, or None, not {shown(self.idle)}")
        if self.idle is not None and self.skip_frame == "nokey":
            raise ValueError("skip_frame='nokey' leaves nothing for idle to do: give one of the two")

    @property
    def given(self) -> list[str]:
        """Names of the options that were given."""
        return [each.name for each in fields(self) if getattr(self, each.name) is not None]
