"""Makes a network's input of frames of any sizes and formats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipert_shm.data import Format
from pipert_shm.video.formats import converted, eight_bits, is_planar, resized, size_of
from pipert_shm.video.models.preprocessing import Placement, Preprocessing
from pipert_shm.video.opencv import cv2


class Letterbox:
    """Scales frames to a network's input, pads or cuts them, and makes numbers of the pixels, as the network expects it.

    OpenCV's `blobFromImages` takes ten times as long for the last step.

    :param preprocessing: what the network expects.
    :param size: width and height of its input, pixels.
    """

    def __init__(self, preprocessing: Preprocessing, size: tuple[int, int]) -> None:
        self.preprocessing = preprocessing
        self.size = size
        width, height = size
        self._canvas = np.full((height, width, 3), preprocessing.padding, np.uint8)
        self._region: tuple[int, int, int, int] | None = None  # that the last frame took of the canvas
        self._planes = [np.empty((height, width), np.uint8) for _ in range(3)]
        self._blob = np.empty((0, 3, height, width), np.float32)
        mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
        self._factors = (preprocessing.scale / std).astype(np.float32)
        self._shifts = (-mean / std).astype(np.float32)

    def blob(self, frames: Sequence[np.ndarray], formats: Sequence[Format]) -> tuple[np.ndarray, list[Placement]]:
        """Returns the network's input, (n, 3, height, width) float32, and where each frame lies in it.

        The array is overwritten by the next call.

        :param formats: of each frame.
        """
        if len(self._blob) < len(frames):
            self._blob = np.empty((len(frames), *self._blob.shape[1:]), np.float32)
        blob = self._blob[: len(frames)]
        placements = [self._fill(*each) for each in zip(frames, formats, blob, strict=True)]
        return blob, placements

    def _fill(self, frame: np.ndarray, format: Format, image: np.ndarray) -> Placement:
        """Puts a frame into its place of the network's input, (3, height, width) float32.

        It is scaled first, and then converted: that costs less. Of a planar frame, the small one has an even size, too.
        """
        placement = self.preprocessing.place(size_of(frame, format), self.size, even=is_planar(format))
        left, top, right, bottom = placement.region
        if self._region != placement.region:
            self._canvas.fill(self.preprocessing.padding)
            self._region = placement.region
        order: Format = format if format in ("bgr", "rgb") else self.preprocessing.colours
        place = self._canvas[max(top, 0) : bottom, max(left, 0) : right]
        fitted = right - left, bottom - top
        method = cv2.INTER_AREA if self.preprocessing.antialias and placement.scale[0] < 1 else cv2.INTER_LINEAR
        if place.shape[:2] == fitted[::-1] and format == order and frame.dtype == np.uint8:
            resized(frame, format, fitted, place, method)
        else:
            small = converted(eight_bits(resized(frame, format, fitted, None, method)), format, order)
            x, y = max(-left, 0), max(-top, 0)
            place[...] = small[y : y + place.shape[0], x : x + place.shape[1]]
        cv2.split(self._canvas, self._planes)
        planes = self._planes if order == self.preprocessing.colours else self._planes[::-1]
        for plane, channel, factor, shift in zip(planes, image, self._factors, self._shifts, strict=True):
            np.multiply(plane, factor, out=channel)
            if shift:
                channel += shift
        return placement
