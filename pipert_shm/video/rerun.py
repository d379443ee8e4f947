"""The destination that sends frames and detections to Rerun, a viewer, or to a file for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.display.pictures import encoded, viewable
from pipert_shm.extras import to_install
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.detection import NOT_FINITE, DetectedFrame, Detections, finite, found_in
from pipert_shm.video.detection_output import additional_json
from pipert_shm.video.files import set_aside
from pipert_shm.video.formats import format_of, is_planar, size_of
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import VideoError

PATIENCE = 3.0  # seconds that the viewer or the disk may take for a message; shorter than the grace period of a pipe
_broken: list[Any] = []  # failed recordings: when one is freed, Rerun may wait for its thread for ever


class RerunWriter(DestinationRoutine):
    """Sends frames and detections to a Rerun viewer, or to a file for one (the extra `rerun`).

    Frames of every format, as arrays or in a `FrameData`, go to the entity `<origin>` as JPEGs. With `quality=None` they go as
    they are: planar ones take half the room of BGR then, and 16 bits a channel are kept. Detections, as `Detections` or in a
    `DetectedFrame`, go to `<origin>/detections` as boxes in pixels, each with its label, track and score: `person #7 0.87`. A
    payload's `additional_data` goes to `<origin>/additional_data` as JSON. Timelines are `sequence`, `capture_time`, and `pts`
    if the origin knows it. A detection whose box has NaN or infinity is left out. The counter `not_finite` counts these.

    Each start, after a crash too, begins a new recording. An earlier file is kept: `out.rrd` as `out-1.rrd`. If the process is
    killed, the file lacks only the message in hand; if a part of that one was written, Rerun's reader for Python refuses the
    file.

    Each message is handed over before the next is taken, so a slow viewer slows the routine, and the wires' policies say what
    is dropped. When the viewer goes away or the disk is full, each later message is an error, which may take 3 s, and so is the
    end: start the flow again. Earlier messages that the viewer had not read yet are lost, and Rerun does not say how many.
    Only the flow's process loads Rerun.

    :param target: address of a viewer, such as `rerun+http://127.0.0.1:9876/proxy`, or path of a file (`.rrd`); a missing
        directory is made.
    :param quality: of the JPEGs, 1 to 100; None encodes nothing, which saves time and takes up to thirty times the room.
    :raises ValueError: when the quality is out of range.
    """

    counter_names = (NOT_FINITE,)

    def __init__(self, target: str | os.PathLike[str], name: str | None = None, *, quality: int | None = 80) -> None:
        if quality is not None and not 1 <= quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, or None for no JPEGs, not {quality}")
        super().__init__(name)
        self.target = os.fspath(target)
        self._quality = quality
        self._rerun: Any = None  # the package, which only the flow's process loads
        self._recording: Any = None

    def setup(self) -> None:
        """Connects to the viewer, and waits for it for some seconds; or opens the file.

        :raises ImportError: when Rerun is not installed.
        :raises OSError: when the directory can't be made.
        :raises VideoError: when there is no viewer, or the file can't be made.
        """
        try:
            import rerun
        except ModuleNotFoundError as error:
            raise ImportError(f"Rerun is not installed ({error}): {to_install('rerun')}") from error
        rerun.set_strict_mode(True)  # otherwise errors become warnings
        recording = rerun.RecordingStream("pipert_shm")
        try:
            if "://" in self.target:
                recording.connect_grpc(self.target)
                recording.flush(timeout_sec=PATIENCE)  # connecting alone does not raise if nobody listens
            else:
                path = Path(self.target)
                path.parent.mkdir(parents=True, exist_ok=True)
                set_aside(path, self._logger)
                recording.save(path)
        except RuntimeError as error:
            raise self._cannot_write(error) from error
        self._rerun, self._recording = rerun, recording

    def main_logic(self, data: np.ndarray | FrameData | Detections) -> None:
        """Logs a frame, or its detections, or both.

        :raises TypeError: when the payload is none of these.
        :raises ValueError: when the frame can't be encoded.
        :raises VideoError: when the file can't be written, or the viewer does not take the message within 3 s.
        """
        assert self._recording is not None, "setup() comes first"
        self._recording.reset_time()  # otherwise a message without pts keeps that of the one before
        self._recording.set_time("sequence", sequence=self.meta.sequence)
        self._recording.set_time("capture_time", timestamp=self.meta.capture_time)
        if self.meta.pts is not None:
            self._recording.set_time("pts", duration=self.meta.pts)
        if not isinstance(data, Detections):
            self._log([self.meta.origin], self._picture(frame_of(data)))
        if isinstance(data, Detections | DetectedFrame):
            self._log([self.meta.origin, "detections"], self._boxes(finite(self, found_in(data))))
        if (more := additional_json(data)) is not None:
            self._log([self.meta.origin, "additional_data"], self._rerun.TextDocument(more))
        self._hand_over()  # logging alone raises nothing when the disk is full

    def _picture(self, frame: np.ndarray) -> Any:
        format = format_of(frame, self.meta)
        if self._quality is not None:
            jpeg = encoded(viewable(frame, format), self._quality)
            return self._rerun.EncodedImage(contents=jpeg, media_type="image/jpeg")
        if is_planar(format):
            width, height = size_of(frame, format)
            kinds = self._rerun.PixelFormat
            kind = kinds.NV12 if format == "nv12" else kinds.Y_U_V12_LimitedRange
            return self._rerun.Image(pixel_format=kind, width=width, height=height, bytes=frame.tobytes())
        return self._rerun.Image(frame, color_model={"bgr": "BGR", "rgb": "RGB", "gray": "L", None: "BGRA"}[format])

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
            clear_unset=True,  # otherwise the labels of the message before stay
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

        :raises VideoError: when the recording is not whole: the file can't be written, or the viewer has gone.
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
