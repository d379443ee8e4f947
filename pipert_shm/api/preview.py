"""Pictures of what a routine sends: made in the parent from the newest frame, and only while a client looks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pipert_shm.api.control import ABSENT, RoutineName
from pipert_shm.api.models import Problem
from pipert_shm.data import FrameData, Meta
from pipert_shm.display.pictures import Mosaic, encoded, scaled
from pipert_shm.errors import PipeStateError, UnknownTarget, describe
from pipert_shm.graph.model import Plan, RoutinePlan
from pipert_shm.pipe import Pipe
from pipert_shm.routine import Role
from pipert_shm.shm.listing import TAPS
from pipert_shm.tap import Tap

WIDEST = 640  # pixels
QUALITY = 75  # of JPEG
PERIOD_S = 0.1  # between two pictures, at least
LINGER_S = 3.0  # a tap is kept for so long after the last one who asked
PATIENCE_S = 5.0  # how long a single picture is waited for
FRESH_S = 1.0  # and how long when there is an older one
REPEAT_S = 5.0  # after which a picture is sent again, so that a client that left is noticed
AGAIN_S = 1.0  # a routine that has ended is tapped again after so long
MOST_WATCHERS = 32
OPENERS = TAPS + 1  # threads that each wait for a tap: one more than there are taps, so that the last gets the refusal

BOX = (80, 220, 80)


def picture_of(payload: Any, meta: Meta | None = None, widest: int = WIDEST) -> np.ndarray:
    """The frame in a payload, scaled down, with the boxes and zones of a `DetectedFrame`: a view of it, or a new array.

    :param meta: of the message, which says the frame's format.
    :param widest: the most pixels in a row.
    :raises ValueError: when there is none.
    """
    from pipert_shm.video.detection import DetectedFrame
    from pipert_shm.video.drawing import draw
    from pipert_shm.video.marks import ZONES, draw_zones

    whole = payload.get_frame() if isinstance(payload, FrameData) else payload
    format = meta.format_of(whole) if meta is not None and isinstance(whole, np.ndarray) else None
    frame, scale = scaled(whole, widest, format)
    if isinstance(payload, DetectedFrame) and (len(payload.detections) or ZONES in payload.additional_data):
        frame = np.array(frame)
        draw(frame, payload.detections.finite().scaled(scale, scale), BOX)
        draw_zones(frame, payload.additional_data, scale)
    return frame


def as_jpeg(payload: Any, meta: Meta | None = None) -> bytes:
    """A payload's picture, encoded.

    :raises ValueError: when there is none.
    """
    return encoded(picture_of(payload, meta), QUALITY)


@dataclass(frozen=True, slots=True)
class Shot:
    """An encoded picture, and its number."""

    number: int
    jpeg: bytes


class Preview:
    """One routine's pictures: a thread that encodes one when somebody has asked since the last.

    Where messages of several cameras pass, each picture is a mosaic of them.

    :param cameras: how many it is known to get messages of.

    Attributes:
        shot: the newest picture; None before the first.
        problem: why there is none.
        over: whether there will be no more.
    """

    def __init__(self, tap: Tap, routine: str, first: int, cameras: int) -> None:
        self.shot: Shot | None = None
        self.problem = ""
        self.over = False
        self._tap = tap
        self._cameras = cameras
        self._mosaic = Mosaic()
        self._number = first
        self._asked_at = time.monotonic()
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"preview-{routine}", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Orders a picture of the newest frame."""
        self._asked_at = time.monotonic()
        self._asked.set()

    def stop(self) -> None:
        """Ends; any thread."""
        self._asked_at = -LINGER_S
        self._tap.close()
        self._asked.set()

    def _work(self) -> None:
        try:
            while time.monotonic() - self._asked_at < LINGER_S:
                if not self._asked.wait(LINGER_S / 4):
                    continue
                began = time.monotonic()
                if self._encode():
                    self._asked.clear()
                    time.sleep(max(0.0, PERIOD_S - (time.monotonic() - began)))
        finally:
            self.over = True
            self._tap.close()

    def _encode(self) -> bool:
        """Whether there is something new to be seen."""
        try:
            jpeg = self._jpeg()
        except TimeoutError:
            return False
        except StopIteration:
            self._asked_at = -LINGER_S
            return False
        except Exception as error:  # of the payload's own code, too: this thread ends in its own way only
            self.problem = str(error) if isinstance(error, ValueError) else describe(error)
            return True
        self._number += 1
        self.shot, self.problem = Shot(self._number, jpeg), ""
        return True

    def _jpeg(self) -> bytes:
        """The newest frame, encoded; of several cameras the newest frames, as tiles.

        :raises TimeoutError, StopIteration: when there is none (yet).
        :raises ValueError: when what is sent is no picture.
        """
        payload, meta = self._read(LINGER_S / 4)
        if not self._mosaic.note(meta.origin) and self._cameras < 2:
            return as_jpeg(payload, meta)
        until, seen = time.monotonic() + PERIOD_S, set[str]()
        while True:  # the tap holds one message, so it is emptied until each camera's has come
            if meta.origin not in seen:
                self._mosaic.put(meta.origin, picture_of(payload, meta))
                seen.add(meta.origin)
            left = until - time.monotonic()
            if left <= 0 or len(seen) >= max(self._cameras, len(self._mosaic)):
                break
            try:
                payload, meta = self._read(left)
            except (TimeoutError, StopIteration):
                break
        return encoded(self._mosaic.picture(), QUALITY) if len(self._mosaic) > 1 else as_jpeg(payload, meta)

    def _read(self, timeout: float) -> tuple[Any, Meta]:
        """The next message, and what is known of it."""
        payload = self._tap.read(timeout)
        assert self._tap.meta is not None
        return payload, self._tap.meta


