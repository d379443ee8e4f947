"""A detector that runs a neural network in ONNX format, for one camera or a batch of many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.routine import BatchRoutine
from pipert_shm.video.detection import DetectedFrame, Detections
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import cv2

PADDING = 114  # the grey that YOLO networks are trained with
STRIDE = 4  # pixels of CenterFace's input to one of its heat map


class Head(Protocol):
    """What knows a family of networks.

    Attributes:
        scale: what pixels from 0 to 255 are multiplied by.
    """

    scale: float

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
        """What was found in each image of the batch, in pixels of the network's input.

        :param outputs: of the network, in its order; the first axis of each is the batch.
        """


class YoloHead:
    """For YOLO networks: one output, of shape (batch, 4 + classes, n) as of version 8, or (batch, n, 5 + classes) as of 5.

    :param names: of the classes.
    :param threshold: score from which on something counts.
    :param overlap: intersection over union from which on two of one class are the same thing.
    """

    scale = 1 / 255

    def __init__(self, names: Sequence[str], *, threshold: float = 0.25, overlap: float = 0.45) -> None:
        self.names = tuple(names)
        self.threshold = threshold
        self.overlap = overlap

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
        """What was found in each image.

        :raises ValueError: when the output does not have the shape that the names ask for.
        """
        (output, *others), classes = outputs, len(self.names)
        if not others and output.ndim == 3 and output.shape[1] == 4 + classes:
            rows = output.transpose(0, 2, 1)
            scores = rows[..., 4:]
        elif not others and output.ndim == 3 and output.shape[2] == 5 + classes:
            rows = output
            scores = rows[..., 5:] * rows[..., 4:5]
        else:
            shapes = ", ".join(str(each.shape) for each in outputs)
            raise ValueError(
                f"with {classes} names the network's one output is (batch, {4 + classes}, n) or (batch, n, {5 + classes}), "
                f"not {shapes}; give the names that it was trained with, and export it without its own suppression"
            )
        return [self._image(*each) for each in zip(rows[..., :4], scores, strict=True)]

    def _image(self, centred: np.ndarray, scores: np.ndarray) -> Detections:
        best = scores.argmax(axis=1)
        score = scores[np.arange(len(best)), best]
        likely = score > self.threshold
        best, score, centred = best[likely], score[likely], centred[likely]
        corners = np.hstack([centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2])
        kept = _suppressed(corners, score, best, self.threshold, self.overlap)
        return Detections(corners[kept], score[kept], best[kept], self.names)


class CenterFaceHead:
    """For CenterFace, which finds faces.

    :param threshold: score from which on something counts.
    :param overlap: intersection over union from which on two are the same face.
    """

    scale = 1.0
    names = ("face",)

    def __init__(self, *, threshold: float = 0.5, overlap: float = 0.3) -> None:
        self.threshold = threshold
        self.overlap = overlap

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
        """What was found in each image.

        :raises ValueError: when these are not the outputs of a CenterFace.
        """
        if [each.shape[1] for each in outputs] != [1, 2, 2, 10]:
            shapes = ", ".join(str(each.shape) for each in outputs)
            raise ValueError(f"CenterFace has outputs of 1, 2, 2 and 10 channels, not {shapes}: this is another network")
        heat, scale, offset, _ = outputs
        return [self._image(*each) for each in zip(heat[:, 0], scale, offset, strict=True)]

    def _image(self, heat: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> Detections:
        rows, columns = np.nonzero(heat > self.threshold)
        places = np.stack([rows, columns])
        score = heat[rows, columns]
        half = np.exp(scale[:, rows, columns]) * (STRIDE / 2)  # vertical before horizontal, as in all that the network gives
        centre = (places + offset[:, rows, columns] + 0.5) * STRIDE
        corners = np.stack([*(centre - half)[::-1], *(centre + half)[::-1]], axis=1)
        faces = np.zeros(len(score), np.int64)
        kept = _suppressed(corners, score, faces, self.threshold, self.overlap)
        return Detections(corners[kept], score[kept], faces[kept], self.names)


def _suppressed(corners: np.ndarray, score: np.ndarray, classes: np.ndarray, threshold: float, overlap: float) -> np.ndarray:
    """Which ones stay: of those that overlap, the one with the best score."""
    sizes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).astype(np.float64)
    kept = cv2.dnn.NMSBoxesBatched(sizes.tolist(), score.tolist(), classes.tolist(), threshold, overlap)
    return np.asarray(kept, np.int64).ravel()


class DnnDetector(BatchRoutine):
    """Finds what a network in ONNX format was trained for; forwards each frame as it is, with the finds, as a `DetectedFrame`.

    It takes frames of any number of cameras, and of any sizes, in one batch. Each is scaled to the network's input, at its own
    proportions, the rest of which is grey; the boxes are in pixels of the frame.

    :param model: path of the file.
    :param head: what makes finds of the network's outputs: `YoloHead(names)`, `CenterFaceHead()`, or one of yours.
    :param size: width and height of the network's input. Most networks want multiples of 32.
    :param batch_size: the most frames of one call.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :param backend: `opencv`, which runs the frames of a batch one by one, or `onnxruntime` (`pip install 'pipert_shm[onnx]'`),
        which runs them together, where the model has a free batch axis, and knows more operators.
    :raises ValueError: when an argument is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        head: Head,
        name: str | None = None,
        *,
        size: tuple[int, int] = (640, 640),
        batch_size: int = 8,
        max_wait: float = 0.0,
        backend: Literal["opencv", "onnxruntime"] = "opencv",
    ) -> None:
        super().__init__(name, batch_size=batch_size, max_wait=max_wait)
        if min(size) < 1:
            raise ValueError(f"size is a width and a height of at least 1 pixel, not {size}")
        if backend not in _BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, not {backend!r}")
        self._model = Path(model)
        self._head = head
        self._size = size
        self._backend = backend

    def setup(self) -> None:
        """Loads the network.

        :raises FileNotFoundError: when there is no such file.
        :raises ValueError: when the backend can't read it.
        :raises ImportError: when the backend is not installed.
        """
        if not self._model.is_file():
            raise FileNotFoundError(f"there is no model {str(self._model)!r}; check the path")
        self._run = _BACKENDS[self._backend](self._model)

    def detect(self, frames: Sequence[np.ndarray]) -> list[Detections]:
        """What is in each of the frames: (height, width, 3) uint8, BGR, of any sizes."""
        width, height = self._size
        canvas = np.full((len(frames), height, width, 3), PADDING, np.uint8)
        ratios = []
        for frame, image in zip(frames, canvas, strict=True):
            ratio = min(width / frame.shape[1], height / frame.shape[0])
            fitted = round(frame.shape[1] * ratio), round(frame.shape[0] * ratio)
            cv2.resize(frame, fitted, dst=image[: fitted[1], : fitted[0]])
            ratios.append(ratio)
        blob = cv2.dnn.blobFromImages(list(canvas), self._head.scale, swapRB=True)
        found = self._head(self._run(blob))
        for frame, ratio, each in zip(frames, ratios, found, strict=True):
            limits = np.array([frame.shape[1], frame.shape[0]] * 2, np.float32)
            each.boxes = np.clip(each.boxes / np.float32(ratio), 0, limits)
        return found

    def main_logic(self, batch: Sequence[np.ndarray | FrameData]) -> list[DetectedFrame]:
        """The frames, and what was found in each."""
        frames = [frame_of(data) for data in batch]
        return [DetectedFrame(frame, found) for frame, found in zip(frames, self.detect(frames), strict=True)]


