"""Detectors that need no model file, since OpenCV brings all that they use."""

from __future__ import annotations

import os

import numpy as np

from pipert_shm.video.detection import Detections, Detector
from pipert_shm.video.opencv import cv2

CASCADES = os.path.join(os.path.dirname(cv2.__file__), "data")
SHADOW, MOVING = 127, 255  # in MOG2's mask


class MotionDetector(Detector):
    """Finds what moves before a still background. The camera must not move. The same frames always give the same boxes.

    One detector serves any number of cameras, with frames of any sizes: each camera has a background model of its own. Each
    replica builds its models from the frames that it happens to get, so with replicas the boxes may differ from run to run.

    :param history: frames after which the background model forgets.
    :param threshold: how far from the background a pixel must be, as a squared Mahalanobis distance.
    :param min_area: the least area that counts, in pixels.
    """

    def __init__(self, name: str | None = None, *, history: int = 100, threshold: float = 25, min_area: int = 300) -> None:
        super().__init__(name)
        self._history = history
        self._threshold = threshold
        self._min_area = min_area

    def setup(self) -> None:
        """Starts with an empty background model for each camera."""
        self._models = self.per_origin(
            lambda: cv2.createBackgroundSubtractorMOG2(self._history, self._threshold, detectShadows=True)
        )
        self._speck = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
        self._gap = cv2.getStructuringElement(cv2.MORPH_RECT, (13, 13))

    def detect(self, frame: np.ndarray) -> Detections:
        """Returns a box around each thing that moves."""
        _, mask = cv2.threshold(self._models[self.meta.origin].apply(frame), SHADOW, MOVING, cv2.THRESH_BINARY)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, self._speck)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, self._gap)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        return Detections(_corners([cv2.boundingRect(each) for each in contours if cv2.contourArea(each) >= self._min_area]))


class HaarDetector(Detector):
    """Finds objects with one of OpenCV's Haar cascades; by default faces that are seen from the front.

    :param cascade: a path, or the name of a file that comes with OpenCV.
    :param scale: ratio between one size that is searched for and the next; nearer to 1 finds more and is slower.
    :param neighbours: overlapping hits that make a detection; more of them give fewer false detections.
    :param min_size: least width and height of a detection, in pixels.
    :raises ImportError: with an OpenCV that has no cascades, such as opencv-python 5.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        cascade: str | os.PathLike[str] = "haarcascade_frontalface_default.xml",
        scale: float = 1.1,
        neighbours: int = 5,
        min_size: tuple[int, int] = (24, 24),
    ) -> None:
        _check_opencv_has("CascadeClassifier", self)
        super().__init__(name)
        self._cascade = os.path.join(CASCADES, cascade)  # an absolute path stays what it is
        if not os.path.exists(self._cascade) and os.path.exists(cascade):
            self._cascade = os.fspath(cascade)
        self._scale = scale
        self._neighbours = neighbours
        self._min_size = min_size

    def setup(self) -> None:
        """Loads the cascade.

        :raises FileNotFoundError: when there is no such file.
        :raises ValueError: when the file is not a Haar cascade.
        """
        if not os.path.isfile(self._cascade):
            raise FileNotFoundError(f"there is no Haar cascade {self._cascade!r}; {CASCADES} has some")
        try:
            self._classifier = cv2.CascadeClassifier(self._cascade)
            loaded = not self._classifier.empty()
        except (cv2.error, SystemError):  # OpenCV raises either for a file that is no cascade
            loaded = False
        if not loaded:
            raise ValueError(f"{self._cascade!r} is no Haar cascade; {CASCADES} has some")

    def detect(self, frame: np.ndarray) -> Detections:
        """Returns a box around each object, from left to right. The frame is (height, width, 3) uint8, BGR."""
        grey = cv2.equalizeHist(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
        found = self._classifier.detectMultiScale(
            grey, scaleFactor=self._scale, minNeighbors=self._neighbours, minSize=self._min_size
        )
        boxes = _corners(found)
        return Detections(boxes[_order(boxes)])


class HogPeopleDetector(Detector):
    """Finds upright people of at least 64x128 pixels, by OpenCV's histogram of oriented gradients.

    :param stride: pixels between two places that are searched, a multiple of 8.
    :param scale: ratio between one size that is searched for and the next; nearer to 1 finds more and is slower.
    :param threshold: least distance to the classifier's plane that counts as a person.
    :raises ImportError: with an OpenCV that has no such histograms, such as opencv-python 5.
    """

    NAMES = ("person",)

    def __init__(self, name: str | None = None, *, stride: int = 8, scale: float = 1.05, threshold: float = 0.0) -> None:
        _check_opencv_has("HOGDescriptor", self)
        super().__init__(name)
        self._stride = stride
        self._scale = scale
        self._threshold = threshold

    def setup(self) -> None:
        """Makes the classifier."""
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))

    def detect(self, frame: np.ndarray) -> Detections:
        """A box around each person, from left to right. The score is the distance to the classifier's plane, at most 1."""
        found, weights = self._hog.detectMultiScale(
            frame, hitThreshold=self._threshold, winStride=(self._stride, self._stride), scale=self._scale
        )
        boxes = _corners(found)
        order = _order(boxes)
        scores = np.minimum(np.asarray(weights, np.float32).ravel(), 1)[order]
        return Detections(boxes[order], scores, np.zeros(len(scores), np.int64), self.NAMES)


def _check_opencv_has(name: str, detector: Detector) -> None:
    """OpenCV 5 has moved its older detectors to the contrib modules, which the main wheel leaves out."""
    if not hasattr(cv2, name):
        raise ImportError(
            f"{type(detector).__name__} needs OpenCV's {name}, which this OpenCV {cv2.__version__} lacks: "
            "pip install 'opencv-python>=4.14,<5'"
        )


def _corners(rectangles: object) -> np.ndarray:
    """Turns rows of left, top, width, height into left, top, right, bottom."""
    boxes = np.array(rectangles, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _order(boxes: np.ndarray) -> np.ndarray:
    """The order from left to right: OpenCV's threads find boxes in any order."""
    return np.lexsort(boxes.T[::-1])
