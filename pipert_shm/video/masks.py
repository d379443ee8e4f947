"""Masks of detections: for each a small picture that is stretched over its box. It stays small, whatever the frame's size."""

from __future__ import annotations

import math

import numpy as np

from pipert_shm.video.opencv import cv2

SIDE = 160
"""The most pixels of a mask's side."""

HALF = 128
"""A pixel of a mask from this on belongs to the object."""


def cut(plane: np.ndarray, box: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """Returns what lies in a box, as a picture of `side` (width, height).

    :param plane: (h, w) uint8 or float32.
    :param box: left, top, right, bottom in pixels of the plane; it may reach out of it.
    """
    left, top, right, bottom = map(float, box)
    across, down = (right - left) / side[0], (bottom - top) / side[1]
    back = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5]])  # between centres of pixels
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(plane, back, side, flags=flags, borderMode=cv2.BORDER_REPLICATE), plane.dtype)


def pasted(mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the whole mask, (height, width) bool, of a frame of this height and width.

    :param mask: (h, w) uint8, stretched over the box.
    :param box: left, top, right, bottom in pixels of the frame.
    """
    whole = np.zeros(shape, np.bool_)
    if not np.isfinite(box).all():
        return whole
    left, top, right, bottom = map(float, box)
    first_row, last_row = max(0, math.ceil(top - 0.5)), min(shape[0], math.ceil(bottom - 0.5))  # whose centres lie in the box
    first, last = max(0, math.ceil(left - 0.5)), min(shape[1], math.ceil(right - 0.5))
    if first_row >= last_row or first >= last:
        return whole
    across, down = mask.shape[1] / (right - left), mask.shape[0] / (bottom - top)
    part = ((first - left) * across, (first_row - top) * down, (last - left) * across, (last_row - top) * down)
    whole[first_row:last_row, first:last] = cut(mask, np.array(part), (last - first, last_row - first_row)) >= HALF
    return whole


def side_for(boxes: np.ndarray) -> int:
    """How many pixels a side masks have, so that none of these boxes loses detail: two for each of its own, at most `SIDE`.

    :param boxes: (n, 4), in pixels of the masks' own pictures.
    """
    sides = (boxes[:, 2:] - boxes[:, :2])[np.isfinite(boxes).all(axis=1)]
    return max(8, min(SIDE, math.ceil(2 * float(sides.max(initial=0)))))


def from_whole(masks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Makes masks of whole ones, (n, height, width) bool; (n, side, side) uint8."""
    side = side_for(boxes)
    made = np.zeros((len(boxes), side, side), np.uint8)
    for mask, box, out in zip(masks, boxes, made, strict=True):
        if not np.isfinite(box).all() or not (box[2:] > box[:2]).all():
            continue
        width, height = (max(side, math.ceil(length)) for length in (box[2:] - box[:2]).tolist())
        part = cut(mask.astype(np.uint8) * np.uint8(255), box, (min(width, mask.shape[1]), min(height, mask.shape[0])))
        cv2.resize(part, (side, side), dst=out, interpolation=cv2.INTER_AREA)
    return made


def recut(masks: np.ndarray, before: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the masks for boxes that have been cut off.

    :param before: the boxes that the masks are stretched over, (n, 4).
    :param boxes: what is left of them.
    """
    changed = np.isfinite(before).all(axis=1) & (np.abs(before - boxes).max(axis=1, initial=0) > 1e-3)
    changed &= (before[:, 2:] > before[:, :2]).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if not changed.any():
        return masks
    masks = masks.copy()
    height, width = masks.shape[1:]
    for row in np.flatnonzero(changed).tolist():
        left, top, right, bottom = before[row].tolist()
        factors = np.array([width / (right - left), height / (bottom - top)] * 2)
        masks[row] = cut(masks[row], (boxes[row] - np.array([left, top] * 2)) * factors, (width, height))
    return masks


def outlines(mask: np.ndarray, box: np.ndarray) -> list[np.ndarray]:
    """Returns the outlines of a mask's parts, each (points, 2) float32 in pixels of the frame.

    Holes are not told. A part of the mask that is only a pixel or two has no outline.
    """
    if not np.isfinite(box).all():
        return []
    rim = np.pad((mask >= HALF).astype(np.uint8), 1)
    found, _ = cv2.findContours(rim, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    height, width = mask.shape
    factors = (box[2:] - box[:2]) / np.array([width, height], np.float32)
    kept = [line.reshape(-1, 2) for line in found if len(line) >= 3]
    return [((line - 0.5) * factors + box[:2]).astype(np.float32) for line in kept]