Run = Callable[[np.ndarray], Sequence[np.ndarray]]


def _opencv(model: Path) -> Run:
    try:
        network = cv2.dnn.readNetFromONNX(str(model))
    except cv2.error as error:
        raise ValueError(f"OpenCV can't read the model {str(model)!r}: {error.err}; try backend='onnxruntime'") from error
    outputs = network.getUnconnectedOutLayersNames()

    def run(image: np.ndarray) -> Sequence[np.ndarray]:
        network.setInput(image)
        return network.forward(outputs)

    return _one_by_one(run)  # OpenCV 4.14 gives wrong results once the size of the batch has changed; and it is no slower


def _one_by_one(run: Run) -> Run:
    def run_all(blob: np.ndarray) -> Sequence[np.ndarray]:
        results = [run(blob[number : number + 1]) for number in range(len(blob))]
        return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]

    return run_all


def _onnxruntime(model: Path) -> Run:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a database, and report to its maker
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(f"onnxruntime is not installed ({error}): pip install 'pipert_shm[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(model, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # its exceptions have no common class of their own
        raise ValueError(f"onnxruntime can't read the model {str(model)!r}: {error}") from error
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    if isinstance(batch, int) and batch != 1:
        raise ValueError(f"the model {str(model)!r} takes batches of {batch} only; export it with a free batch axis, or of 1")

    def run(blob: np.ndarray) -> Sequence[np.ndarray]:
        outputs: list[Any] = session.run(None, {name: blob})
        return outputs

    return _one_by_one(run) if batch == 1 else run


_BACKENDS: dict[str, Callable[[Path], Run]] = {"opencv": _opencv, "onnxruntime": _onnxruntime}
