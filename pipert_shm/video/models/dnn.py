"""A detector that runs a neural network in ONNX format, for one camera or a batch of many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipert_shm.errors import shown
from pipert_shm.video.models.choice import Backend, Choice, Providers
from pipert_shm.video.models.description import check_file, describe_model
from pipert_shm.video.models.head import AnyHead, Head
from pipert_shm.video.models.network_detector import NetworkDetector
from pipert_shm.video.models.runtime import Runtime, Size, Wanted, load
from pipert_shm.video.names import Names


class DnnDetector(NetworkDetector):
    """Runs a neural network in ONNX format on each frame, and sends the frame with its detections, as a `DetectedFrame`.

    One batch may hold frames of any number of cameras, of any sizes and formats. Each frame is scaled to the network's input as
    the head says it: with its proportions kept and grey around it, say. Boxes are in pixels of the frame.

    `setup()` runs the network once, so that a network that can't be run, or a head that does not fit, fails there. Counters
    say which backend runs it (`onnxruntime`, `opencv` or `openvino`) and on which device (`cpu`, `cuda`, `tensorrt`, `gpu`,
    `npu` or `other_device`): 1 for the one in use, 0 for the others. The log says so, too. `no_box` counts the detections of
    end-to-end networks whose corners make no box: these are left out.

    :param model: path of the file.
    :param head: turns the network's outputs into detections: `YoloHead(names)`, `CenterFaceHead()`, or an object of yours. None
        for the one that the network's outputs and metadata tell of; where they leave a doubt, `setup()` refuses.
    :param names: class names by id, for a network that does not tell its own; not with a head, which has them.
    :param threshold: least score that counts, 0 to 1; not with a head, which has one.
    :param overlap: intersection over union from which two boxes of one class count as the same object; not with a head.
    :param classes: the classes to keep, by name or id; None for all.
    :param size: width and height of the network's input, in pixels; None for the network's own, and (640, 640) for one that
        takes any. Most networks want multiples of 32.
    :param batch_size: the most frames in one call.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :param backend: `onnxruntime` (`pip install 'pipert_shm[onnx]'`) and `openvino` (`pip install 'pipert_shm[openvino]'`) run
        the frames of a batch together if the model has a free batch axis. `opencv` runs them one by one, and knows fewer
        operators. `auto` takes onnxruntime if it is installed, and OpenCV for a network that onnxruntime refuses.
    :param device: `cpu`, `cuda`, `cuda:1`, or `tensorrt` (onnxruntime only). By default onnxruntime takes CUDA if it is
        available, and OpenCV the CPU. With OpenVINO its own names: `CPU`, `GPU`, `GPU.1`, `NPU`, or `AUTO`, the default.
    :param providers: execution providers of onnxruntime instead of a device: names, or tuples (name, options).
    :param cache_dir: directory that keeps what TensorRT or OpenVINO compile for a device. By default TensorRT's engine is kept
        beside the model, in `NAME.tensorrt`, and OpenVINO compiles at each start.
    :param threads: processor threads for the network; None leaves it to the backend, which takes all processors.
    :raises TypeError: when the model is not a path, or the head is not a head.
    :raises ValueError: when another argument makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
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
        backend: Backend = "auto",
        device: str | None = None,
        providers: Providers | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> None:
        if not isinstance(model, str | os.PathLike):
            raise TypeError(
                f"model is the path of an .onnx file, not {shown(model)}: DnnDetector('yolo.onnx', YoloHead(names))"
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
        self._model = Path(model)
        self._choice = Choice(backend, device, providers, cache_dir, threads)

    def _load(self) -> Runtime:
        check_file(self._model)
        more = None if self._head is None else self._head.more_inputs
        return load(Wanted(self._model, self._size, self.batch_size, self._choice, more))

    def _find_head(self, runtime: Runtime) -> Head:
        description = runtime.description or describe_model(self._model).with_outputs(runtime.trial)
        return self._head_for(description)

    def _title(self) -> str:
        return self._model.name
