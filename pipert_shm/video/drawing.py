"""Draws detections plainly: boxes, those that are turned, outlines of masks, keypoints."""

from __future__ import annotations

import numpy as np

from pipert_shm.video.detection import Detections
from pipert_shm.video.opencv import cv2

BOX_COLOUR = (0, 255, 0)
MASK_COLOUR = (255, 128, 0)
POINT_COLOUR = (0, 128, 255)
FAR = 1 << 15  # pixels, outside of any frame; OpenCV refuses larger coordinates
SEEN = 0.5  # how likely a keypoint must be


def draw(scene: np.ndarray, found: Detections, colour: tuple[int, int, int] = BOX_COLOUR) -> None:
    """Draws the detections on a scene in BGR. A box that is turned is drawn so, and not the upright one around it.

    :param found: with finite boxes, in pixels of the scene.
    :param colour: of the boxes: blue, green, red.
    """
    if found.masks is not None:
        lines = [_whole(line) for number in range(len(found)) for line in found.outlines(number)]
        cv2.polylines(scene, lines, True, MASK_COLOUR, 2)
    if found.corners is not None:
        turned = found.corners[np.isfinite(found.corners).all(axis=(1, 2))]
        cv2.polylines(scene, [_whole(corners) for corners in turned], True, colour, 2)
    else:
        for left, top, right, bottom in _whole(found.boxes).tolist():
            cv2.rectangle(scene, (left, top), (right - 1, bottom - 1), colour, 2)
    if found.keypoints is not None:
        points = found.keypoints.reshape(-1, 3)
        for x, y in _whole(points[(points[:, 2] >= SEEN) & np.isfinite(points).all(axis=1), :2]).tolist():
            cv2.circle(scene, (x, y), 3, POINT_COLOUR, -1)


def _whole(places: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(places, -FAR, FAR).round(), np.int32)
