"""Detectors that need no model file, since OpenCV brings all that they use."""

from __future__ import annotations

import os

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.limits import is_count
from pipert_shm.parameters import parameter
from pipert_shm.video.detection import Detections
from pipert_shm.video.detector import Detector
from pipert_shm.video.formats import eight_bits, format_of, is_planar, luma, resized, size_of, to_gray
from pipert_shm.video.opencv import cv2

CASCADES = os.path.join(os.path.dirname(cv2.__file__), "data")
SHADOW, MOVING = 127, 255  # in MOG2's mask
SPECK, GAP = 3, 13  # pixels of the frame: what is smaller does not count, and what is nearer is one thing


def _distance(threshold: float) -> float:
    if not threshold > 0:
        raise ValueError(f"threshold is a squared distance above 0, not {shown(threshold)}")
    return threshold


def _area(min_area: int) -> int:
    if not min_area >= 0:
        raise ValueError(f"min_area is at least 0 pixels, not {shown(min_area)}")
    return min_area


class MotionDetector(Detector):
    """Finds what moves before a still background. The camera must not move. The same frames always give the same boxes.

    Of planar frames it looks at the luma, with no conversion. `size` makes it look at a smaller picture, in grey, which takes a
    fraction of the time: of frames of 1080p, 320x180 is enough for people.

    One detector serves any number of cameras, with frames of any sizes: each camera has a background model of its own. Each
    replica builds its models from the frames that it happens to get, so with replicas the boxes may differ from run to run.

    :param history: frames after which the background model forgets.
    :param threshold: how far from the background a pixel must be, as a squared Mahalanobis distance. Of 16 bits a channel,
        256 steps count as one.
    :param min_area: the least area that counts, in pixels of the frame, whatever `size` is.
    :param size: width and height of the picture that it looks at; None for that of the frame. Boxes are in pixels of the frame.
    :raises ValueError: when the size is no width and height, the threshold not above 0, or the least area below 0.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        history: int = 100,
        threshold: float = 25,
        min_area: int = 300,
        size: tuple[int, int] | None = None,
    ) -> None:
        if size is not None and (not isinstance(size, tuple | list) or len(size) != 2 or not all(map(is_count, size))):
            raise ValueError(f"size is a width and a height of at least 1 pixel, such as (320, 180), not {shown(size)}")
        super().__init__(name)
        self._size = None if size is None else (size[0], size[1])
        self._history = history
        self._threshold = _distance(threshold)  # not by the setters, which a subclass may override
        self._min_area = _area(min_area)

    @parameter("threshold")
    def set_threshold(self, threshold: float) -> None:
        """Sets it, also while the routine runs.

        :raises ValueError: when it is not above 0.
        """
        self._threshold = _distance(threshold)

    @parameter("min_area")
    def set_min_area(self, min_area: int) -> None:
        """Sets it, also while the routine runs.

        :raises ValueError: when it is below 0.
        """
        self._min_area = _area(min_area)

    def setup(self) -> None:
        """Starts with an empty background model for each camera."""
        self._models = self.per_origin(
            lambda: cv2.createBackgroundSubtractorMOG2(self._history, self._threshold, detectShadows=True)
        )

    def detect(self, frame: np.ndarray) -> Detections:
        """Returns a box around each thing that moves. The frame is in the format that `self.meta` tells of."""
        picture, across, down = self._looked_at(frame)
        model = self._models[self.meta.origin]
        model.setVarThreshold(self._threshold)  # it may have been set anew
        _, mask = cv2.threshold(model.apply(picture), SHADOW, MOVING, cv2.THRESH_BINARY)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _rectangle(SPECK, across, down))
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _rectangle(GAP, across, down))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        least = self._min_area / (across * down)
        boxes = _corners([cv2.boundingRect(each) for each in contours if cv2.contourArea(each) >= least])
        return Detections(boxes if self._size is None else boxes * np.array([across, down] * 2, np.float32))

    def _looked_at(self, frame: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The picture that is looked at, and how many pixels of the frame one of it has, across and down."""
        format = format_of(frame, self.meta)
        width, height = size_of(frame, format)
        picture = luma(frame, format) if is_planar(format) else frame
        across = down = 1.0
        if self._size is not None:
            # Not INTER_AREA: that takes as long as the model itself, of frames of 1080p.
            picture = resized(picture, None, self._size, interpolation=cv2.INTER_LINEAR)
            picture = to_gray(picture, format) if format in ("bgr", "rgb") else picture
            across, down = width / self._size[0], height / self._size[1]
        return picture if picture.dtype != np.uint16 else picture.astype(np.float32) / 256, across, down


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
        """Returns a box around each object, from left to right. The frame is in the format that `self.meta` tells of."""
        format = format_of(frame, self.meta)
        picture = eight_bits(frame)
        grey = cv2.cvtColor(picture, cv2.COLOR_BGRA2GRAY) if format is None else to_gray(picture, format)
        grey = cv2.equalizeHist(grey)
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

    @parameter("threshold")
    def set_threshold(self, threshold: float) -> None:
        """Sets it, also while the routine runs."""
        self._threshold = threshold

    def setup(self) -> None:
        """Makes the classifier."""
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))

    def detect(self, frame: np.ndarray) -> Detections:
        """A box around each person, from left to right. The score is the distance to the classifier's plane, at most 1.

        The frame is in the format that `self.meta` tells of; of a planar one the luma is looked at.
        """
        format = format_of(frame, self.meta)
        picture = eight_bits(luma(frame, format) if is_planar(format) else frame)
        found, weights = self._hog.detectMultiScale(
            picture, hitThreshold=self._threshold, winStride=(self._stride, self._stride), scale=self._scale
        )
        boxes = _corners(found)
        order = _order(boxes)
        scores = np.minimum(np.asarray(weights, np.float32).ravel(), 1)[order]
        return Detections(boxes[order], scores, np.zeros(len(scores), np.int64), self.NAMES)


def _rectangle(pixels: int, across: float, down: float) -> np.ndarray:
    """A kernel as large as so many pixels of the frame. Its sides are odd, since it would move things otherwise."""
    sides = [2 * round((pixels / scale - 1) / 2) + 1 if scale < pixels else 1 for scale in (across, down)]
    return cv2.getStructuringElement(cv2.MORPH_RECT, sides)


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