class Previews:
    """The previews of a pipe that somebody looks at. Any thread.

    Attributes:
        watchers: how many clients watch streams.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._previews: dict[str, Preview] = {}
        self._openings: dict[str, asyncio.Lock] = {}
        self._limiter = CapacityLimiter(OPENERS)
        self._closed = False
        self.watchers = 0

    @property
    def over(self) -> bool:
        """Whether there will be no more pictures."""
        return self._closed or self._pipe._built().gone.is_set()

    async def opened(self, routine: str) -> Preview:
        """The preview of a routine. While one hangs, who asks for it waits, and who asks for another does not.

        :raises UnknownTarget: when there is no such routine.
        :raises PipeStateError: when it sends nothing, does not run, or no tap is left.
        """
        plan = self._pipe._built().plan
        item = plan.find(routine)
        if item is None:
            raise UnknownTarget("routine", routine, plan.present)
        if item.role is Role.DESTINATION:
            raise PipeStateError(f"routine {routine!r} sends nothing that could be seen; look at one that it receives from")
        async with self._openings.setdefault(routine, asyncio.Lock()):
            preview = self._previews.get(routine)
            if preview is None or preview.over:
                before = preview.shot if preview is not None else None
                tap = await to_thread.run_sync(self._pipe.tap, routine, limiter=self._limiter)
                preview = Preview(tap, routine, before.number if before is not None else 0, _sources(plan, item))
                preview.shot = before
                self._previews[routine] = preview
            if self._closed:
                preview.stop()
            return preview

    def close(self) -> None:
        """Ends all of them, and makes those end who watch. Does not wait for one that is just being opened."""
        self._closed = True
        for preview in list(self._previews.values()):
            preview.stop()


def _sources(plan: Plan, item: RoutinePlan) -> int:
    """How many sources' messages may reach a routine."""
    reached, following = {item.number}, [item]
    while following:
        for edge in following.pop().ins:
            if edge.sender not in reached:
                reached.add(edge.sender)
                following.append(plan.routines[edge.sender])
    return sum(not plan.routines[number].ins for number in reached)


# ---- routes --------------------------------------------------------------------------------------

