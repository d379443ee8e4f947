"""A stream to disk and back."""

from __future__ import annotations

import contextlib
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from conftest import RunScript
from media import Beginning, bikes, largest_file
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, PipertError, Wire
from pipert_shm.data import Meta
from pipert_shm.video import DetectedFrame, Detections, MotionDetector, Recorder, Replay, VideoError
from pipert_shm.video.mcap import McapWriter, Part
from pipert_shm.video.recording import MCAP_MAGIC, OF_PICKLES, UntrustedRecording
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


def replayed(path: Path, *, trust: bool = False) -> list[Any]:
    """All payloads of a recording, in this process."""
    replay = Replay(path, paced=False, trust=trust)
    replay.setup()
    payloads = []
    with contextlib.suppress(EndOfStream, PipertError):  # what is wrong cleanup() says again
        while True:
            payloads.append(replay.main_logic())
    replay.cleanup()
    return payloads


def recorded(path: Path, *payloads: Any) -> Path:
    recorder = Recorder(path)
    recorder.setup()
    for payload in payloads:
        recorder.main_logic(payload)
    recorder.cleanup()
    return path


def test_each_camera_of_a_recording_is_replayed_by_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "both"
    recorder = Recorder(path)
    recorder.setup()
    for number, origin in enumerate("abab"):
        recorder.meta = Meta((origin,), 0, number)
        recorder.main_logic({"from": origin, "frame": np.full((64, 64), number, np.uint8)})
    recorder.cleanup()
    expected: dict[str | None, list[str]] = {"a": ["a", "a"], "b": ["b", "b"], None: ["a", "b", "a", "b"]}
    for camera, wanted in expected.items():
        replay = Replay(path, paced=False, origin=camera)
        replay.setup()
        assert [payload["from"] for payload in iter_payloads(replay)] == wanted
        replay.cleanup()
    (record,) = caplog.records
    assert "is of several origins ('a', 'b', …)" in record.getMessage()
    replay = Replay(path, origin="c")
    replay.setup()
    with pytest.raises(VideoError, match="has nothing of 'c'; it is of 'a', 'b'"):
        replay.main_logic()
    with pytest.raises(VideoError):
        replay.cleanup()


def iter_payloads(replay: Replay) -> Iterator[Any]:
    """All that it sends, but for what is pickled."""
    with contextlib.suppress(EndOfStream):
        while True:
            yield replay.main_logic()


def test_an_earlier_recording_is_kept(tmp_path: Path) -> None:
    for number in range(2):
        recorded(tmp_path / "recording.mcap", number)
    assert replayed(tmp_path / "recording-1.mcap") == [0]
    assert replayed(tmp_path / "recording.mcap") == [1]


def test_any_payload_comes_back(tmp_path: Path) -> None:
    payloads = [1, "text", {"frame": np.arange(6000).reshape(60, 100)[::2, ::-1]}, np.zeros((0, 3))]
    run(Items("items", payloads), Recorder(tmp_path / "recording"))
    run(Replay(tmp_path / "recording"), Record("record", tmp_path / "got"))
    got = [message.value for message in received(tmp_path / "got")]
    assert pickle.dumps(got) == pickle.dumps(payloads)


RNG = np.random.default_rng(1)
PICTURES = [
    RNG.integers(0, 255, (5, 7, 3), np.uint8),
    RNG.integers(0, 255, (5, 7, 1), np.uint8),
    RNG.integers(0, 255, (5, 7, 4), np.uint8)[::-1, ::2],
    RNG.integers(0, 255, (5, 7), np.uint8),
    RNG.integers(0, 60000, (5, 7), np.uint16),
    RNG.random((3, 4), np.float32),
]
ARRAYS = [np.arange(3, dtype=">i4"), np.array([], "M8[ms]"), np.full((2, 2), np.nan), np.array(5.0), np.ones((2, 3, 2), bool)]
SCALARS = [None, True, -(10**30), 1.5, float("inf"), "\udc80 text", b"\0\xff", np.float32(0.1), np.int64(7)]
NESTED: list[Any] = [{"a": [1, (2, "b")], "$picture": 5}, {3: {"x": PICTURES[0]}, (1, 2): None}, [PICTURES, ARRAYS], {}]


