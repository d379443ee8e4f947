"""The streams of a pipe that clients watch: one tap and one encoder for all who watch a routine at one width."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import HTTPException, Query
from pydantic import BeforeValidator

from pipert_shm.api.preview import picture_of
from pipert_shm.data import Format, FrameData, Meta
from pipert_shm.errors import PipeStateError, UnknownTarget
from pipert_shm.extras import to_install
from pipert_shm.pipe import Pipe
from pipert_shm.routine import Role
from pipert_shm.tap import Tap

if TYPE_CHECKING:
    from pipert_shm.streaming.broadcast import Broadcast, Feed
    from pipert_shm.streaming.pictures import Shown

WIDTH: Literal[1280] = 1280
NEWS_S = 1.0  # how long a routine that sends nothing is waited for, before the answer is given without knowing

Width = Annotated[
    Literal[320, 640, 960, 1280, 1920],
    BeforeValidator(int),  # a query is text
    Query(description="The most pixels in a row. All who watch a routine at one width share an encoder."),
]


def shown_of(payload: Any, meta: Meta, widest: int = WIDTH) -> Shown:
    """What is to be seen of a payload: its frame as it is, or a picture with the boxes of its detections.

    :raises ValueError: when there is nothing.
    """
    from pipert_shm.streaming.pictures import Shown  # with OpenCV, which is heavy
    from pipert_shm.video.detection import DetectedFrame

    if isinstance(payload, np.ndarray):
        frame = payload
    elif isinstance(payload, FrameData) and not (isinstance(payload, DetectedFrame) and len(payload.detections)):
        frame = payload.get_frame()
    else:
        picture = picture_of(payload, meta, widest)
        format: Format | None = (
            None if picture.shape[2:] == (4,) else "gray" if picture.ndim == 2 or picture.shape[2] == 1 else "bgr"
        )
        return Shown(picture, format, meta.captured_ns, meta.origin)
    return Shown(frame, meta.format_of(frame), meta.captured_ns, meta.origin)


def tap_feed(tap: Callable[[], Tap], widest: int) -> Feed:
    """A feed of what a tap gives, with boxes."""
    from pipert_shm.streaming.feeds import TapFeed

    return TapFeed(tap(), partial(shown_of, widest=widest))


class Streams:
    """The broadcasts of a pipe's routines. Any thread."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._broadcasts: dict[tuple[str, int], Broadcast] = {}
        self._closed = False

    def broadcast(self, routine: str, width: int) -> Broadcast:
        """The broadcast of a routine, at this width.

        :raises HTTPException: 501 when PyAV is not installed.
        :raises UnknownTarget: when there is no such routine.
        :raises PipeStateError: when it sends nothing, or the pipe is not built or has ended.
        """
        from pipert_shm.streaming.broadcast import Broadcast
        from pipert_shm.streaming.encoding import StreamSettings, check_encoder

        try:
            check_encoder()
        except ImportError as error:
            raise HTTPException(501, f"streams are encoded by PyAV ({error}): {to_install('pyav')}") from error
        plan = self._pipe._built().plan
        item = plan.find(routine)
        if item is None:
            raise UnknownTarget("routine", routine, plan.present)
        if item.role is Role.DESTINATION:
            raise PipeStateError(f"routine {routine!r} sends nothing that could be seen; watch one that it receives from")
        with self._lock:
            if self._closed:
                raise PipeStateError("the control is ending, or the pipe has ended")
            broadcast = self._broadcasts.get((routine, width))
            if broadcast is None:
                opened = partial(tap_feed, partial(self._pipe.tap, routine), width)
                broadcast = Broadcast(routine, opened, StreamSettings(width), self._pipe.logger)
                self._broadcasts[routine, width] = broadcast
            return broadcast

    @property
    def all(self) -> list[Broadcast]:
        """Those that were watched at some time."""
        return list(self._broadcasts.values())

    def close(self) -> None:
        """Ends all of them."""
        with self._lock:
            self._closed = True
        for broadcast in self.all:
            broadcast.close()


async def require_pictures(broadcast: Broadcast) -> None:
    """Waits for a routine's first picture, if one comes soon.

    :raises HTTPException: 409 when it sends none, or can't be tapped.
    """
    watcher = broadcast.watch()
    try:
        for _ in range(round(NEWS_S / 0.02)):
            if watcher.has_news:
                break
            await asyncio.sleep(0.02)
        if watcher.over or watcher.problem:
            raise HTTPException(409, f"routine {broadcast.name!r}: {watcher.problem or 'it has ended'}")
    finally:
        watcher.close()
