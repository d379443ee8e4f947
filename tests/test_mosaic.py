"""Several cameras in one picture: a tile each, with its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, Display, MjpegServer, Pipe, Routine, SourceRoutine, Wire
from pipert_shm.api.preview import _sources
from pipert_shm.display import pictures as ours
from pipert_shm.display.pictures import Mosaic
from pipert_shm.graph.model import Defaults
from pipert_shm.graph.plan import make_plan
from pipert_shm.transmitters import SharedMemoryTransmitter
from routines import Forward, Sink
from serving import Served, serving
from test_screen import pictures, port, viewer
from waiting import Board, eventually

__all__ = ["port"]  # a fixture

LABEL = 24  # pixels of a tile that its name takes, at most


def plain(shade: int, shape: tuple[int, ...] = (240, 320, 3)) -> np.ndarray:
    return np.full(shape, shade, np.uint8)


def tiles(picture: np.ndarray, rows: int, columns: int) -> list[int]:
    """The shade in the middle of each place."""
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    return [
        int(picture[row * height + height // 2, column * width + width // 2, 0])
        for row in range(rows)
        for column in range(columns)
    ]


def test_one_camera_s_picture_is_its_frame() -> None:
    mosaic = Mosaic()
    for _ in range(3):
        frame = np.zeros((1080, 1920), np.float32)  # whatever it is
        assert mosaic.add("a", frame) is frame


@pytest.mark.parametrize(
    ("count", "rows", "columns", "shape"),
    [
        (2, 1, 2, (240, 640)),
        (3, 2, 2, (480, 640)),
        (4, 2, 2, (480, 640)),
        (5, 2, 3, (480, 960)),
        (9, 3, 3, (720, 960)),
        (17, 4, 5, (768, 1280)),
    ],
)
def test_as_many_tiles_as_cameras_in_the_order_of_their_names(
    count: int, rows: int, columns: int, shape: tuple[int, int]
) -> None:
    mosaic = Mosaic()
    for number in reversed(range(count)):
        mosaic.put(f"camera{number}", plain(10 + 10 * number))
    picture = mosaic.picture()
    assert picture.shape == (*shape, 3)
    assert tiles(picture, rows, columns) == [10 + 10 * n if n < count else 0 for n in range(rows * columns)]


def test_large_frames_are_made_small_and_each_keeps_its_proportions() -> None:
    mosaic = Mosaic()
    for name, shape in (("a", (1080, 1920, 3)), ("b", (1080, 1920, 3)), ("c", (1920, 1080, 3)), ("d", (60, 80, 3))):
        mosaic.put(name, plain(200, shape))
    picture = mosaic.picture()
    assert picture.shape == (720, 1280, 3)
    rows, columns = np.nonzero(picture[360:, :640, 0] == 200)
    assert (columns.min(), columns.max()) == (219, 420), "a portrait, in the middle"
    assert rows.max() == 359
    _, columns = np.nonzero(picture[360:, 640:, 0] == 200)
    assert columns.max() - columns.min() + 1 == 480, "4:3"


@pytest.mark.parametrize("shape", [(240, 320), (240, 320, 1), (240, 320, 4)])
def test_grey_and_transparent_frames_are_pictures_too(shape: tuple[int, ...]) -> None:
    mosaic = Mosaic()
    mosaic.put("a", plain(77, shape))
    mosaic.put("b", plain(99)[::-1, ::-1])
    assert tiles(mosaic.picture(), 1, 2) == [77, 99]


def test_what_is_no_picture_is_refused_once_there_are_several_cameras() -> None:
    mosaic = Mosaic()
    mosaic.add("a", plain(1))
    with pytest.raises(ValueError, match="of float64, which are no pictures"):
        mosaic.add("b", np.zeros((2, 2)))


def test_names_are_written_on_the_tiles() -> None:
    mosaic = Mosaic()
    mosaic.put("a", plain(100))
    mosaic.put("a very long name of a camera, longer than its tile is wide", plain(100))
    left, right = np.split(mosaic.picture(), 2, axis=1)
    for tile in (left, right):
        assert (tile[:LABEL] > 200).any()
        assert (tile[LABEL + 8 :] == 100).all()
    assert (right[:LABEL] > 200).sum() > (left[:LABEL] > 200).sum()


def test_frames_are_copied() -> None:
    mosaic, frame = Mosaic(), plain(50)
    mosaic.put("a", frame)
    mosaic.put("b", plain(60))
    frame[:] = 0
    assert tiles(mosaic.picture(), 1, 2) == [50, 60]


def test_a_silent_camera_is_dark_and_goes_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    mosaic = Mosaic()
    mosaic.put("a", plain(90))
    mosaic.put("b", plain(120))
    lively = mosaic.picture()
    monkeypatch.setattr(ours, "STALE_S", -1.0)  # both have been silent for too long
    silent = mosaic.picture()
    assert tiles(silent, 1, 2) == [30, 40]
    assert (silent[:LABEL] > 200).sum() > (lively[:LABEL] > 200).sum(), "it says so"
    monkeypatch.setattr(ours, "GONE_S", -1.0)
    frame = plain(91)
    assert mosaic.add("a", frame) is frame, "there is one camera again"
    monkeypatch.undo()
    mosaic.add("b", plain(121))
    assert len(mosaic) == 2, "it came back"


def test_a_camera_that_is_known_has_its_place_before_its_first_frame() -> None:
    mosaic = Mosaic()
    assert not mosaic.note("b")
    assert not mosaic.note("b")
    assert mosaic.note("a")
    assert tiles(mosaic.picture(), 1, 2) == [0, 0]
    picture = mosaic.add("b", plain(80))
    assert picture is not None
    assert tiles(picture, 1, 2) == [0, 80]


def test_pictures_are_made_as_often_as_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "BETWEEN_MOSAICS_S", 3600.0)
    monkeypatch.setattr(ours, "SOON_S", 3600.0)
    mosaic = Mosaic()
    mosaic.note("a")
    assert mosaic.add("b", plain(1)) is not None, "the first of a camera is shown at once"
    assert [mosaic.add(name, plain(2)) for name in "abab"] == [None] * 4
    monkeypatch.setattr(ours, "SOON_S", 0.0)
    assert all(mosaic.add(name, plain(3)) is not None for name in "abab"), "slow cameras' frames are all shown at once"


# ---- in pipes that run ---------------------------------------------------------------------------

SENT = 0


class Shade(SourceRoutine):
    """Sends frames of one shade for ever, once the board says so."""

    def __init__(self, name: str, shade: int, board: Board | None = None) -> None:
        super().__init__(name)
        self.shade = shade
        self.board = board
        self.set_const_fps(100)

    def main_logic(self) -> Any:
        if self.board is not None and not self.board[SENT]:
            return None
        frame = self.loan((240, 320, 3))
        frame[:] = self.shade
        return frame


def in_tiles(shown: Iterator[np.ndarray], *shades: int) -> bool:
    """Whether such tiles come to be shown, beside each other."""
    for _, picture in zip(range(500), shown, strict=False):
        if picture.shape == (240, 320 * len(shades), 3):
            near = zip(tiles(picture, 1, len(shades)), shades, strict=True)
            if all(abs(got - shade) <= 2 for got, shade in near):
                return True
    return False


def test_a_browser_sees_the_cameras_side_by_side_and_one_that_comes_later_too(port: int) -> None:
    board, server = Board(), MjpegServer(port, name="server")
    cameras = [Shade("a", 60), Shade("b", 120, board)]
    with Pipe() as pipe:
        pipe.create_flow("cameras", False, *cameras)
        pipe.create_flow("show", False, server)
        pipe.link(*(Wire(camera, server) for camera in cameras))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["server"].received > 3, "frames")
        response = viewer(port)
        shown = pictures(response)
        assert in_tiles(shown, 60), "a is alone"
        board[SENT] = 1
        assert in_tiles(shown, 60, 120)
        pipe.join(to_kill=True)
    response.close()
    assert pipe.statistics().routines["server"].errors == 0


def test_pictures_that_are_composed_already_are_shown_as_they_come(port: int) -> None:
    server = MjpegServer(port, mosaic=False)
    server.setup()
    response = viewer(port)
    shown = pictures(response)
    eventually(lambda: server._viewers.count == 1, "a viewer")
    for number, origin in enumerate("abab"):
        server.meta = type(server.meta)((origin,), 0, number)
        server.main_logic(plain(40 * number))
        assert next(shown).shape == (240, 320, 3)
    server.cleanup()
    response.close()


def test_a_window_has_the_cameras_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, ...]] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda title, frame: shown.append(frame.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: -1)
    display = Display("a window")
    display.setup()
    for origin in "ab":
        display.meta = type(display.meta)((origin,), 0, 0)
        display.main_logic(plain(1))
    assert shown == [(240, 320, 3), (240, 640, 3)]


def with_cameras(board: Board) -> Pipe:
    pipe = Pipe(grace_period=1)
    cameras, middle = [Shade("a", 60), Shade("b", 120)], Forward("middle")
    pipe.create_flow("cameras", False, *cameras)
    pipe.create_flow("steps", True, middle, Sink("screen"))
    pipe.link(*(Wire(camera, middle) for camera in cameras))
    return pipe


def test_how_many_cameras_a_preview_waits_for() -> None:
    """Cameras in step: the last one's message is always the newest, and the others would never be seen."""
    a, b, both, one, again = Shade("a", 1), Shade("b", 2), Forward("both"), Forward("one"), Forward("again")
    flows: dict[str, Sequence[Routine]] = {"flow": [a, b, both, one, again, end := Sink("end")]}
    wires = [Wire(a, (both, one)), Wire(b, both), Wire(both, again), Wire(one, again), Wire(again, end)]
    plan = make_plan(flows, wires, Defaults("block", 2, None, SharedMemoryTransmitter()))
    assert {item.name: _sources(plan, item) for item in plan.routines} == {
        "a": 1,
        "b": 1,
        "one": 1,
        "both": 2,
        "again": 2,
        "end": 2,
    }


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make=with_cameras) as one:
        yield one


def test_a_preview_has_the_cameras_side_by_side_and_that_of_one_is_its_own(served: Served) -> None:
    served.do("/start")

    def looks(routine: str) -> Iterator[np.ndarray]:
        while True:
            response = served.client.get(f"/routines/{routine}/preview.jpg")
            assert response.status_code == 200, response.text
            picture = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            yield picture

    assert in_tiles(looks("middle"), 60, 120)
    assert next(looks("a")).shape == (240, 320, 3)
