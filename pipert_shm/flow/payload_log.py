"""The log's pictures of what a routine receives and sends, while the event `log_data` has them switched on."""

from __future__ import annotations

import base64

import numpy as np

from pipert_shm import binding
from pipert_shm.data import FrameData, Meta
from pipert_shm.display.pictures import encoded, picture_shape, scaled
from pipert_shm.errors import LONGEST_TEXT, shown
from pipert_shm.flow.context import Context
from pipert_shm.system import forked

BETWEEN_PICTURES_NS = 200_000_000  # that are logged of one kind: enough for somebody who watches
PICTURE_SIZES = (320, 160, 80)  # pixels of the longer side, tried until a picture fits into a record
QUALITIES = (70, 45, 20)  # of JPEG, likewise


class PayloadLog:
    """Logs a routine's payloads, where it is switched on.

    Attributes:
        on: whether it is. The record keeps this too, so that a flow that is restarted goes on logging.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._record = context.record
        self._last_ns: dict[str, int] = {}  # when the last payload of each kind was logged
        self.on = self._record.shows

    def switch(self) -> None:
        """Switches it on, or off. Any thread."""
        self.on = not self.on
        self._record.shows = self.on

    def log(self, kind: str, payload: object, meta: Meta) -> None:
        """Logs a payload, unless one of its kind was logged just now. Raises nothing: the message goes on in any case.

        :param kind: `input` or `output`.
        :param meta: of the message, which says the frame's format.
        """
        now = binding.now_ns()
        if now - self._last_ns.get(kind, 0) < BETWEEN_PICTURES_NS:
            return
        self._last_ns[kind] = now
        try:
            frame = payload.get_frame() if isinstance(payload, FrameData) else payload
            text = f"{frame.dtype} array {frame.shape}" if isinstance(frame, np.ndarray) else shown(frame)
            picture = as_picture(frame, meta.format_of(frame)) if isinstance(frame, np.ndarray) else None
        except BaseException as error:  # get_frame() is the user's, and may raise anything; OpenCV may not load
            forked.end_if_stray(self._context.home, error)
            self._context.failures.tell(f"{kind} can't be logged", error)
        else:
            self._context.logger.info("%s: %s", kind, text, extra={"image_base64": picture})


def as_picture(frame: np.ndarray, format: str | None = None) -> str | None:
    """A frame as a JPEG in base64, small enough for a log record; None for what is no picture.

    Its longer side has 320 pixels at most. Where a frame has much detail, the quality is reduced, and then the size.

    :param format: of the frame, as `Meta.format_of` says it.
    """
    try:
        for longest in PICTURE_SIZES:
            height, width = picture_shape(frame, format)
            picture, _ = scaled(frame, max(1, longest * width // max(height, width, 1)), format)
            for quality in QUALITIES:
                text = base64.b64encode(encoded(picture, quality)).decode()
                if len(text) <= LONGEST_TEXT:
                    return text
    except ValueError:  # raised by `encoded` for what OpenCV can't encode; OpenCV's own errors are none
        return None
    return None
