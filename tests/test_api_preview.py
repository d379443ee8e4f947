"""Previews: pictures of what passes, made only while somebody looks."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from pipert_shm import DetectedFrame, Detections, FrameData, Pipe, SourceRoutine, Wire
from pipert_shm.api import preview as previews
from pipert_shm.api.preview import as_jpeg, picture_of
from routines import Forward, Items, Sink, chain
from serving import Served, serving
from waiting import PATIENCE, Board, eventually

GATE, OPEN = 1, 2  # cells of a board: how many frames the camera has sent, at most; whether those that hang are to go on


class Camera(SourceRoutine):
    """Sends frames of 1280x720 whose pixels are all 20 at first, and brighter with each."""

    def __init__(self, board: Board) -> None:
        super().__init__("camera")
        self.board = board
        self.sent = 0
        self.set_const_fps(200)

    def main_logic(self) -> Any:
        if self.sent >= self.board[GATE]:
            return None
        frame = self.loan((720, 1280, 3))
        frame[...] = 20 + self.sent % 200
        self.sent += 1
        return frame


def with_camera(board: Board) -> Pipe:
    pipe = Pipe(grace_period=1)
    chain(pipe, Camera(board), Forward("middle"), Sink("screen"))
    return pipe


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make=with_camera) as one:
        yield one


def shade(jpeg: bytes) -> int:
    """The shade of a picture that is of one; its frame was number shade - 20."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (360, 640, 3)
    assert int(picture.max()) - int(picture.min()) <= 2
    return int(picture[0, 0, 0])


def look(served: Served, routine: str = "camera") -> int:
    response = served.client.get(f"/routines/{routine}/preview.jpg")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["cache-control"] == "no-store"
    return shade(response.content)


@pytest.mark.parametrize("routine", ["camera", "middle"])
def test_the_newest_frame_as_a_picture(served: Served, routine: str) -> None:
    served.do("/start")
    served.board[GATE] = 1
    eventually(lambda: served.pipe.statistics().routines["middle"].sent == 1, "a frame")
    served.board[GATE] = 1_000_000
    first = look(served, routine)
    assert first > 20
    eventually(lambda: look(served, routine) != first, "another picture")


def test_a_pipe_that_rests_shows_its_last_frame_again(served: Served) -> None:
    served.do("/start")
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(look(served)))
    thread.start()
    eventually(lambda: has_taps(served), "a tap")
    served.board[GATE] = 1
    thread.join()
    assert answers == [20]
    assert look(served) == 20


def has_taps(served: Served) -> bool:
    return bool(served.session._taps)


class Watcher:
    """Reads an MJPEG stream, as fast as `next` is called."""

    def __init__(self, served: Served, routine: str = "camera") -> None:
        self._exits = ExitStack()
        client = self._exits.enter_context(httpx.Client(timeout=PATIENCE))
        address = f"http://127.0.0.1:{served.port}/routines/{routine}/preview"
        self.response = self._exits.enter_context(client.stream("GET", address))
        self._chunks = self.response.iter_raw()
        self._read = b""

    def next(self) -> bytes:
        """The next picture; empty at the end."""
        for chunk in self._chunks:
            self._read += chunk
            found = re.match(rb"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: (\d+)\r\n\r\n", self._read)
            if found and len(self._read) >= (end := found.end() + int(found[1])) + 2:
                picture, self._read = self._read[found.end() : end], self._read[end + 2 :]
                return picture
        return b""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()


def test_a_stream_shows_what_passes_and_ends_with_the_pipe(served: Served) -> None:
    served.do("/start")
    served.board[GATE] = 1_000_000
    with Watcher(served) as watcher:
        assert watcher.response.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        shades = [shade(watcher.next()) for _ in range(5)]
        assert len(set(shades)) == 5
        served.do("/kill")
        while watcher.next():
            pass
    served.expect_end()


def test_a_stream_goes_on_when_its_flow_was_restarted(served: Served) -> None:
    served.do("/start")
    served.board[GATE] = 1_000_000
    with Watcher(served) as watcher:
        assert watcher.next()
        os.kill(served.pipe.statistics().flows["camera"].pid, signal.SIGKILL)
        eventually(lambda: served.pipe.statistics().flows["camera"].restarts == 1, "a restart")
        eventually(lambda: not has_taps(served), "the end of the tap")
        eventually(lambda: has_taps(served), "another tap")
        assert watcher.next()


