"""A network with its head: it finds something in frames of any sizes and formats, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipert_shm.data import Format
from pipert_shm.video.detection import Detections
from pipert_shm.video.models.head import Head
from pipert_shm.video.models.letterbox import Letterbox
from pipert_shm.video.models.runtime import Outputs, Runtime


class Network:
    """A network that is loaded, with the head that reads its outputs. It is used by one thread at a time.

    :param runtime: runs it.
    :param head: reads the outputs.
    :param classes: ids of the classes to keep; None for all.
    :raises ValueError: when the head can't read the outputs of the runtime's trial.
    """

    def __init__(self, runtime: Runtime, head: Head, classes: frozenset[int] | None = None) -> None:
        self.runtime = runtime
        self.head = head
        self.classes = classes
        self.letterbox = Letterbox(head.preprocessing, runtime.size)
        self.read(runtime.trial, 1)

    @property
    def left_out(self) -> int:
        """How many detections the head has left out so far, since they had no box; 0 of a head that does not count them."""
        return getattr(self.head, "left_out", 0)

    def find(self, frames: Sequence[np.ndarray], formats: Sequence[Format]) -> list[Detections]:
        """Returns the detections in each frame, in pixels of that frame. All frames make one batch; they may be crops.

        :param formats: of each frame.
        :raises ValueError: when a frame is not of its format, or the head can't read the outputs.
        """
        blob, placements = self.letterbox.blob(frames, formats)
        outputs = self.runtime.run(blob, self.head.more_inputs(len(frames), self.runtime.size))
        found = self.read(outputs, len(frames))
        return [placement.restored(each) for placement, each in zip(placements, found, strict=True)]

    def read(self, outputs: Outputs, count: int) -> list[Detections]:
        """Returns the detections in each image, in pixels of the network's input.

        :param count: of images in the batch.
        :raises ValueError: when the head can't read the outputs, or returns too many or too few.
        """
        found = self.head(outputs, self.runtime.size)
        if len(found) != count:
            kind = type(getattr(self.head, "_head", self.head)).__name__  # a head that was wrapped says which it is
            raise ValueError(f"{kind} returned {len(found)} Detections for {count} images; it must return one for each")
        if self.classes is None:
            return found
        kept = sorted(self.classes)
        return [each.of_classes(kept) for each in found]
