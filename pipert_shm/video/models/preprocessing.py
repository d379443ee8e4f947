"""How a frame becomes a network's input, and how detections come back from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipert_shm.errors import shown
from pipert_shm.limits import is_count, is_number
from pipert_shm.video.detection import Detections

Fit = Literal["letterbox", "stretch", "crop"]
Colours = Literal["rgb", "bgr"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies in a network's input.

    Attributes:
        frame: width and height of the frame, pixels.
        region: left, top, right and bottom of the frame in the input. Of a frame that is cropped they lie outside of it.
        scale: pixels of the input for a pixel of the frame, across and down.
    """

    frame: tuple[int, int]
    region: tuple[int, int, int, int]
    scale: tuple[float, float]

    def restored(self, found: Detections) -> Detections:
        """Returns the detections in pixels of the frame. Boxes are cut off at its edges.

        :param found: in pixels of the input.
        """
        (across, down), (left, top, _, _) = self.scale, self.region
        return found.moved(-left, -top).scaled(1 / across, 1 / down).clipped(*self.frame)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects of the pictures that it gets. Each pixel becomes `(pixel * scale - mean) / std`.

    Attributes:
        scale: factor for the pixels, which are from 0 to 255.
        mean: what is subtracted from each channel then, in the order of the network's channels.
        std: what each channel is divided by then.
        colours: order of the network's channels: `rgb` or `bgr`.
        fit: `letterbox` shows all of the frame in its proportions, and fills the rest with grey; `stretch` scales width and
            height by themselves; `crop` fills the input in the frame's proportions, and cuts off what is too much, on both
            sides alike.
        centred: whether a frame that is letterboxed lies in the middle, and not at the top left.
        padding: the grey around a frame that is letterboxed, 0 to 255.
        antialias: whether each pixel of a smaller picture is the mean of those that it stands for, as in torchvision and
            Pillow. Otherwise it is that of the four next to it, as in OpenCV.
        margin: with `crop`, the shorter side of the network's input over the shorter side of the frame that is scaled: 0.875
            where a network of 224 pixels sees the middle of a picture of 256.

    :raises ValueError: when a value is out of range.

    >>> Preprocessing().place((1280, 720), (640, 640)).region
    (0, 140, 640, 500)
    >>> Preprocessing(fit="crop").place((1280, 720), (224, 224)).region
    (-87, 0, 311, 224)
    """

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    colours: Colours = "rgb"
    fit: Fit = "letterbox"
    centred: bool = True
    padding: int = 114
    antialias: bool = False
    margin: float = 1.0

    def __post_init__(self) -> None:
        if not is_number(self.scale) or not 0 < self.scale <= 1:
            raise ValueError(f"scale is a factor for pixels, above 0 and up to 1, not {shown(self.scale)}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _checked_three(name, getattr(self, name)))
        if 0 in self.std:
            raise ValueError("std is what the pixels are divided by, and can't be 0")
        for name, choices in (("colours", get_args(Colours)), ("fit", get_args(Fit))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {shown(getattr(self, name))}")
        if not is_count(self.padding, 0) or self.padding > 255:
            raise ValueError(f"padding is a grey from 0 to 255, not {shown(self.padding)}")
        if not is_number(self.margin) or not 0 < self.margin <= 1:
            raise ValueError(f"margin is a share above 0 and up to 1, not {shown(self.margin)}")

    def place(self, frame: tuple[int, int], size: tuple[int, int], *, even: bool = False) -> Placement:
        """Returns where a frame lies in a network's input.

        :param frame: width and height of the frame, pixels.
        :param size: width and height of the input.
        :param even: whether the scaled frame must have an even width and height, as one of a planar format.
        """
        (width, height), (across, down) = frame, size
        if self.fit == "stretch":
            return Placement(frame, (0, 0, across, down), (across / width, down / height))
        if self.fit == "crop":
            short = round(max(across / width, down / height) * min(frame) / self.margin)
            ratio = short / min(frame)
            fitted = max(across, int(width * ratio)), max(down, int(height * ratio))
            left, top = -round((fitted[0] - across) / 2), -round((fitted[1] - down) / 2)
        else:
            ratio = min(across / width, down / height)
            fitted = max(1, round(width * ratio)), max(1, round(height * ratio))
            left, top = 0, 0
        if even and (fitted[0] % 2 or fitted[1] % 2):
            fitted = max(2, fitted[0] & ~1), max(2, fitted[1] & ~1)
        if self.fit == "letterbox" and self.centred:
            left, top = (
                round((whole - part) / 2 - 0.1) for whole, part in zip(size, fitted, strict=True)
            )  # as Ultralytics does
        region = left, top, left + fitted[0], top + fitted[1]
        return Placement(frame, region, (fitted[0] / width, fitted[1] / height))


def _checked_three(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or len(values) != 3 or not all(map(is_number, values)):
        raise ValueError(f"{name} has three numbers, one for each channel, not {shown(values)}")
    return tuple(map(float, values))
