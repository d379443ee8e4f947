"""`pipert-shm doctor FILE`: the rings that a pipe has, the size of /dev/shm in which it runs, and what is said of others."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import RunCli
from pipert_shm import START_EVENT_NAME, CvtColor
from pipert_shm.binding import Geometry, ring_bytes
from pipert_shm.cli.commands import main
from pipert_shm.cli.run import load
from pipert_shm.cli.shm_needs import Examination, examine
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.shm.listing import list_pipe
from pipert_shm.shm.needs import Needs, Ring
from pipert_shm.shm.rings import page_up
from test_full import pytestmark as needs_mounts
from test_full import small
from waiting import eventually

pytestmark = pytest.mark.shm

WriteFile = Callable[..., Path]

NO_ROOM = "verdict:   it does not fit (rings get fewer slots, or there is none for a routine, which fails)"

CODE = """
import numpy as np
from pipert_shm import (
    Annotator, BatchRoutine, Crop, Detections, Detector, DestinationRoutine, EndOfStream, Join, MiddleRoutine, Pipe, Resize,
    SourceRoutine, VideoSource, Wire,
)

class Camera(SourceRoutine):
    def __init__(self, name, shape, frames=20, declared=True):
        super().__init__(name)
        self.shape, self.frames = shape, frames
        if declared:
            self.declare_output(shape)

    def main_logic(self):
        if self.meta.sequence == self.frames:
            raise EndOfStream
        frame = self.loan(self.shape)
        frame[:] = 1
        return {"frame": frame}

class Batches(BatchRoutine):
    def __init__(self, name):
        super().__init__(name, batch_size=4)
        self.declare_output((0,))

    def main_logic(self, batch):
        return batch

class Bright(Detector):
    def detect(self, frame):
        return Detections([])

class Mosaic(MiddleRoutine):
    def __init__(self, name):
        super().__init__(name)
        self.declare_output((480, 640, 3))

    def main_logic(self, data):
        return self.loan((480, 640, 3))

class Screen(DestinationRoutine):
    def main_logic(self, data): ...

class Both(DestinationRoutine):
    join = Join(by="seq", depth=3)

    def main_logic(self, data): ...
"""

MANY_CAMERAS = """
def make_pipe():
    cameras = [VideoSource("{clip}", "gate", loop=True), VideoSource("{clip}", "yard", loop=True, size=(320, 240))]
    pipe = Pipe(policy="block")
    for camera in cameras:
        pipe.create_flow(camera.name, False, camera)
    pipe.create_flow("detect", False, batches := Batches("batches"))
    pipe.create_flow("compose", True, bright := Bright("bright"), mosaic := Mosaic("mosaic"))
    pipe.create_flow("output", False, screen := Screen("screen"))
    pipe.link(*(Wire(camera, batches) for camera in cameras), Wire(batches, bright), Wire(mosaic, screen))
    return pipe
"""

REPLICAS_AND_A_JOIN = """
def make_pipe():
    pipe = Pipe(policy="block", capacity=5)
    pipe.create_flow("camera", False, camera := VideoSource("{clip}", "camera", loop=True))
    pipe.create_flow("scale", False, scale := Resize((100, 100), "scale"), replicas=2, ordered=True)
    pipe.create_flow("own", True, VideoSource("{clip}", "own", loop=True), Screen("near"))
    pipe.create_flow("output", False, both := Both("both"), screen := Screen("screen"))
    pipe.link(Wire(camera, (scale, both)), Wire(scale, (both, screen)))
    return pipe
"""

PLANAR_FRAMES = """
def make_pipe():
    camera, bright = VideoSource("{clip}", "camera", loop=True, format="nv12"), Bright("bright")
    parts = Crop(8, 4, 64, 48, "crop"), Resize((96, 64), "small"), Annotator(name="draw")
    pipe = Pipe(policy="block")
    for routine in (camera, bright, *parts, screen := Screen("screen")):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(camera, (bright, *parts[:2])), Wire(bright, parts[2]), *(Wire(part, screen) for part in parts))
    return pipe