@pytest.mark.parametrize("payload", [*PICTURES, *ARRAYS, *SCALARS, *NESTED], ids=lambda payload: type(payload).__name__)
def test_plain_payloads_come_back_without_a_pickle(tmp_path: Path, payload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recorded(tmp_path / "recording.mcap", payload, payload)
    with monkeypatch.context() as patched:
        patched.setattr(pickle, "loads", None)
        got = replayed(path)
    assert [pickle.dumps(one) for one in got] == [pickle.dumps(_in_order(payload))] * 2


def _in_order(payload: Any) -> Any:
    """The same, with arrays as they lie after a copy."""
    return np.ascontiguousarray(payload) if isinstance(payload, np.ndarray) and payload.ndim else payload


def test_a_detected_frame_comes_back_without_a_pickle(tmp_path: Path) -> None:
    frame = DetectedFrame(PICTURES[0], Detections([[1, 2, 3, 4]], [0.5], [1], ("cat", "dog"), [9]))
    frame.additional_data["weather"] = {"fog": 0.5}
    (got,) = replayed(recorded(tmp_path / "recording.mcap", frame))
    assert digest(got) == digest(frame)
    assert (got.detections.labels, got.additional_data) == (["dog"], frame.additional_data)


def test_tools_for_mcap_read_it(tmp_path: Path) -> None:
    path = recorded(tmp_path / "recording.mcap", *PICTURES[:1] * 3, {"boxes": [1], "frame": PICTURES[0]})
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        messages = [(channel.topic, schema and schema.name) for schema, channel, _ in reader.iter_messages()]
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == 5
    image = "sensor_msgs/msg/Image"
    assert sorted(schema or "" for _, schema in messages) == ["", *[image] * 4]


@dataclass
class Own:
    """A class that only a pickle keeps."""

    value: int


def test_what_is_pickled_is_replayed_only_if_it_is_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = recorded(tmp_path / "recording.mcap", 1, Own(2), Own(3))
    assert caplog.text.count("they are pickled, and replayed only by Replay(…, trust=True)") == 1
    with pytest.raises(UntrustedRecording, match=r"payloads that are pickled.*Replay\('.*recording.mcap', trust=True\)"):
        replayed(path)
    assert replayed(path, trust=True) == [1, Own(2), Own(3)]


def test_one_of_an_earlier_version_is_replayed_only_if_it_is_trusted(tmp_path: Path) -> None:
    with (tmp_path / "old").open("wb") as file:
        file.write(OF_PICKLES)
        for number in range(3):
            pickle.dump((number, {"number": number}), file, protocol=5)
    with pytest.raises(UntrustedRecording, match=r"the pickles of an earlier version.*trust=True"):
        replayed(tmp_path / "old")
    assert replayed(tmp_path / "old", trust=True) == [{"number": number} for number in range(3)]


def test_what_does_not_pickle_is_an_error_of_its_own(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "recording.mcap")
    recorder.setup()
    recorder.main_logic(1)
    with pytest.raises(VideoError, match="does not pickle"):
        recorder.main_logic(lambda: None)
    recorder.main_logic(2)
    recorder.cleanup()
    assert replayed(recorder.path) == [1, 2]


def test_of_a_process_that_was_killed_every_message_is_there(tmp_path: Path, run_script: RunScript) -> None:
    ended = run_script(
        f"""
        import os, signal
        import numpy as np
        from pipert_shm.video import Recorder

        recorder = Recorder({str(tmp_path / "recording.mcap")!r})
        recorder.setup()
        for number in range(10):
            recorder.main_logic({{"number": number, "frame": np.full((400, 400), number, np.uint8)}})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert ended.returncode == -signal.SIGKILL
    got = replayed(tmp_path / "recording.mcap")
    assert [payload["number"] for payload in got] == [int(payload["frame"].mean()) for payload in got] == list(range(10))


@pytest.mark.parametrize("is_freed", [True, False])
def test_what_a_full_disk_does_not_take_is_an_error_and_nothing_else_is_lost(tmp_path: Path, is_freed: bool) -> None:
    recorder = Recorder(tmp_path / "recording.mcap")
    recorder.setup()
    kept, told = [], set()
    with contextlib.ExitStack() as stack:
        stack.enter_context(largest_file(100_000))
        for number in range(30):
            if is_freed and number == 20:
                stack.pop_all().close()
            try:
                recorder.main_logic([number, np.full(int(1000 * 1.3 ** (number % 10)), number)])
            except VideoError as error:
                told.add(str(error).split(": ")[-1])
            else:
                kept.append(number)
        with contextlib.nullcontext() if is_freed else pytest.raises(VideoError, match="can't write"):
            recorder.cleanup()
    assert told == {"File too large; check that the disk has room; what comes is written again when it has"}
    got = replayed(recorder.path)
    assert [number for number, _ in got] == kept
    assert all((array == number).all() for number, array in got)
    assert kept[-10:] == list(range(20, 30)) or not is_freed
    assert recorder.path.read_bytes().endswith(MCAP_MAGIC), "nothing half written stands behind its end"


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


def test_one_that_breaks_off_is_sent_as_far_as_it_goes_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    payloads = [[number, np.arange(number)] for number in range(4)]
    whole = recorded(tmp_path / "whole.mcap", *payloads).read_bytes()
    path, counts = tmp_path / "cut.mcap", set()
    for size in range(len(MCAP_MAGIC), len(whole), 7):
        path.write_bytes(whole[:size])
        caplog.clear()
        got = replayed(path)
        counts.add(len(got))
        assert pickle.dumps(got) == pickle.dumps(payloads[: len(got)])
        assert f"the recording {path} breaks off at byte " in caplog.text or len(got) == len(payloads)
    assert counts == set(range(5))


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_one_ends_or_says_so(tmp_path: Path, seed: int) -> None:
    data = bytearray(recorded(tmp_path / "whole.mcap", PICTURES[0], {"a": [1, ARRAYS[0]]}, "text").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(MCAP_MAGIC), len(data), 5):
        data[place] = rng.integers(256)
    (tmp_path / "damaged.mcap").write_bytes(data)
    with contextlib.suppress(VideoError, UntrustedRecording):
        replayed(tmp_path / "damaged.mcap")


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


# ---- what can't be read ----------------------------------------------------------------------------


def crafted(path: Path, encoding: str, *texts: bytes) -> Path:
    writer = McapWriter(path)
    channel = writer.channel(f"/camera/{encoding}", encoding, "payload")
    for number, text in enumerate(texts):
        writer.write(1000 + number, number, [Part(channel, [text])])
    writer.finish()
    writer.close()
    return path


def calls_of(replay: Replay) -> list[Any]:
    """What each call gives, and "error" for each that raises one, until the end of the stream."""
    replay.setup()
    given: list[Any] = []
    while len(given) < 20:
        try:
            given.append(replay.main_logic())
        except EndOfStream:
            break
        except PipertError:
            given.append("error")
    return given


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        ("json", b'{"$array":{"dtype":"{","shape":[1],"data":"AAAA"}}'),
        ("json", b'{"$array":{"dtype":"u1","shape":[1000000000000000000000000000000],"data":"AAAA"}}'),
        ("json", b'{"$picture":7}'),
        ("json", b"[" * 200_000),
        ("pickle", b"cno_such_module\nThing\n."),
        ("pickle", b"garbage"),
    ],
)
def test_a_message_that_cannot_be_read_costs_itself_alone(tmp_path: Path, encoding: str, bad: bytes) -> None:
    one, two = (b"1", b"2") if encoding == "json" else (pickle.dumps(1), pickle.dumps(2))
    replay = Replay(crafted(tmp_path / "crafted.mcap", encoding, one, bad, two, bad), paced=False, trust=True)
    assert calls_of(replay) == [1, "error", 2, "error"]
    with pytest.raises(VideoError, match=r"message 4 of the recording .* can't be read, and is left out"):
        replay.cleanup()


@pytest.mark.parametrize(
    "bad", [b"cno_such_module\nThing\n.", pickle.dumps("no pair")], ids=["a class that has gone", "no pair"]
)
def test_an_old_recording_that_cannot_be_read_on_says_so_in_the_end(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "old"
    path.write_bytes(OF_PICKLES + pickle.dumps((1, "first")) + bad + pickle.dumps((2, "second")))
    replay = Replay(path, paced=False, trust=True)
    assert calls_of(replay) == ["first", "error"]
    with pytest.raises(VideoError, match="what follows is not sent"):
        replay.cleanup()


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_compressed_chunk_that_is_damaged_says_so_in_the_end(tmp_path: Path, compression: CompressionType) -> None:
    """Of a recording that another tool has compressed."""
    path = tmp_path / "compressed.mcap"
    with path.open("wb") as file:
        writer = Writer(file, compression=compression)
        writer.start()
        channel = writer.register_channel("/camera/data", "json", 0, {"pipert_shm": "payload"})
        for number in range(3):
            writer.add_message(channel, number, b'"%s"' % (b"%d" % number * 999), number)
        writer.finish()  # type: ignore[no-untyped-call]
    assert len(replayed(path)) == 3
    data = bytearray(path.read_bytes())
    magic = {CompressionType.ZSTD: b"\x28\xb5\x2f\xfd", CompressionType.LZ4: b"\x04\x22\x4d\x18"}[compression]
    at = data.index(magic)
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    replay = Replay(path, paced=False)
    assert calls_of(replay) == ["error"]
    with pytest.raises(VideoError, match="what follows is not sent"):
        replay.cleanup()


def test_two_recorders_of_one_path_have_a_file_each(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path / "all.mcap") for _ in range(2)]
    for recorder in recorders:
        recorder.setup()
    for number, recorder in enumerate(recorders * 3):
        recorder.main_logic(number)
    for recorder in recorders:
        recorder.cleanup()
    assert [replayed(tmp_path / name) for name in ("all.mcap", "all-1.mcap")] == [[0, 2, 4], [1, 3, 5]]
