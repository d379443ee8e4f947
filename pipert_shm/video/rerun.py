"""A destination that shows or keeps frames and what was found in them by Rerun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.pictures import encoded
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.detection import NOT_FINITE, DetectedFrame, Detections, finite, found_in
from pipert_shm.video.detection_output import additional_json
from pipert_shm.video.files import set_aside
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import VideoError

PATIENCE = 3.0  # seconds that the viewer or the disk may take for a message; less than the grace period of a pipe
_broken: list[Any] = []  # recordings that failed: to let go of one, Rerun may wait for ever for the thread that wrote its file


class RerunWriter(DestinationRoutine):
    """Sends what it gets to a Rerun viewer, or writes it to a file that one opens (`pip install 'pipert_shm[rerun]'`).

    Frames, as arrays or in a `FrameData`, are logged as JPEGs to the entity `<origin>`; what was found, in a `DetectedFrame` or
    as `Detections`, as boxes in pixels to `<origin>/detections`, each with its label, its track's number and its score: `person
    #7 0.87`; a payload's `additional_data` as a text, in JSON, to `<origin>/additional_data`. Timelines are `sequence`,
    `capture_time`, and `pts` where the origin tells where in its video a frame stands. A find whose box has NaN or infinity is
    left out, and counted as `not_finite` in the routine's counters.

    Each start, after a crash too, begins a new recording; a file that is there is kept, as `out-1.rrd` for `out.rrd`. When the
    process was killed, the file has all but the message in hand; where that one is there in part, Rerun's reader for Python
    refuses the file. Each message is handed over before the next is taken, so a slow viewer slows the routine, and the wires'
    policies say what is dropped. When a viewer goes away, or the disk is full, each message is an error from then on, which may
    take 3 s, and so is the end; start the flow again. What the viewer had not yet read of those before is lost, and Rerun does
    not say how much. Only the process of the flow loads Rerun.

    :param target: address of a viewer, such as `rerun+http://127.0.0.1:9876/proxy`, or path of a file (`.rrd`), whose directory
        is made where it is missing.
    :param quality: of the JPEGs, 1 to 100.
    :raises ValueError: when the quality is none.
    """

    counter_names = (NOT_FINITE,)

    def __init__(self, target: str | os.PathLike[str], name: str | None = None, *, quality: int = 80) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, not {quality}")
        super().__init__(name)
        self.target = os.fspath(target)
        self._quality = quality
        self._rerun: Any = None  # the package, which only the process of the flow loads
        self._recording: Any = None

    def setup(self) -> None:
        """Connects to the viewer, for which it waits some seconds, or opens the file.

        :raises ImportError: when Rerun is not installed.
        :raises OSError: when the directory can't be made.
        :raises VideoError: when there is no viewer, or the file can't be made.
        """
        try:
            import rerun
        except ModuleNotFoundError as error:
            raise ImportError(f"Rerun is not installed ({error}): pip install 'pipert_shm[rerun]'") from error
        rerun.set_strict_mode(True)  # errors, which else become warnings
        recording = rerun.RecordingStream("pipert_shm")
        try:
            if "://" in self.target:
                recording.connect_grpc(self.target)
                recording.flush(timeout_sec=PATIENCE)  # raises where nobody listens, as connecting does not
            else:
                path = Path(self.target)
                path.parent.mkdir(parents=True, exist_ok=True)
                set_aside(path)
                recording.save(path)
        except RuntimeError as error:
            raise self._cannot_write(error) from error
        self._rerun, self._recording = rerun, recording

    def main_logic(self, data: np.ndarray | FrameData | Detections) -> None:
        """Logs one frame, (height, width[, 3]) uint8, BGR or grey, or what was found in it, or both.

        :raises TypeError: when it is none of them.
        :raises ValueError: when the frame can't be encoded.
        :raises VideoError: when the file can't be written, or the viewer does not take it in 3 s.
        """
        assert self._recording is not None, "setup() comes first"
        self._recording.reset_time()  # else a message without pts has that of the one before
        self._recording.set_time("sequence", sequence=self.meta.sequence)
        self._recording.set_time("capture_time", timestamp=self.meta.capture_time)
        if self.meta.pts is not None:
            self._recording.set_time("pts", duration=self.meta.pts)
        if not isinstance(data, Detections):
            jpeg = encoded(frame_of(data), self._quality)
            self._log([self.meta.origin], self._rerun.EncodedImage(contents=jpeg, media_type="image/jpeg"))
        if isinstance(data, Detections | DetectedFrame):
            self._log([self.meta.origin, "detections"], self._boxes(finite(self, found_in(data))))
        if (more := additional_json(data)) is not None:
            self._log([self.meta.origin, "additional_data"], self._rerun.TextDocument(more))
        self._hand_over()  # logging alone raises nothing when the disk is full

    def _hand_over(self) -> None:
        try:
            self._recording.flush(timeout_sec=PATIENCE)
        except RuntimeError as error:
            raise self._cannot_write(error) from error

    def _log(self, parts: list[str], what: Any) -> None:
        self._recording.log(self._rerun.new_entity_path(parts), what)

    def _boxes(self, found: Detections) -> Any:
        low, high = found.boxes[:, :2], found.boxes[:, 2:]
        columns = [found.labels]
        if found.track_ids is not None:
            columns.append([f"#{number}" if number >= 0 else "" for number in found.track_ids.tolist()])
        if found.scores is not None:
            columns.append([f"{score:.2f}" for score in found.scores.tolist()])
        labels = [" ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
        return self._rerun.Boxes2D.from_fields(
            clear_unset=True,  # else the labels of the message before stay
            centers=(low + high) / 2,
            half_sizes=(high - low) / 2,
            labels=labels if any(labels) else None,
        )

    def _cannot_write(self, error: RuntimeError) -> VideoError:
        check = (
            "a viewer listens there"
            if "://" in self.target
            else "it is not a directory, that this user may write it, and that the disk is not full"
        )
        return VideoError(self.target, f"can't write to {self.target!r} by Rerun: {error}; check that {check}")

    def cleanup(self) -> None:
        """Ends the recording.

        :raises VideoError: when it is not whole, since the file can't be written, or the viewer has gone.
        """
        if self._recording is not None:
            recording = self._recording
            try:
                self._hand_over()
            except VideoError:
                _broken.append(recording)
                raise
            finally:
                self._recording = None
            recording.disconnect()
