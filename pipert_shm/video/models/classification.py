"""The head for networks that tell of what kind a whole picture is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.limits import is_count
from pipert_shm.video.detection import Detections
from pipert_shm.video.models.head import PlainHead, check_scores, checked_share, every_name, shapes, softmax
from pipert_shm.video.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipert_shm.video.names import Names

Scores = Literal["probabilities", "logits"]

CROPPED = Preprocessing(fit="crop", antialias=True)
IMAGENET = Preprocessing(fit="crop", antialias=True, mean=IMAGENET_MEAN, std=IMAGENET_STD, margin=0.875)
"""How torchvision's classifiers for 224 pixels want their pictures."""


class ClassificationHead(PlainHead):
    """Reads networks that tell of what kind a picture is: one output, (batch, classes).

    A detection stands for the picture's class. Its box is the part of the frame that the network saw.

    :param names: class names: a list, or a dict by id.
    :param scores: what the output is: `probabilities`, as of Ultralytics' exports, or `logits`, which become probabilities by a
        softmax, as of torchvision's.
    :param threshold: least score that counts, 0 to 1.
    :param top: how many classes are told at most, the likeliest first.
    :param preprocessing: by default that of Ultralytics: the middle of the picture, without means and deviations.
    :raises TypeError: when the names are not a list or dict of names.
    :raises ValueError: when an id has no name, a number is out of range, or there is no such choice.

    >>> head = ClassificationHead(["cat", "dog"], scores="logits")
    >>> (found,) = head([np.array([[1.0, 3.0]], np.float32)], (224, 224))
    >>> found.labels, found.boxes.tolist()
    (['dog'], [[0.0, 0.0, 224.0, 224.0]])
    """

    def __init__(
        self,
        names: Names,
        *,
        scores: Scores = "probabilities",
        threshold: float = 0.25,
        top: int = 1,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.names = every_name(names, type(self).__name__)
        if scores not in get_args(Scores):
            raise ValueError(f"scores must be one of {', '.join(get_args(Scores))}, not {shown(scores)}")
        if not is_count(top):
            raise ValueError(f"top is how many classes are told, at least 1, not {shown(top)}")
        self.scores = scores
        self.threshold = checked_share("threshold", threshold)
        self.top = int(top)
        self.preprocessing = preprocessing or CROPPED

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        """Returns the class of each image, or several, as detections.

        :raises ValueError: when the output does not have a shape that goes with the names, or holds what can't be meant.
        """
        count = len(self.names)
        if len(outputs) != 1 or outputs[0].shape[1:2] != (count,) or outputs[0][:1].size != count:
            raise ValueError(
                f"with {count} names the network's one output is (batch, {count}), not {shapes(outputs)}; give the names that "
                "it was trained with"
            )
        output = np.asarray(outputs[0], np.float32).reshape(-1, count)
        return [self._image(softmax(each) if self.scores == "logits" else each, size) for each in output]

    def _image(self, scores: np.ndarray, size: tuple[int, int]) -> Detections:
        check_scores(scores)
        best = np.argsort(-scores, kind="stable")[: self.top]
        best = best[scores[best] > self.threshold]
        return Detections([[0, 0, *size]] * len(best), scores[best], best, self.names)
