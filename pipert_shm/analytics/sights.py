"""What a rule sees in a frame: the detections that count for it, in its zone, elsewhere, or across its line."""

from __future__ import annotations

from math import isfinite

import numpy as np

from pipert_shm.analytics.rules import Rule
from pipert_shm.analytics.watching import Object, Sight
from pipert_shm.video.detection import DetectedFrame, Detections
from pipert_shm.video.marks import ZONES


def sight_of(rule: Rule, data: DetectedFrame) -> Sight:
    """What a rule sees. The zone or line that it is about must be told of in the frame's `additional_data`.

    >>> from pipert_shm.analytics.rules import read_rules
    >>> found = Detections([[0, 0, 9, 9], [20, 0, 29, 9]], track_ids=[4, 7])
    >>> frame = DetectedFrame(np.zeros((48, 64, 3), np.uint8), found)
    >>> [rule] = read_rules([{"name": "anybody", "kind": "enter"}])
    >>> [one.track_id for one in sight_of(rule, frame).inside]
    [4, 7]
    """
    found = data.detections
    labels = found.labels
    counts = _counting(rule, found, labels)
    if rule.kind == "line":
        crossed = [(row, way) for row, way in data.additional_data[ZONES]["lines"][rule.area]["crossed"] if counts[row]]
        objects = _objects(found, labels, np.array([row for row, _ in crossed], np.int64))
        return Sight(crossed=[(one, way) for one, (_, way) in zip(objects, crossed, strict=True)])
    is_inside = np.ones(len(found), bool)
    if rule.area is not None:
        is_inside[:] = False
        is_inside[data.additional_data[ZONES]["zones"][rule.area]["rows"]] = True
    outside: frozenset[int] = frozenset()
    if rule.needs_tracks and found.track_ids is not None:
        outside = frozenset(found.track_ids[counts & ~is_inside].tolist())
    return Sight(_objects(found, labels, np.flatnonzero(counts & is_inside)), outside)


def _counting(rule: Rule, found: Detections, labels: list[str]) -> np.ndarray:
    """Which detections count for the rule, (n,) bool."""
    counts: np.ndarray = np.isfinite(found.boxes).all(axis=1)
    if rule.labels is not None:
        counts &= np.array([label in rule.labels for label in labels], bool)
    if rule.min_score and found.scores is not None:
        counts &= found.scores >= rule.min_score
    return counts


def _objects(found: Detections, labels: list[str], rows: np.ndarray) -> list[Object]:
    boxes = found.boxes[rows].astype(float).round(1).tolist()
    nothing = [None] * len(rows)
    tracks = nothing if found.track_ids is None else found.track_ids[rows].tolist()
    scores = nothing if found.scores is None else found.scores[rows].tolist()
    return [
        Object(track, labels[row] or None, None if score is None or not isfinite(score) else round(score, 4), tuple(box))
        for row, track, score, box in zip(rows.tolist(), tracks, scores, boxes, strict=True)
    ]
