"""Converts detections to objects of the `supervision` library, and back."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pipert_shm.extras import to_install
from pipert_shm.video import masks
from pipert_shm.video.names import Names

if TYPE_CHECKING:
    import supervision

    from pipert_shm.video.detection import Detections

CORNERS = "xyxyxyxy"  # its own name for the corners of boxes that are turned
KEYPOINTS, MASKS = "keypoints", "masks_in_boxes"
NAMES = "class_name"


def _library() -> ModuleType:
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise ImportError(f"supervision is not installed ({error}): {to_install('tracking')}") from error
    return supervision


def to_supervision(found: Detections, shape: Sequence[int] | None) -> supervision.Detections:
    """See `Detections.to_supervision`."""
    sv = _library()
    data: dict[str, Any] = dict(found.data)
    if found.class_ids is not None and found.names:
        data[NAMES] = np.array(found.labels)
    for name, column in ((CORNERS, found.corners), (KEYPOINTS, found.keypoints), (MASKS, found.masks)):
        if column is not None:
            data[name] = column
    whole = None
    if shape is not None and found.masks is not None:
        whole = np.zeros((len(found), shape[0], shape[1]), np.bool_)
        for number in range(len(found)):
            whole[number] = found.mask(number, shape)
    made: supervision.Detections = sv.Detections(
        xyxy=found.boxes, mask=whole, confidence=found.scores, class_id=found.class_ids, tracker_id=found.track_ids, data=data
    )
    return made


def to_key_points(found: Detections) -> supervision.KeyPoints:
    """See `Detections.to_key_points`."""
    sv = _library()
    if found.keypoints is None:
        raise ValueError("these detections have no keypoints: they come from a network for poses")
    data = {} if found.class_ids is None or not found.names else {NAMES: np.array(found.labels)}
    made: supervision.KeyPoints = sv.KeyPoints(
        xy=found.keypoints[..., :2],
        keypoint_confidence=found.keypoints[..., 2],
        detection_confidence=found.scores,
        class_id=found.class_ids,
        data=data,
    )
    return made


def columns_from(found: Any, names: Names) -> dict[str, Any]:
    """The arguments for `Detections` that say what an object of `supervision` says."""
    if not hasattr(found, "xyxy"):
        return _columns_from_key_points(found, names)
    data = dict(found.data)
    columns: dict[str, Any] = {
        "boxes": found.xyxy,
        "scores": found.confidence,
        "class_ids": found.class_id,
        "track_ids": found.tracker_id,
        "names": names if len(names) else _names_from(found.class_id, data),
        "corners": data.pop(CORNERS, None),
        "keypoints": data.pop(KEYPOINTS, None),
        "masks": data.pop(MASKS, None),
    }
    data.pop(NAMES, None)
    if columns["masks"] is None and found.mask is not None:
        columns["masks"] = masks.from_whole(np.asarray(found.mask), np.asarray(found.xyxy, np.float32))
    columns["data"] = {name: np.asarray(column) for name, column in data.items()} if len(found) else {}
    return columns


def _columns_from_key_points(found: Any, names: Names) -> dict[str, Any]:
    xy = np.asarray(found.xy, np.float32)
    seen = found.keypoint_confidence
    seen = (xy != 0).any(axis=2).astype(np.float32) if seen is None else np.asarray(seen, np.float32)
    visible = (seen > 0)[..., None] & np.isfinite(xy)
    low = np.where(visible, xy, np.inf).min(axis=1, initial=np.inf)
    high = np.where(visible, xy, -np.inf).max(axis=1, initial=-np.inf)
    return {
        "boxes": np.hstack([low, high]) if len(xy) else [],
        "scores": found.detection_confidence,
        "class_ids": found.class_id,
        "names": names if len(names) else _names_from(found.class_id, found.data),
        "keypoints": np.dstack([xy, seen]) if len(xy) else None,
    }


def _names_from(ids: np.ndarray | None, data: dict[str, Any]) -> Names:
    if ids is None or NAMES not in data:
        return ()
    return {int(number): str(name) for number, name in zip(ids.tolist(), data[NAMES], strict=True)}