"""

IN_YAML = """
routines:
  camera: {{class: pipert_shm.VideoSource, parameters: {{source: "{clip}", loop: true}}}}
  half: {{class: pipert_shm.Resize, parameters: {{size: [32, 24]}}}}
  screen: {{class: {module}.Screen}}
flows:
  camera: {{routines: [camera]}}
  output: {{routines: [half]}}
  screen: {{routines: [screen]}}
wires:
  - {{source: camera, destinations: [half, screen], capacity: 3}}
  - {{source: half, destinations: [screen]}}
"""

TOO_MANY_RECEIVERS = """
def make_pipe():
    pipe = Pipe(policy="block", capacity=1)
    pipe.create_flow("camera", False, camera := VideoSource("{clip}", "camera", loop=True))
    for number in range(6):
        pipe.create_flow(f"find{{number}}", False, find := Bright(f"find{{number}}"))
        screens = [Screen(f"screen{{number}}.{{place}}") for place in range(5)]
        pipe.create_flow(f"show{{number}}", False, *screens)
        pipe.link(Wire(camera, find), Wire(find, tuple(screens)))
    return pipe
"""

SMALL_AFTER_LARGE = """
def make_pipe():
    pipe = Pipe(policy="block"{options})
    pipe.create_flow("one", False, large := Camera("large", (1080, 1920, 3)))
    pipe.create_flow("two", False, small := Camera("small", (480, 640, 3), declared={declared}))
    pipe.create_flow("screen", False, screen := Screen("screen"))
    pipe.link(Wire(large, screen), Wire(small, screen))
    return pipe
"""


@pytest.fixture
def write_file(tmp_path: Path, request: pytest.FixtureRequest) -> WriteFile:
    """Writes a pipeline's file, and the code and the clip of five frames that it needs."""
    module = re.sub(r"\W", "_", request.node.name)

    def write(pipeline: str, **options: Any) -> Path:
        writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (128, 96))
        for number in range(5):
            writer.write(np.full((96, 128, 3), 10 * number, np.uint8))
        writer.release()
        text = pipeline.format(**{"clip": tmp_path / "clip.mp4", "module": module, "declared": True, "options": ""} | options)
        is_yaml = text.lstrip().startswith("routines:")
        (tmp_path / f"{module}.py").write_text(CODE if is_yaml else CODE + text)
        if not is_yaml:
            return tmp_path / f"{module}.py"
        (tmp_path / "pipeline.yaml").write_text(text)
        return tmp_path / "pipeline.yaml"

    return write


def sizes(examination: Examination) -> list[tuple[str, int, int]]:
    return sorted((f"ring of {ring.routine}", ring.slots, ring.slot_bytes) for ring in examination.needs.rings)


# ---- what a pipe needs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pipeline",
    [MANY_CAMERAS, REPLICAS_AND_A_JOIN, PLANAR_FRAMES, IN_YAML, TOO_MANY_RECEIVERS],
    ids=["cameras", "replicas", "planar", "yaml", "copies"],
)
def test_the_rings_are_those_of_the_pipe_that_runs(
    write_file: WriteFile, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(pipeline)
    monkeypatch.syspath_prepend(path.parent)
    pipe = load(path).pipe
    examination = examine(pipe)
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: all(wire.received for wire in pipe.statistics().wires.values()))
        assert pipe._session is not None
        listing = list_pipe(pipe._session.segment.pipe_id)
        assert listing is not None
        control, *rings = listing.segments
        assert sizes(examination) == sorted((ring.what, *ring.slots) for ring in rings if ring.slots)
        assert examination.needs.control == page_up(control.size)
        assert examination.needs.in_rings == sum(ring.size for ring in rings)
        pipe.join(to_kill=True)


