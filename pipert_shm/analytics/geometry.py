"""Where do boxes lie? Inside of polygons, on which side of lines, and on the ground."""

from __future__ import annotations

import numpy as np

from pipert_shm.analytics.areas import ANCHORS, Area, Point
from pipert_shm.video.opencv import cv2

LEFT, RIGHT, NEITHER = 1, -1, 0


def anchors_of(boxes: np.ndarray, anchor: str) -> np.ndarray:
    """The points of boxes that count: (n, k, 2) float32.

    >>> anchors_of(np.array([[10, 20, 30, 60]], np.float32), "bottom_centre").tolist()
    [[[20.0, 60.0]]]
    """
    shares = np.array(ANCHORS[anchor], np.float32)
    found: np.ndarray = boxes[:, None, :2] + shares[None] * (boxes[:, None, 2:] - boxes[:, None, :2])
    return found


def in_pixels(points: tuple[Point, ...], shares: bool, size: tuple[int, int]) -> np.ndarray:
    """Points in pixels of a frame: (n, 2) float32.

    :param shares: whether they are shares of its width and height.
    """
    found = np.array(points, np.float32)
    return found * np.array(size, np.float32) if shares else found


def rounded(points: np.ndarray) -> list[list[float]]:
    """Points to be told: pixels, to a tenth."""
    told: list[list[float]] = points.astype(float).round(1).tolist()
    return told


class Polygon:
    """A zone in pixels of a frame.

    >>> zone = Polygon(Area(((0, 0), (0.5, 0), (0.5, 1), (0, 1)), None, "centre"), (100, 100))
    >>> zone.contain(np.array([[10, 10, 20, 20], [40, 0, 70, 50]], np.float32)).tolist()
    [True, False]
    """

    def __init__(self, area: Area, size: tuple[int, int]) -> None:
        self.area = area
        self.points = in_pixels(area.points, area.in_shares, size)

    def contain(self, boxes: np.ndarray) -> np.ndarray:
        """Which boxes are inside, (n,) bool: all the points that count are, or on the edge. One that is not finite is not."""
        found: np.ndarray = np.isfinite(boxes).all(axis=1)
        found[found] = self._hold(anchors_of(boxes[found], self.area.anchor)).all(axis=1)
        return found

    def _hold(self, points: np.ndarray) -> np.ndarray:
        """Which points (n, k, 2) are inside or on the edge, (n, k) bool. A ray from inside meets the edge oddly often."""
        x, y = points.astype(float)[..., None, :].transpose(3, 0, 1, 2)  # (n, k, 1), beside (corners,)
        x1, y1 = self.points.astype(float).T
        x2, y2 = np.roll(x1, 1), np.roll(y1, 1)
        side = (x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)
        on_edge = (side == 0) & ((x - x1) * (x - x2) <= 0) & ((y - y1) * (y - y2) <= 0)
        meets = ((y1 > y) != (y2 > y)) & ((side < 0) == (y2 > y1))
        return np.asarray(on_edge.any(axis=-1) | (meets.sum(axis=-1) % 2 == 1))


class Segment:
    """A line in pixels of a frame. Which side is which is as in the `supervision` library's `LineZone`.

    >>> line = Segment(Area(((0, 50), (100, 50)), None, "centre"), (100, 100))
    >>> line.sides(np.array([[10, 10, 20, 20], [10, 60, 20, 80], [200, 0, 210, 9]], np.float32)).tolist()
    [1, -1, 0]
    """

    def __init__(self, area: Area, size: tuple[int, int]) -> None:
        self.area = area
        self.points = in_pixels(area.points, area.in_shares, size)
        self._along = self.points[1] - self.points[0]

    def sides(self, boxes: np.ndarray) -> np.ndarray:
        """The side of each box, (n,) int: of one that is beside the line's ends, on the line, or not finite, NEITHER."""
        anchors = anchors_of(boxes, self.area.anchor) - self.points[0]
        length = float(self._along @ self._along)
        with np.errstate(invalid="ignore"):
            share = anchors @ self._along / length
            within = ((share > 0) & (share < 1)).all(axis=1)
            left = self._along[0] * anchors[..., 1] - self._along[1] * anchors[..., 0] < 0
        found = np.where(left.all(axis=1), LEFT, np.where((~left).all(axis=1), RIGHT, NEITHER))
        return np.where(within, found, NEITHER)


class Ground:
    """A plane that a camera sees, with its measures.

    :param points: four of its points, in pixels.
    :param metres: where these are on the ground, in metres.

    >>> ground = Ground(np.array([[0, 0], [100, 0], [100, 100], [0, 100]], np.float32), ((0, 0), (5, 0), (5, 5), (0, 5)))
    >>> ground.places(np.array([[10, 10, 30, 40]], np.float32)).round(3).tolist()
    [[1.0, 2.0]]
    """

    def __init__(self, points: np.ndarray, metres: tuple[Point, ...]) -> None:
        self._matrix = cv2.getPerspectiveTransform(points, np.array(metres, np.float32))

    def places(self, boxes: np.ndarray) -> np.ndarray:
        """Where the boxes stand, by the middle of their bottom edges: (n, 2), metres; NaN for one that is not finite."""
        if not len(boxes):
            return np.empty((0, 2), np.float32)
        feet = anchors_of(boxes, "bottom_centre")
        found: np.ndarray = cv2.perspectiveTransform(feet, self._matrix)[:, 0]
        return found