def test_all_watchers_share_one_tap_and_nothing_is_encoded_when_nobody_looks(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "LINGER_S", 0.3)
    ours: previews.Previews = served.wrapper._app.state.previews
    served.do("/start")
    served.board[GATE] = 1_000_000
    assert not has_taps(served)
    with ExitStack() as watchers:
        for _ in range(5):
            assert watchers.enter_context(Watcher(served)).next()
        assert len(served.session._taps) == 1
        assert ours.watchers == 5
    eventually(lambda: ours.watchers == 0, "no watcher")
    preview = ours._previews["camera"]
    eventually(lambda: preview.over, "the end of the preview")
    eventually(lambda: not has_taps(served), "the end of the tap")
    last = preview.shot
    before = served.pipe.statistics().routines["camera"].sent
    eventually(lambda: served.pipe.statistics().routines["camera"].sent > before + 20, "frames that nobody looks at")
    assert preview.shot is last


def test_one_picture_that_is_asked_for_is_one_that_is_encoded(served: Served) -> None:
    served.do("/start")
    served.board[GATE] = 1_000_000
    look(served)
    preview = served.wrapper._app.state.previews._previews["camera"]
    only = preview.shot
    before = served.pipe.statistics().routines["camera"].sent
    eventually(lambda: served.pipe.statistics().routines["camera"].sent > before + 20, "frames that nobody looks at")
    assert not preview.over
    assert preview.shot is only


class Hangs(SourceRoutine):
    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self) -> Any:
        self.board.wait(OPEN)


def with_some_that_hang(board: Board) -> Pipe:
    pipe = with_camera(board)
    for number in range(5):
        name = f"hangs{number}"
        pipe.create_flow(name, False, source := Hangs(name, board), sink := Sink(f"sink{number}"))
        pipe.link(Wire(source, sink))
    return pipe


def test_those_that_hang_are_waited_for_by_those_alone_who_look_at_them() -> None:
    with serving(make=with_some_that_hang) as served, ThreadPoolExecutor(20) as pool:
        served.do("/start")
        served.board[GATE] = 1_000_000
        eventually(lambda: all(served.pipe.statistics().routines[f"hangs{n}"].state == "running" for n in range(5)))
        urls = [f"http://127.0.0.1:{served.port}/routines/hangs{number % 5}/preview.jpg" for number in range(15)]
        waits = [pool.submit(httpx.get, url, timeout=PATIENCE) for url in urls]
        eventually(lambda: len(served.pipe._built()._line._questions) == 5, "a question about each")
        assert look(served) >= 20
        assert not any(wait.done() for wait in waits)
        served.board[OPEN] = 1
        assert {wait.result().status_code for wait in waits} == {504}


def test_so_many_can_watch_and_others_are_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "MOST_WATCHERS", 3)
    served.do("/start")
    served.board[GATE] = 1_000_000
    with ExitStack() as watchers:
        for _ in range(3):
            assert watchers.enter_context(Watcher(served)).response.status_code == 200
        response = served.client.get("/routines/camera/preview")
        assert (response.status_code, "watching already" in response.json()["detail"]) == (503, True)
        assert look(served) > 0
    eventually(lambda: is_watchable(served), "room for a watcher")


def is_watchable(served: Served) -> bool:
    with Watcher(served) as watcher:
        return watcher.response.status_code == 200


@pytest.mark.parametrize("suffix", ["", ".jpg"])
def test_what_can_not_be_seen_is_refused(suffix: str) -> None:
    def make(_: Board) -> Pipe:
        pipe = Pipe(policy="block", grace_period=1)
        chain(pipe, Items("numbers", [1.5] * 100_000), Sink("screen"))
        return pipe

    with serving(make=make) as served:
        served.do("/start")
        answer = served.client.get(f"/routines/nobody/preview{suffix}")
        assert (answer.status_code, answer.json()["known"]) == (404, ["numbers", "screen"])
        answer = served.client.get(f"/routines/screen/preview{suffix}")
        assert (answer.status_code, "sends nothing" in answer.json()["detail"]) == (409, True)
        answer = served.client.get(f"/routines/numbers/preview{suffix}")
        assert (answer.status_code, "'numbers': it sends float" in answer.json()["detail"]) == (409, True)
        served.do("/kill")
        served.expect_end()


