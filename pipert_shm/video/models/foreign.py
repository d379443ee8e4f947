"""Turns what other libraries found into detections: `supervision`, Ultralytics, and Roboflow's `inference-models`."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.video.detection import DetectedFrame, Detections, detected
from pipert_shm.video.image import frame_of


def as_payload(result: Any, data: Any) -> DetectedFrame | Detections:
    """Returns what a routine sends of another library's result.

    :param result: what a function returned: one object of another library, or a list with one, as most models return it.
    :param data: what the function got. If it has a frame, the result is that frame with its detections.
    :raises ValueError: when the list has results of several images, or the result has no boxes.
    :raises ImportError: when `supervision` is not installed, which reads Ultralytics' results.
    """
    if isinstance(result, list):
        if len(result) != 1:
            raise ValueError(
                f"the function returned the results of {len(result)} images for one message: give the model one frame, and "
                f"return what it found there"
            )
        (result,) = result
    found = _detections(result)
    if isinstance(data, np.ndarray | FrameData):
        return detected(data, frame_of(data), found)
    return found


def _detections(result: Any) -> Detections:
    library = type(result).__module__.partition(".")[0]
    if library == "supervision":
        return Detections.from_supervision(result)
    if library == "ultralytics":
        return _of_ultralytics(result)
    return Detections.from_supervision(result.to_supervision())


def _of_ultralytics(result: Any) -> Detections:
    """:raises ValueError: when there are no boxes, as of a classifier."""
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise ImportError(f"supervision is not installed ({error}): {to_install('tracking')}") from error
    if result.boxes is None and result.obb is None:
        raise ValueError(
            f"Ultralytics' result has no boxes: {shown(_parts_of(result))}; of a classifier send what you need of result.probs"
        )
    found = supervision.Detections.from_ultralytics(result)
    if result.keypoints is not None:
        points = result.keypoints.data.cpu().numpy()
        if points.shape[-1] == 2:  # a model that does not tell which are visible
            points = np.concatenate([points, np.ones_like(points[..., :1])], axis=2)
        found.data["keypoints"] = points
    return Detections.from_supervision(found, result.names)


def _parts_of(result: Any) -> list[str]:
    return [name for name in ("probs", "masks", "keypoints") if getattr(result, name, None) is not None]
