"""Loads a network, with the library that the user chose or the one that can run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pipert_shm.extras import to_install
from pipert_shm.video.models.choice import Choice
from pipert_shm.video.models.description import ModelDescription, TensorInfo

Size: TypeAlias = tuple[int, int]
Outputs: TypeAlias = Sequence[np.ndarray]
More: TypeAlias = Mapping[str, np.ndarray]
Run: TypeAlias = Callable[[np.ndarray, More], Outputs]

USUAL_SIZE = (640, 640)  # of a network that takes any, and says nothing


class _WrongChannels(ValueError):
    """The network does not take pictures as (batch, 3, height, width)."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A network that is loaded.

    Attributes:
        run: takes (n, 3, height, width) float32, and what the network takes besides, by the names of these inputs. Returns the
            outputs in the network's order, whose first axis is n.
        size: width and height of its input, pixels.
        backend: the library: `onnxruntime`, `opencv`, `openvino` or `torch`.
        devices: what runs it, in the order in which it is asked: onnxruntime's providers; with the others a device.
        trial: the outputs for one image, which is black on the left and white on the right.
        description: what the network says of itself, with the shapes of that trial; None if it is not known.
        notes: warnings for the user.
    """

    run: Run
    size: Size
    backend: str
    devices: tuple[str, ...]
    trial: Outputs
    description: ModelDescription | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a network is loaded for.

    Attributes:
        model: its file.
        size: width and height of its input, pixels; None for its own.
        batch: the most images in one run.
        choice: what the user says of the library and the device.
        more: makes what the network takes besides the images, for so many images of a size; None for what is known of such
            networks.
    """

    model: Path
    size: Size | None
    batch: int
    choice: Choice
    more: Callable[[int, Size], More] | None = None

    def more_inputs(self, description: ModelDescription | None, count: int, size: Size) -> More:
        """What the network takes besides the images."""
        from pipert_shm.video.models.choosing import extra_inputs

        if self.more is not None:
            return self.more(count, size)
        return {} if description is None else extra_inputs(description, count, size)


def load(wanted: Wanted) -> Runtime:
    """Loads a network. It is run once.

    :raises ValueError: when the network can't be read, or can't be run on the wanted device.
    :raises ImportError: when the library is not installed.
    """
    from pipert_shm.video.models.by_onnxruntime import by_onnxruntime
    from pipert_shm.video.models.by_opencv import by_opencv

    choice = wanted.choice
    if choice.backend == "openvino":
        from pipert_shm.video.models.by_openvino import by_openvino

        return by_openvino(wanted)
    if choice.backend == "opencv":
        try:
            return by_opencv(wanted)
        except ValueError as error:
            raise ValueError(f"{error}; backend='onnxruntime' may") from error
    if choice.wants_onnxruntime:
        return by_onnxruntime(wanted)
    return _first_that_can(wanted, by_onnxruntime, by_opencv)


def _first_that_can(
    wanted: Wanted, by_onnxruntime: Callable[[Wanted], Runtime], by_opencv: Callable[[Wanted], Runtime]
) -> Runtime:
    """Onnxruntime if it is installed, and OpenCV for what it refuses, such as a size that its file does not tell of."""
    if find_spec("onnxruntime") is None:
        try:
            return by_opencv(wanted)
        except ValueError as error:
            raise ValueError(f"{error}; onnxruntime may: {to_install('onnx')}") from error
    try:
        return by_onnxruntime(wanted)
    except _WrongChannels:  # OpenCV does not look at them, and might find anything
        raise
    except ValueError as error:
        refusal = error
    try:
        runtime = by_opencv(wanted)
    except ValueError as error:
        raise ValueError(f"{refusal}; and {error}") from error
    return replace(runtime, notes=(f"{refusal}; so OpenCV runs it", *runtime.notes))


def trial_image(size: Size) -> np.ndarray:
    """An image that is black on the left and white on the right, (1, 3, height, width) float32."""
    return np.broadcast_to(np.linspace(0, 1, size[0], dtype=np.float32), (1, 3, size[1], size[0])).copy()


def one_by_one(run: Run) -> Run:
    """Runs each image of a batch by itself."""

    def run_all(blob: np.ndarray, more: More) -> Outputs:
        if len(blob) == 1:
            return run(blob, more)
        parts = [slice(number, number + 1) for number in range(len(blob))]
        results = [run(blob[part], {name: values[part] for name, values in more.items()}) for part in parts]
        return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]

    return run_all


_INPUTS = ("float32", "float16")


def check_input(description: ModelDescription, model: Path, more: More, *, any_batch: bool = False) -> TensorInfo:
    """Returns the input that takes the images.

    :param more: what the network gets besides.
    :param any_batch: whether a batch axis of a fixed size can be changed.
    :raises ValueError: when the input is not (batch, 3, height, width) of floats, or the network takes more than it gets.
    """
    shapes = ", ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in description.inputs)
    images = [each for each in description.inputs if each.name not in more]
    if len(images) != 1 or len(images[0].shape) != 4 or images[0].dtype not in _INPUTS:
        raise ValueError(
            f"the model {str(model)!r} takes {shapes}; it must take one image of floats, (batch, 3, height, width)"
        )
    batch, channels, *_ = images[0].shape
    if isinstance(channels, int) and channels != 3:
        raise _WrongChannels(f"the model {str(model)!r} takes {shapes}; it must take three channels, (batch, 3, height, width)")
    if isinstance(batch, int) and batch != 1 and not any_batch:
        raise ValueError(f"the model {str(model)!r} takes batches of {batch} only; export it with a free batch axis, or of 1")
    return images[0]


def input_size(image: TensorInfo, wanted: Wanted, told: Size | None) -> Size:
    """Width and height of the network's input.

    :param told: what the network's metadata say.
    :raises ValueError: when the network does not take the wanted size.
    """
    width, height = wanted.size or told or USUAL_SIZE
    fixed_height, fixed_width = image.shape[2:]
    size = (
        fixed_width if isinstance(fixed_width, int) else width,
        fixed_height if isinstance(fixed_height, int) else height,
    )
    if wanted.size is not None and size != tuple(wanted.size):
        raise ValueError(
            f"the model {str(wanted.model)!r} takes {size[0]}x{size[1]} pixels, not {width}x{height}: give size={size}"
        )
    return size