@needs_mounts
@pytest.mark.parametrize("declared", [True, False], ids=["at build()", "by the first frame"])
def test_it_runs_in_the_size_that_is_advised_and_fails_below_what_is_needed(
    run_cli: RunCli, write_file: WriteFile, declared: bool
) -> None:
    known = write_file(SMALL_AFTER_LARGE)
    told = json.loads(run_cli("doctor", known, "--json").stdout)
    advised, needed = told["shm_size"] >> 20, told["needed"] >> 20
    too_small = small(needed - 18)  # the first ring just fits, and leaves too little for three slots of the second
    assert run_cli("doctor", known, wrap=small(advised)).returncode == 0
    assert run_cli("doctor", known, wrap=too_small).returncode == 1

    path = write_file(SMALL_AFTER_LARGE, declared=declared)
    end = run_cli("run", path, wrap=small(advised))
    assert end.returncode == 0
    assert "small -> screen: 20 sent, 20 received" in end.stderr
    end = run_cli("run", path, wrap=too_small)
    assert end.returncode == 1
    assert "the ring of 'small' (3 slots of 921,600 bytes) needs" in end.stderr
    assert f"Docker: --shm-size={advised}m" in end.stderr


@needs_mounts
def test_what_is_said_where_it_fits_and_where_it_does_not(run_cli: RunCli, write_file: WriteFile) -> None:
    path = write_file(SMALL_AFTER_LARGE)
    fits, small_one = run_cli("doctor", path, wrap=small(1000)), run_cli("doctor", path, wrap=small(64))
    for end, status, verdict in (
        (fits, 0, "verdict:   it fits"),
        (small_one, 1, f"{NO_ROOM}: give /dev/shm the size below, or use smaller frames or shorter queues"),
    ):
        assert (end.returncode, end.stderr) == (status, "")
        assert verdict in end.lines
        assert re.search(r"^large +one +frames +12 +6,221,824 +74,665,984 +declared$", end.stdout, re.MULTILINE)
        assert re.fullmatch(r"  shm_size: 176m  # docker run --shm-size=176m; Kubernetes: .*176Mi", end.lines[-1])


@needs_mounts
def test_another_has_filled_dev_shm(run_cli: RunCli, write_file: WriteFile) -> None:
    fill = "sh", "-c", 'head -c 100M /dev/zero >/dev/shm/full; exec "$@"', "sh"
    end = run_cli("doctor", write_file(SMALL_AFTER_LARGE), wrap=(*small(200), *fill))
    assert end.returncode == 1
    assert f"{NO_ROOM}: something else has filled /dev/shm: see pipert-shm ls, du -h /dev/shm" in end.lines


@needs_mounts
@pytest.mark.parametrize(("budget", "status"), [(70_000_000, 1), (90_000_000, 0)])
def test_a_memory_budget_of_its_own(run_cli: RunCli, write_file: WriteFile, budget: int, status: int) -> None:
    """Rings then take no half of what is free, but what they are given."""
    path = write_file(SMALL_AFTER_LARGE, options=f", memory_budget={budget}")
    end = run_cli("doctor", path, wrap=small(96))
    assert end.returncode == status
    assert ("set memory_budget to 85,803,008 at least, or leave it away" in end.stdout) == bool(status)
    assert end.lines[-1].startswith("  shm_size: 96m ")
    if not status:
        assert run_cli("run", path, wrap=small(96)).returncode == 0


@pytest.mark.parametrize(
    ("code", "times"),
    [(cv2.COLOR_BGR2GRAY, 1 / 3), (cv2.COLOR_GRAY2BGR, 3), (cv2.COLOR_BGR2YUV_I420, 1 / 2)],
)
def test_converted_frames_take_as_much_as_their_channels(code: int, times: float) -> None:
    assert CvtColor(code)._own_frames(1_200_000, look=False) == OwnFrames(int(1_200_000 * times), "converted")


# ---- what a failing ring advises -----------------------------------------------------------------

PLANNED = (Ring(0, "a", "x", "frames", 12, 8192), Ring(1, "b", "y", "frames", 6, 0), Ring(2, "c", "z", "frames", 6, 0))


def slots_of(needs: Needs) -> list[tuple[int, int, int]]:
    return [(ring.owner, ring.slots, ring.slot_bytes) for ring in needs.rings]