router = APIRouter(tags=["look"])

_UNSEEN = {
    **ABSENT,
    409: {"model": Problem, "description": "There is nothing to be seen: it sends no pictures, or does not run"},
}
_FRESH = {"Cache-Control": "no-store"}


@router.get(
    "/routines/{routine}/preview.jpg",
    response_class=Response,
    responses={
        **_UNSEEN,
        200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
        504: {"model": Problem, "description": "No frame came in time"},
    },
)
async def preview_picture(request: Request, routine: RoutineName) -> Response:
    """The newest frame that a routine sent, as a JPEG at most 640 pixels wide; an older one when none comes within a second.

    Of several cameras, the newest frames in one picture, at most 1280 pixels wide: a tile each, with its name.
    """
    previews: Previews = request.app.state.previews
    shot = await _first(await previews.opened(routine), routine, PATIENCE_S)
    if shot is None:
        raise HTTPException(504, f"routine {routine!r} sent no frame within {PATIENCE_S:g} s")
    return Response(shot.jpeg, media_type="image/jpeg", headers=_FRESH)


@router.get(
    "/routines/{routine}/preview",
    response_class=StreamingResponse,
    responses={
        **_UNSEEN,
        200: {"content": {"multipart/x-mixed-replace": {"schema": {"type": "string", "format": "binary"}}}},
        503: {"model": Problem, "description": "As many as can be are watching already"},
    },
)
async def preview_stream(request: Request, routine: RoutineName) -> StreamingResponse:
    """What a routine sends, as an MJPEG stream for an `<img>`: at most 10 pictures a second, 640 pixels wide.

    Frames of several cameras are in one picture, at most 1280 pixels wide: a tile each, with its name. A client that reads
    slowly misses pictures. At most 32 can watch at a time.
    """
    previews: Previews = request.app.state.previews
    if previews.watchers >= MOST_WATCHERS:
        raise HTTPException(503, f"{MOST_WATCHERS} clients are watching already", {"Retry-After": "5"})
    previews.watchers += 1
    try:
        preview = await previews.opened(routine)
        if preview.shot is None:
            await _first(preview, routine, FRESH_S)  # an error now is told as an answer
    except BaseException:
        previews.watchers -= 1
        raise
    return _Stream(previews, _parts(previews, routine, preview))


async def _first(preview: Preview, routine: str, patience_s: float) -> Shot | None:
    """A picture, fresh if it may be.

    :raises HTTPException: when what the routine sends is none.
    """
    old = preview.shot
    preview.ask()
    deadline = time.monotonic() + (patience_s if old is None else FRESH_S)
    while preview.shot is old and not (preview.over or preview.problem) and time.monotonic() < deadline:
        await asyncio.sleep(PERIOD_S / 5)
    if preview.problem:
        raise HTTPException(409, f"routine {routine!r}: {preview.problem}")
    return preview.shot


class _Stream(StreamingResponse):
    """A watcher, until it ends in whatever way."""

    def __init__(self, previews: Previews, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, media_type="multipart/x-mixed-replace; boundary=frame", headers=_FRESH)
        self._previews = previews

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._previews.watchers -= 1


async def _parts(previews: Previews, routine: str, preview: Preview) -> AsyncIterator[bytes]:
    seen: Shot | None = None
    sent_at = 0.0
    while not (previews.over or preview.problem):
        preview.ask()
        await asyncio.sleep(PERIOD_S / 4)
        shot, now = preview.shot, time.monotonic()
        if shot is not None and (shot is not seen or now - sent_at > REPEAT_S):
            seen, sent_at = shot, now
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(shot.jpeg)}\r\n\r\n"
            yield head.encode() + shot.jpeg + b"\r\n"
        elif preview.over:
            await asyncio.sleep(AGAIN_S)
            try:
                preview = await previews.opened(routine)
            except PipeStateError:
                continue  # it has ended, or its flow is being restarted
            except UnknownTarget:
                return  # it was removed