def test_no_frame_in_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "PATIENCE_S", 0.2)
    served.do("/start")
    answer = served.client.get("/routines/camera/preview.jpg")
    assert (answer.status_code, "sent no frame within 0.2 s" in answer.json()["detail"]) == (504, True)


def test_a_reader_that_reads_nothing_costs_the_pipe_no_frame(served: Served) -> None:
    served.do("/start")
    served.board[GATE] = 1_000_000
    with ExitStack() as slow:
        for _ in range(10):
            slow.enter_context(Watcher(served))
        before = served.pipe.statistics().routines["camera"].sent
        eventually(lambda: served.pipe.statistics().routines["camera"].sent > before + 100, "frames")
        assert served.pipe.statistics().wires["camera", "middle"].dropped["no_slot"] == 0
        assert served.client.get("/health", timeout=httpx.Timeout(PATIENCE)).status_code == 200
        assert look(served) > 20


class Broken(FrameData):
    def get_frame(self) -> np.ndarray:
        raise RuntimeError("no frame today")


def test_a_payload_whose_own_code_fails_is_refused() -> None:
    def make(_: Board) -> Pipe:
        pipe = Pipe(policy="block", grace_period=1)
        source = Items("broken", [Broken()] * 100_000)
        source.set_const_fps(100)
        chain(pipe, source, Sink("screen"))
        return pipe

    with serving(make=make) as served:
        served.do("/start")
        answer = served.client.get("/routines/broken/preview.jpg")
        assert (answer.status_code, "RuntimeError: no frame today" in answer.json()["detail"]) == (409, True)
        assert has_taps(served)


# ---- what counts as a picture --------------------------------------------------------------------


class Framed(FrameData):
    def get_frame(self) -> np.ndarray:
        return np.full((10, 20), 7, np.uint8)


@pytest.mark.parametrize(
    ("payload", "shape"),
    [
        (np.zeros((30, 40), np.uint8), (30, 40)),
        (np.zeros((30, 40, 1), np.uint8), (30, 40, 1)),
        (np.zeros((30, 40, 3), np.uint8), (30, 40, 3)),
        (np.zeros((500, 1280, 4), np.uint8), (250, 640, 4)),
        (np.zeros((2, 6400, 3), np.uint8), (1, 640, 3)),
        (np.zeros((60, 80, 3), np.uint8)[::2, ::-2], (30, 40, 3)),
        (np.zeros((60, 1280, 3), np.uint8)[::-1, ::-1, ::-1], (30, 640, 3)),
        (np.zeros((60, 2000, 8), np.uint8)[:, :, 1:4], (19, 640, 3)),
        (np.zeros((3, 60, 80), np.uint8).transpose(1, 2, 0), (60, 80, 3)),
        (np.zeros((3, 60, 800), np.uint8).transpose(1, 2, 0), (48, 640, 3)),
        (Framed(), (10, 20)),
    ],
)
def test_pictures(payload: Any, shape: tuple[int, ...]) -> None:
    assert picture_of(payload).shape == shape
    decoded = cv2.imdecode(np.frombuffer(as_jpeg(payload), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (*shape[:2], 3)


@pytest.mark.parametrize(
    "payload",
    [
        1,
        None,
        {"frame": np.zeros((3, 3), np.uint8)},
        np.zeros(5, np.uint8),
        np.zeros((5, 5), np.float32),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 3, 1), np.uint8),
    ],
    ids=repr,
)
def test_no_pictures(payload: Any) -> None:
    with pytest.raises(ValueError, match=r"it sends (int|NoneType|dict|arrays \()"):
        picture_of(payload)


def test_boxes_are_drawn_on_a_copy() -> None:
    frame = np.zeros((720, 1280, 3), np.uint8)
    frame.flags.writeable = False
    picture = picture_of(DetectedFrame(frame, Detections([[100, 200, 300, 400]])))
    rows, columns = np.nonzero(picture.any(axis=2))
    assert [int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max())] == [99, 200, 49, 150]
    assert not frame.any()
    small = np.zeros((100, 100, 3), np.uint8)
    assert picture_of(DetectedFrame(small, Detections([[10, 10, 20, 20]]))).any()
    assert not small.any()
