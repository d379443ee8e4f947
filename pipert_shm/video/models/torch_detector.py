"""A detector that runs a PyTorch module."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipert_shm.errors import shown
from pipert_shm.limits import is_count
from pipert_shm.video.models.by_torch import by_torch, title_of
from pipert_shm.video.models.choice import MOST_THREADS
from pipert_shm.video.models.head import AnyHead, Head
from pipert_shm.video.models.network_detector import NetworkDetector
from pipert_shm.video.models.runtime import Runtime, Size
from pipert_shm.video.models.torchvision_head import OUTPUTS, THRESHOLD, TorchvisionHead
from pipert_shm.video.names import Names


class TorchDetector(NetworkDetector):
    """Runs a PyTorch module on each frame, and sends the frame with its detections, as a `DetectedFrame`.

    All that holds for `DnnDetector` holds here, with the same heads. The module is called with (batch, 3, height, width),
    float32 or float16, in inference mode. It returns a tensor, or tensors in a list, a tuple or a dict, which the head
    reads; or, as torchvision's detectors do, a dict for each image with `boxes`, `labels` and `scores`, which needs no head.

    The module is loaded, and put onto its device, in the routine's own process: give a file or a function that makes it. A
    module that the program has made already is taken, too, if it has not been on a GPU and has not been run, since neither
    CUDA nor PyTorch's threads go on in a forked process.

    :param model: `package.module:function`, or the function itself, which makes a module; a file of `torch.export` (`.pt2`)
        or of TorchScript; or a module. A file of weights alone is none of these.
    :param head: as in `DnnDetector`.
    :param names: class names by id, or torchvision's labels; not with a head, which has them.
    :param threshold: least score that counts, 0 to 1; not with a head, which has one.
    :param overlap: intersection over union from which two boxes of one class count as the same object; not with a head.
    :param classes: the classes to keep, by name or id; None for all.
    :param size: width and height of the network's input, in pixels; None for that of an exported network, or (640, 640).
    :param batch_size: the most frames in one call.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :param device: one of PyTorch's, such as `cpu`, `cuda` or `cuda:1`; None for CUDA if it is available, else the CPU.
    :param half: whether weights and images have 16 bits. An exported network keeps its own weights.
    :param threads: processor threads for PyTorch in this process; None for all processors.
    :raises TypeError: when the model is none of these, or the head is not a head.
    :raises ValueError: when another argument makes no sense.
    """

    def __init__(
        self,
        model: Any,
        head: AnyHead | None = None,
        name: str | None = None,
        *,
        names: Names | None = None,
        threshold: float | None = None,
        overlap: float | None = None,
        classes: Sequence[str | int] | None = None,
        size: Size | None = None,
        batch_size: int = 8,
        max_wait: float = 0.0,
        device: str | None = None,
        half: bool = False,
        threads: int | None = None,
    ) -> None:
        if not (isinstance(model, str | os.PathLike) or callable(model)):
            raise TypeError(
                f"model is a file, a module, or a function that makes one: 'package.module:function', not {shown(model)}"
            )
        super().__init__(
            head,
            name,
            names=names,
            threshold=threshold,
            overlap=overlap,
            classes=classes,
            size=size,
            batch_size=batch_size,
            max_wait=max_wait,
        )
        if device is not None and not isinstance(device, str):
            raise ValueError(f"device must be one of PyTorch's, such as 'cpu' or 'cuda:1', not {shown(device)}")
        if threads is not None and not (is_count(threads) and threads <= MOST_THREADS):
            raise ValueError(f"threads must be a whole number from 1 to {MOST_THREADS}, not {shown(threads)}")
        self._model = Path(model) if isinstance(model, os.PathLike) else model
        self._device = device
        self._half = half
        self._threads = threads

    def _load(self) -> Runtime:
        more = (lambda count, size: {}) if self._head is None else self._head.more_inputs
        return by_torch(self._model, self._size, self._device, half=self._half, threads=self._threads, more=more)

    def _find_head(self, runtime: Runtime) -> Head:
        assert runtime.description is not None
        if tuple(each.name for each in runtime.description.outputs) == OUTPUTS:
            return TorchvisionHead(self._names or (), threshold=THRESHOLD if self._threshold is None else self._threshold)
        return self._head_for(runtime.description)

    def _title(self) -> str:
        return title_of(self._model)
