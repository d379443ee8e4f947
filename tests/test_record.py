"""A stream to disk and back."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import Beginning, bikes
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, Wire
from pipert_shm.video import MotionDetector, Recorder, Replay
from routines import Items, Record, Sink, chain, received
from test_detection import digest
from waiting import eventually


def run(*routines: Any) -> Pipe:
    with Pipe(policy="block") as pipe:
        chain(pipe, *routines)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert sum(routine.errors for routine in pipe.statistics().routines.values()) == 0
    return pipe


def test_a_recorded_run_replays_bit_for_bit(tmp_path: Path) -> None:
    camera, detector = Beginning(bikes(), 40, "camera"), MotionDetector("detector")
    recorders = [Recorder(tmp_path / "new" / "frames", "of frames"), Recorder(tmp_path / "new" / "found", "of finds")]
    record = Record("record", tmp_path / "live", digest)
    with Pipe(policy="block") as pipe:
        for routine in (camera, detector, *recorders, record):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(Wire(camera, (detector, recorders[0])), Wire(detector, (record, recorders[1])))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    run(Replay(recorders[0].path, paced=False), MotionDetector(), Record("again", tmp_path / "again", digest))
    run(Replay(recorders[1].path, paced=False), Record("found", tmp_path / "found", digest))
    live = [(message.sequence, message.value) for message in received(tmp_path / "live")]
    assert len(live) == 40
    assert [(message.sequence, message.value) for message in received(tmp_path / "again")] == live
    assert [(message.sequence, message.value) for message in received(tmp_path / "found")] == live


def test_an_earlier_recording_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        recording(tmp_path / "recording", 0)
    assert (tmp_path / "recording-1").read_bytes() == (tmp_path / "recording").read_bytes()


def test_any_payload_comes_back(tmp_path: Path) -> None:
    payloads = [1, "text", {"frame": np.arange(6000).reshape(60, 100)[::2, ::-1]}, np.zeros((0, 3))]
    run(Items("items", payloads), Recorder(tmp_path / "recording"))
    run(Replay(tmp_path / "recording"), Record("record", tmp_path / "got"))
    got = [message.value for message in received(tmp_path / "got")]
    assert pickle.dumps(got) == pickle.dumps(payloads)


class Times(DestinationRoutine):
    """Writes when each message was captured."""

    def __init__(self, path: Path) -> None:
        super().__init__("times")
        self.path = path

    def main_logic(self, data: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{self.meta.captured_ns}\n")


def recording(path: Path, *times_ms: int) -> Path:
    """A recording of messages that were captured at these times."""
    recorder = Recorder(path)
    recorder.setup()
    for number, time_ms in enumerate(times_ms):
        recorder.meta.captured_ns = 10**15 + time_ms * 10**6
        recorder.main_logic(number)
    recorder.cleanup()
    return path


def test_it_keeps_the_time_between_captures(tmp_path: Path) -> None:
    moments = (0, 10, 300, 310, 600)
    run(Replay(recording(tmp_path / "recording", *moments)), Times(tmp_path / "times"))
    times = [int(line) / 1e6 for line in (tmp_path / "times").read_text().split()]
    assert len(times) == len(moments)
    for moment, time in zip(moments, times, strict=True):
        assert time - times[0] >= moment - 5, "never early; how late depends on the machine (the first one may be late, too)"


def test_it_stops_in_a_long_pause_and_starts_again_from_the_first_message(tmp_path: Path) -> None:
    with Pipe(policy="block", grace_period=60) as pipe:
        chain(pipe, Replay(recording(tmp_path / "recording", 0, 10**9), "replay"), Record("record", tmp_path / "got"))
        pipe.build()
        for count in (1, 2):
            pipe.notify_event(START_EVENT_NAME, specific_routine="replay")
            if count == 1:
                pipe.notify_event(START_EVENT_NAME, specific_routine="record")
            eventually(lambda count=count: pipe.statistics().routines["record"].received == count)  # type: ignore[misc]
            pipe.notify_event(STOP_EVENT_NAME, specific_routine="replay")
            eventually(lambda: pipe.statistics().routines["replay"].state == "stopped")
        pipe.join(to_kill=True)
    assert [message.value for message in received(tmp_path / "got")] == [0, 0]


@pytest.mark.parametrize(("cut", "messages_cut"), [(1, 1), (40, 2)])
def test_one_that_breaks_off_is_sent_as_far_as_it_goes_with_a_warning(
    tmp_path: Path, cut: int, messages_cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = recording(tmp_path / "recording", 0, 1, 2)
    path.write_bytes(path.read_bytes()[:-cut])
    replay = Replay(path, paced=False)
    replay.setup()
    with caplog.at_level(logging.WARNING):
        assert [replay.main_logic() for _ in range(3 - messages_cut)] == list(range(3 - messages_cut))
        with pytest.raises(EndOfStream):
            replay.main_logic()
    replay.cleanup()
    assert f"the recording {path} breaks off at byte " in caplog.text


def test_a_whole_one_ends_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(Replay(recording(tmp_path / "recording", 0, 1)), Sink("sink"))
    assert caplog.text == ""


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"something else, of some length")
    replay = Replay(tmp_path / "file")
    with pytest.raises(ValueError, match=r"'.*/file' is no recording of a Recorder"):
        replay.setup()
    replay.cleanup()
    with pytest.raises(FileNotFoundError):
        Replay(tmp_path / "missing").setup()
