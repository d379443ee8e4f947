"""Runs networks with OpenCV."""

from __future__ import annotations

import numpy as np

from pipert_shm.video.models.runtime import USUAL_SIZE, More, Outputs, Runtime, Wanted, one_by_one, trial_image
from pipert_shm.video.opencv import cv2


def by_opencv(wanted: Wanted) -> Runtime:
    """Loads a network, and runs it once. The size is taken as it is given, since OpenCV does not say what the file tells of it.

    :raises ValueError: when OpenCV can't read or run it, or has no such device.
    """
    model, device = str(wanted.model), wanted.choice.device or "cpu"
    size = wanted.size or _told_size(wanted) or USUAL_SIZE
    try:
        network = cv2.dnn.readNetFromONNX(model)
        outputs = network.getUnconnectedOutLayersNames()
    except cv2.error as error:
        raise ValueError(f"OpenCV can't read the model {model!r}: {_said(error)}") from error
    if device != "cpu":
        _use_cuda(network, device)
    if wanted.choice.threads is not None:
        cv2.setNumThreads(wanted.choice.threads)

    def run(image: np.ndarray, more: More) -> Outputs:
        if more:
            raise ValueError(f"OpenCV can't run the model {model!r}, which takes {', '.join(more)} besides the image")
        network.setInput(image)
        return network.forward(outputs)

    try:
        trial = run(trial_image(size), wanted.more_inputs(None, 1, size))
    except cv2.error as error:
        raise ValueError(f"OpenCV can't run the model {model!r} on {size[0]}x{size[1]} pixels: {_said(error)}") from error
    # OpenCV 4.14 gives wrong results after the batch size has changed. One by one is not slower.
    return Runtime(one_by_one(run), size, "opencv", ("cpu" if device == "cpu" else "cuda",), trial)


def _told_size(wanted: Wanted) -> tuple[int, int] | None:
    """What the file says, which onnxruntime can read if it is installed."""
    from pipert_shm.video.models.description import describe_model

    try:
        return describe_model(wanted.model).size
    except (ImportError, ValueError):  # OpenCV reads it, or says what is wrong with it
        return None


def _said(error: cv2.error) -> str:
    return " ".join(str(error.err).split())


def _use_cuda(network: cv2.dnn.Net, device: str) -> None:
    if cv2.dnn.DNN_TARGET_CUDA not in cv2.dnn.getAvailableTargets(cv2.dnn.DNN_BACKEND_CUDA):
        raise ValueError(f"this OpenCV has no {device!r}: it was built without CUDA, or there is no such device")
    cv2.cuda.setDevice(int(device.partition(":")[2] or 0))
    network.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)
    network.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA)
