"""Reads what torchvision's detectors return: a dict for each image, with boxes, labels and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipert_shm.video.detection import Detections
from pipert_shm.video.models.head import PlainHead, check_scores, checked_share
from pipert_shm.video.models.preprocessing import Preprocessing
from pipert_shm.video.names import Names, checked_names

OUTPUTS = ("boxes", "labels", "scores")
THRESHOLD = 0.25
NONE = -1.0  # the score of a row that only fills up


def packed(results: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """Makes arrays of torchvision's dicts, whose first axis is the batch: boxes (n, m, 4), labels and scores (n, m).

    Rows that only fill up have the score -1. What else the dicts hold, such as masks, is left out.

    :raises ValueError: when a dict lacks one of the three.
    """
    if lacking := [name for name in OUTPUTS if any(name not in each for each in results)]:
        raise ValueError(f"the module returned dicts without {', '.join(lacking)}; torchvision's have {', '.join(OUTPUTS)}")
    most = max(len(each["scores"]) for each in results)
    boxes = np.zeros((len(results), most, 4), np.float32)
    labels = np.zeros((len(results), most), np.int64)
    scores = np.full((len(results), most), NONE, np.float32)
    for number, each in enumerate(results):
        count = len(each["scores"])
        boxes[number, :count], labels[number, :count], scores[number, :count] = (each[name] for name in OUTPUTS)
    return [boxes, labels, scores]


class TorchvisionHead(PlainHead):
    """Reads torchvision's detectors, which scale and normalise by themselves: pixels go in from 0 to 1, in RGB.

    :param names: class names by label. torchvision's weights tell theirs: `weights.meta["categories"]`.
    :param threshold: least score that counts, 0 to 1.
    :raises TypeError: when the names are not a list or dict of names.
    :raises ValueError: when the threshold is out of range.
    """

    preprocessing = Preprocessing()

    def __init__(self, names: Names = (), *, threshold: float = THRESHOLD) -> None:
        self.names = checked_names(names)
        self.threshold = checked_share("threshold", threshold)

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when these are not boxes, labels and scores, or a label has no name.
        """
        boxes, labels, scores = outputs
        found = []
        for image, of_image, sure in zip(boxes, labels, scores, strict=True):
            check_scores(sure[sure != NONE])
            likely = sure > self.threshold
            found.append(Detections(image[likely], sure[likely], of_image[likely], self.names))
        return found
