"""What a rule sees in a frame: the detections that count for it, in its zone, elsewhere, or across its line."""

from __future__ import annotations

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
    labels, finite = found.labels, np.isfinite(found.boxes).all(axis=1)
    counting = {
        row
        for row in range(len(found))
        if finite[row]
        and (rule.labels is None or labels[row] in rule.labels)
        and (not rule.min_score or found.scores is None or found.scores[row] >= rule.min_score)
    }
    if rule.kind == "line":
        crossed = data.additional_data[ZONES]["lines"][rule.area]["crossed"]
        return Sight(crossed=[(_object(found, labels, row), way) for row, way in crossed if row in counting])
    rows = range(len(found)) if rule.area is None else data.additional_data[ZONES]["zones"][rule.area]["rows"]
    inside = [row for row in rows if row in counting]
    outside: frozenset[int] = frozenset()
    if rule.needs_tracks and found.track_ids is not None:
        outside = frozenset(found.track_ids[list(counting.difference(inside))].tolist())
    return Sight([_object(found, labels, row) for row in inside], outside)


def _object(found: Detections, labels: list[str], row: int) -> Object:
    left, top, right, bottom = found.boxes[row].astype(float).round(1).tolist()
    return Object(
        None if found.track_ids is None else int(found.track_ids[row]),
        labels[row] or None,
        None if found.scores is None or not np.isfinite(found.scores[row]) else round(float(found.scores[row]), 4),
        (left, top, right, bottom),
    )
