"""Live streams from real servers, that are frozen, killed, and started again."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streams
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, Pipe, PipeFailed, VideoError, VideoSource, Wire, binding
from pipert_shm.video import live
from pipert_shm.video.opening import Backend
from routines import Record, chain, received, running
from streams import FPS, Server, free_port, listens, number_of, serve, serve_rtsp
from waiting import Board, eventually

GATE, TAKEN = 0, 1  # cells of a board
SMALL, LARGE = (160, 120), (320, 240)

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two numbered videos of half a minute, for the RTSP server."""
    directory = tmp_path_factory.mktemp("videos")
    for width, height in (SMALL, LARGE):
        streams.write_h264(directory / f"{width}.mp4", width, height, 30 * FPS)
    return directory


@pytest.fixture
def start(videos: Path, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers: `start(kind, port, size)`; a second one on the same port and address takes the place of the first."""
    servers: list[Server] = []
    public = tmp_path / "public"
    public.mkdir()

    def begin(kind: str, port: int, size: tuple[int, int] = SMALL, **options: Any) -> Server:
        if kind == "rtsp":
            served = public / "cam.mp4"
            served.unlink(missing_ok=True)
            served.hardlink_to(videos / f"{size[0]}.mp4")
            server = serve_rtsp(public, port, "cam.mp4")
        else:
            server = serve(kind, url_of(kind, port), *size, **options)
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.kill()


def url_of(kind: str, port: int) -> str:
    scheme, path = {"rtsp": ("rtsp", "/cam.mp4"), "mpjpeg": ("http", "/cam.mjpg"), "mpegts": ("udp", "")}[kind]
    return f"{scheme}://127.0.0.1:{port}{path}"


def note(frame: np.ndarray) -> tuple[int, tuple[int, ...]]:
    return number_of(frame), frame.shape


class Notes(Record):
    """Writes down the numbers and shapes of the frames, when they were grabbed and received, and where they stand."""

    def main_logic(self, data: np.ndarray) -> None:
        note = number_of(data), data.shape, self.meta.captured_ns, binding.now_ns(), self.meta.pts
        super().main_logic(note)


def counters(pipe: Pipe) -> dict[str, int]:
    return pipe.statistics().routines["camera"].counters


def sent(pipe: Pipe) -> int:
    return pipe.statistics().routines["camera"].sent


@pytest.mark.parametrize(
    ("kind", "backend"), [("rtsp", "opencv"), ("rtsp", "pyav"), ("mpjpeg", "opencv"), ("mpegts", "opencv")]
)
def test_a_stream_that_dies_is_found_again_with_frames_of_another_size(
    tmp_path: Path, start: Serve, kind: str, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    source = VideoSource(url_of(kind, port), "camera", backend=backend, timeout=2)
    with running(Pipe(), source, Notes("notes", tmp_path / "got")) as pipe:
        if kind != "mpegts":  # where nobody answers anyway, and it takes its time to see that
            eventually(lambda: "trying again" in caplog.text, "an attempt before there is a server")
        assert sent(pipe) == 0
        assert counters(pipe)["connected"] == 0
        first = start(kind, port, SMALL)
        eventually(lambda: sent(pipe) >= 10, "frames")
        assert counters(pipe)["connected"] == 1
        assert counters(pipe)["reconnects"] == 0, "it is the first connection"
        first.kill()
        eventually(lambda: counters(pipe)["connected"] == 0, "the loss")
        before = sent(pipe)
        start(kind, port, LARGE)
        eventually(lambda: sent(pipe) >= before + 10, "frames again")
        assert counters(pipe)["reconnects"] == 1
    got = [message.value for message in received(tmp_path / "got")]
    width, height = SMALL
    shapes = [shape for _, shape, *_ in got]
    assert shapes[: shapes.index((240, 320, 3))] == [(height, width, 3)] * shapes.index((240, 320, 3))
    assert set(shapes[shapes.index((240, 320, 3)) :]) == {(240, 320, 3)}
    statistics = pipe.statistics().routines["camera"]
    assert statistics.copied_bytes == 0, "what was loaned fits, before and after"
    assert statistics.errors == 0
    numbers = [(shape, number) for number, shape, *_ in got]
    assert all(b > a - 1 for (one, a), (two, b) in pairwise(numbers) if one == two), "none comes twice, or late"
    if kind == "rtsp":  # the server gives each client the video from its start, and FFmpeg first looks at a second of it
        assert numbers[0][1] > FPS / 2, "what has piled up meanwhile is passed over"
    assert all(0 < captured <= at for _, _, captured, at, _ in got)
    assert all(a < b for a, b in pairwise(captured for _, _, captured, *_ in got))


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_a_frozen_server_holds_up_neither_stop_nor_start_nor_the_end(
    tmp_path: Path, start: Serve, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FAREWELL", 0.1)
    port = free_port()
    server = start("mpjpeg", port)
    source = VideoSource(url_of("mpjpeg", port), "camera", backend=backend, timeout=600)
    with running(Pipe(), source, Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: sent(pipe) >= 3, "frames")
        server.freeze()
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="camera")
        eventually(lambda: pipe.statistics().routines["camera"].state == "stopped", "the stop")
        before = sent(pipe)
        pipe.notify_event(START_EVENT_NAME, specific_routine="camera")
        eventually(lambda: pipe.statistics().routines["camera"].state == "running", "the start")
        server.thaw()
        eventually(lambda: sent(pipe) >= before + 3, "frames again")
        assert counters(pipe)["reconnects"] == 0, "a new start is a new connection"
        server.freeze()
    flow = pipe.statistics().flows["camera"]
    assert (flow.state, flow.last_exit, flow.restarts) == ("ended", 0, 0), "it was not killed"


@pytest.mark.parametrize(("backend", "told"), [("opencv", "' is lost, "), ("pyav", "fell silent for 1 s")])
def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, start: Serve, caplog: pytest.LogCaptureFixture, backend: Backend, told: str
) -> None:
    port = free_port()
    server = start("mpjpeg", port)
    with running(
        Pipe(), VideoSource(url_of("mpjpeg", port), "camera", timeout=1, backend=backend), Notes("notes", tmp_path / "got")
    ) as pipe:
        eventually(lambda: sent(pipe) >= 3, "frames")
        server.freeze()
        eventually(lambda: counters(pipe)["connected"] == 0, "the loss")
        before = sent(pipe)
        eventually(lambda: "can't open" in caplog.text, "an attempt that fails as well")
        assert sent(pipe) == before, "no old frame is sent meanwhile"
        server.thaw()
        eventually(lambda: sent(pipe) >= before + 3, "frames again")
    assert told in caplog.text


def test_a_receiver_that_is_slow_gets_the_newest_frame(tmp_path: Path, start: Serve) -> None:
    """While nobody takes anything, nothing piles up: not in the stream, and not in the routine."""
    board, port = Board(), free_port()

    class Slow(Notes):
        def main_logic(self, data: np.ndarray) -> None:
            board.wait(GATE, board[TAKEN] + 1, timeout=60)
            board.add(TAKEN)
            super().main_logic(data)

    source, slow = VideoSource(url_of("mpjpeg", port), "camera"), Slow("slow", tmp_path / "got")
    start("mpjpeg", port)
    pipe = Pipe()
    pipe.create_flow("camera", False, source)
    pipe.create_flow("slow", False, slow)
    pipe.link(Wire(source, slow, policy="block", capacity=1))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: sent(pipe) >= 3, "one in hand, one in the queue, one that waits for room")
    waited = counters(pipe)["skipped"]
    eventually(lambda: counters(pipe)["skipped"] >= waited + FPS, "a second of the stream goes by")
    board[GATE] = 1000
    eventually(lambda: board[TAKEN] >= 6, "the newer frames")
    pipe.join(to_kill=True)
    stands = [message.value[4] for message in received(tmp_path / "got")]
    assert stands == sorted(stands)
    gap, after = max((b - a, place) for place, (a, b) in enumerate(pairwise(stands)))
    assert after == 2, "the three that were on their way, then the newest"
    assert gap > 0.9


def test_fewer_frames_a_second(tmp_path: Path, start: Serve) -> None:
    port = free_port()
    start("mpjpeg", port)
    with running(Pipe(), VideoSource(url_of("mpjpeg", port), "camera", fps=5), Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: sent(pipe) >= 1, "a frame")
        skipped = counters(pipe)["skipped"]
        eventually(lambda: sent(pipe) >= 6, "frames")
        assert counters(pipe)["skipped"] - skipped >= 2 * 5, "of which only every fifth is taken"


def test_a_part_at_another_size_of_a_stream(tmp_path: Path, start: Serve) -> None:
    port = free_port()
    start("mpjpeg", port, LARGE)
    source = VideoSource(url_of("mpjpeg", port), "camera", roi=(10, 20, 100, 50), size=(50, 25))
    with running(Pipe(), source, Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: sent(pipe) >= 2, "frames")
    assert {message.value[1] for message in received(tmp_path / "got")} == {(25, 50, 3)}
    assert pipe.statistics().routines["camera"].copied_bytes == 0


def test_a_part_that_the_frames_do_not_have(tmp_path: Path, start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    start("mpjpeg", port)
    source = VideoSource(url_of("mpjpeg", port), "camera", roi=(100, 0, 100, 50))
    with running(Pipe(), source, Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: "give another roi; trying again in" in caplog.text, "an error that says so")
        assert sent(pipe) == 0


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_without_reconnection_the_stream_ends_with_the_connection(tmp_path: Path, start: Serve, backend: Backend) -> None:
    port = free_port()
    server = start("mpjpeg", port)
    eventually(lambda: listens(port), "the server")
    source = VideoSource(url_of("mpjpeg", port), "camera", backend=backend, reconnect=False)
    pipe = Pipe()
    chain(pipe, source, Notes("notes", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: sent(pipe) >= 3, "frames")
    server.kill()
    pipe.join()
    assert pipe.statistics().routines["notes"].state == "ended"


@pytest.mark.parametrize(
    ("backend", "cause"), [("opencv", ""), ("pyav", "Connection refused; ")], ids=["opencv", "pyav, which says why"]
)
def test_without_reconnection_a_stream_that_is_not_there_is_an_error(tmp_path: Path, backend: Backend, cause: str) -> None:
    source = VideoSource(f"rtsp://admin:secret@127.0.0.1:{free_port()}/x", "camera", backend=backend, reconnect=False)
    pipe = Pipe()
    chain(pipe, source, Notes("notes", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed) as caught:
        pipe.join()
    assert f"/x': {cause}no video comes from there; check the whole address" in caught.value.causes[0]
    assert "secret" not in caught.value.causes[0]
    assert "admin:***@" in caught.value.causes[0]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("404 Not Found", "404 Not Found; the server answers, but has nothing there; check the address"),
        ("401 Unauthorized", "the server answers, but lets nobody in without the right user name and password"),
        ("503 Service Unavailable", "the server answers, but sends no video; check the address, and the server's log"),
    ],
)
def test_what_a_server_answers_is_told_by_pyav(answer: str, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=refuse, args=(listener, answer))
        server.start()
        with pytest.raises(VideoError, match=told):
            VideoSource(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x", backend="pyav", reconnect=False)._opening.open(
                LOGGER
            )
        server.join()


LOGGER = logging.getLogger(__name__)


def refuse(listener: socket.socket, answer: str) -> None:
    """An RTSP server that has one client, and no stream."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as requests:
        status = answer
        for line in requests:
            if line.startswith((b"OPTIONS", b"DESCRIBE")):
                status = "200 OK" if line.startswith(b"OPTIONS") else answer
            elif line.startswith(b"CSeq"):
                connection.sendall(f"RTSP/1.0 {status}\r\n{line.decode()}Public: DESCRIBE\r\n\r\n".encode())


def test_a_server_that_never_answers_is_an_error_that_says_so() -> None:
    from pipert_shm.video.pyav import PyAVCapture

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(VideoError, match=r"no answer within 0\.2 s"):
            PyAVCapture(f"http://127.0.0.1:{silent.getsockname()[1]}/x", timeout=0.2)


def test_the_transport_reaches_the_server(start: Serve) -> None:
    """The server of the tests knows TCP only, and says so."""
    from pipert_shm.video.pyav import PyAVCapture

    port = free_port()
    start("rtsp", port)
    eventually(lambda: listens(port), "the server")
    PyAVCapture(url_of("rtsp", port), transport="tcp").close()
    with pytest.raises(VideoError, match="Protocol not supported"):
        PyAVCapture(url_of("rtsp", port), transport="udp")


def test_without_a_free_slot_live_frames_are_dropped_one_by_one(tmp_path: Path, start: Serve) -> None:
    """One for each frame that comes, not as fast as the routine can ask."""
    board, port = Board(), free_port()

    class Hoarder(Record):
        def main_logic(self, data: np.ndarray) -> None:
            board.wait(GATE, 1, timeout=60)

    source, hoarder = VideoSource(url_of("mpjpeg", port), "camera"), Hoarder("hoarder", tmp_path / "got")
    pipe = Pipe(memory_budget=3 * int(np.prod((*LARGE, 3))) + 100_000)
    pipe.create_flow("camera", False, source)
    pipe.create_flow("hoarder", False, hoarder)
    pipe.link(Wire(source, hoarder, policy="drop_newest", capacity=2))
    start("mpjpeg", port, LARGE)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["camera", "hoarder"].dropped["no_slot"] >= 10, "drops")
    after = counters(pipe)["skipped"]
    drops = pipe.statistics().wires["camera", "hoarder"].dropped["no_slot"]
    assert drops <= after
    board[GATE] = 1
    pipe.join(to_kill=True)
    assert pipe.statistics().routines["camera"].errors == 0
