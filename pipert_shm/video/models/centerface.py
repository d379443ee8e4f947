"""The head for CenterFace, a network that finds faces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipert_shm.video.detection import Detections
from pipert_shm.video.models.head import PlainHead, check_scores, checked_share, shapes, suppressed
from pipert_shm.video.models.preprocessing import Preprocessing

CHANNELS = [1, 2, 2, 10]
"""Of its outputs: how likely a face is there, its size, its centre's offset, and five points of it."""

_STRIDE = 4  # pixels of the input for each pixel of the heat map


class CenterFaceHead(PlainHead):
    """Reads CenterFace, a network that finds faces. Five keypoints belong to each: the eyes, the nose, the corners of the
    mouth.

    :param threshold: least score that counts, 0 to 1.
    :param overlap: intersection over union from which two boxes count as the same face, 0 to 1.
    :raises ValueError: when one of them is out of range.
    """

    preprocessing = Preprocessing(scale=1.0, centred=False)
    names = ("face",)

    def __init__(self, *, threshold: float = 0.5, overlap: float = 0.3) -> None:
        self.threshold = checked_share("threshold", threshold)
        self.overlap = checked_share("overlap", overlap)

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when these are not the outputs of a CenterFace.
        """
        channels = [each.shape[1] if each.ndim == 4 else 0 for each in outputs]
        if channels != CHANNELS or len({each.shape[2:] for each in outputs}) != 1:
            raise ValueError(
                f"CenterFace has outputs of 1, 2, 2 and 10 channels, of one size, not {shapes(outputs)}: it is another one"
            )
        heat, scale, offset, points = outputs
        return [self._image(*each) for each in zip(heat[:, 0], scale, offset, points, strict=True)]

    def _image(self, heat: np.ndarray, scale: np.ndarray, offset: np.ndarray, points: np.ndarray) -> Detections:
        check_scores(heat)
        rows, columns = np.nonzero(heat > self.threshold)
        places = np.stack([rows, columns])
        score = heat[rows, columns]
        lengths = np.exp(scale[:, rows, columns]) * _STRIDE  # vertical before horizontal, as in all that the network gives
        centre = (places + offset[:, rows, columns] + 0.5) * _STRIDE
        first, last = centre - lengths / 2, centre + lengths / 2
        corners = np.stack([*first[::-1], *last[::-1]], axis=1)
        faces = np.zeros(len(score), np.int64)
        kept = suppressed(corners, score, faces, self.threshold, self.overlap)
        down = points[0::2, rows, columns] * lengths[0] + first[0]
        right = points[1::2, rows, columns] * lengths[1] + first[1]
        seen = np.stack([right.T, down.T, np.ones_like(down.T)], axis=2)
        return Detections(corners[kept], score[kept], faces[kept], self.names, keypoints=seen[kept])