def test_frames_that_were_not_seen_yet_are_as_large_as_the_largest_that_were() -> None:
    needs = Needs(PLANNED, 5000).with_ring(1, 6, 40960, [(0, Geometry(3, 8192)), (0, Geometry(8, 4096))])
    assert slots_of(needs) == [(0, 12, 8192), (1, 6, 40960), (2, 6, 40960)]
    assert needs.in_all == 2 * needs.in_rings == 2 * sum(ring.size for ring in needs.rings)


def test_a_ring_beside_one_that_is_still_read_counts_beside_it() -> None:
    """After a restart, or when frames have become larger."""
    needs = Needs(PLANNED, 5000).with_ring(0, 12, 16384, [(0, Geometry(12, 8192)), (1, Geometry(6, 12288))])
    assert slots_of(needs) == [(0, 12, 16384), (1, 6, 12288), (2, 6, 16384), (0, 12, 8192)]


def test_a_ring_that_nobody_planned_counts_too() -> None:
    needs = Needs((), 5000, memory_budget=1 << 20).with_ring(7, 6, 8192, [])
    assert slots_of(needs) == [(7, 6, 8192)]
    assert (needs.in_all, needs.shm_size) == (5000 + ring_bytes(6, 8192), 16 << 20)


# ---- what can't be known -------------------------------------------------------------------------

UNKNOWN = """
def make_pipe():
    pipe = Pipe()
    pipe.create_flow("in", False, camera := VideoSource({source!r}, "camera"), own := Camera("own", (9, 9), declared=False))
    pipe.create_flow("out", False, same := Mosaic("same"), screen := Screen("screen"))
    same._output_bytes = None
    pipe.link(Wire(camera, same), Wire(own, screen), Wire(same, screen))
    return pipe
"""


@pytest.mark.parametrize(
    ("source", "trouble"),
    [
        ("/nowhere/a.mp4", "can't open the video '/nowhere/a.mp4': there is no such file; check the path"),
        (
            "rtsp://me:secret@127.0.0.1:1/live",
            "can't open the video 'rtsp://me:***@127.0.0.1:1/live': Connection refused; no video comes from",
        ),
    ],
)
def test_what_can_t_be_known_is_assumed_and_named(run_cli: RunCli, write_file: WriteFile, source: str, trouble: str) -> None:
    end = run_cli("doctor", write_file(UNKNOWN, source=source))
    assert end.stderr == ""
    rows = {line.split()[0]: line for line in end.lines if re.search(r" frames ", line) and not line.startswith("routine")}
    assert f"assumed: 1920x1080, BGR: {trouble}" in rows["camera"]
    assert rows["own"].endswith("assumed: 1920x1080, BGR")
    assert rows["same"].endswith("assumed: as large as those that it gets")
    (assumed,) = [line for line in end.lines if line.startswith("assumed: ")]
    assert "the frames of camera, own, same; a routine of yours tells their size by declare_output(shape)" in assumed
    assert "secret" not in end.stdout


# ---- files that can't be read --------------------------------------------------------------------

FLOATING = """
from pipert_shm import DestinationRoutine, Pipe

def make_pipe():
    pipe = Pipe()
    pipe.create_flow("a", False, DestinationRoutine("screen"))
    return pipe
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("faulty.yaml", "routines: {camera: {class: nothing.Camera}}\nflows: {one: {routines: [camera, screen]}}\n"),
        ("without.py", "x = 1\n"),
        ("failing.py", "import nothing_of_the_kind\n"),
        ("floating.py", FLOATING),
        ("notes.txt", "routines"),
    ],
)
def test_a_file_that_can_t_be_read(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The errors are those of `run`."""
    (tmp_path / name).write_text(text)
    said = []
    for command, status in (("doctor", 2), ("run", 1)):
        monkeypatch.setattr(sys, "path", [*sys.path])
        assert main([command, str(tmp_path / name)]) == status
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
        out, err = capsys.readouterr()
        assert out == ""
        said.append(err)
    assert said[0] == said[1] != ""


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "none.yaml")]) == 2
    assert "does not exist" in " ".join(capsys.readouterr().err.replace("│", " ").split())
