"""Frames in a browser and in a window."""

from __future__ import annotations

import http.client
import logging
import re
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, Pipe, PipeFailed
from pipert_shm.video import Display, MjpegServer, VideoError
from routines import Frames, chain
from waiting import eventually


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def viewer(port: int, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/", headers=headers or {})
    response = connection.getresponse()
    connection.close()  # the response keeps the socket
    return response


def pictures(response: http.client.HTTPResponse) -> Iterator[np.ndarray]:
    while response.readline() == b"--frame\r\n":
        assert response.readline() == b"Content-Type: image/jpeg\r\n"
        length = re.fullmatch(rb"Content-Length: (\d+)\r\n", response.readline())
        assert length is not None
        assert response.readline() == b"\r\n"
        picture = cv2.imdecode(np.frombuffer(response.read(int(length[1])), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert response.readline() == b"\r\n"
        yield picture


def test_browsers_see_the_newest_frames_come_and_go_and_are_sent_away_at_the_end(port: int) -> None:
    source, server = Frames("source", None), MjpegServer(port, name="server")
    source.set_const_fps(200)
    with Pipe(policy="block") as pipe:
        chain(pipe, source, server)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["server"].received >= 5, "frames that nobody looks at")
        first, second = viewer(port), viewer(port)
        assert first.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        for response in (first, second):
            seen = [int(picture.mean().round()) for _, picture in zip(range(5), pictures(response), strict=False)]
            steps = [(after - before) % 251 for before, after in pairwise(seen)]
            assert all(0 < step < 125 for step in steps), f"each is newer than the one before: {seen}"
            assert seen[0] >= 4
        second.close()
        before = pipe.statistics().routines["server"].received
        eventually(lambda: pipe.statistics().routines["server"].received > before + 50, "the others go on")
        pipe.join(to_kill=True)
    last = list(pictures(first))
    assert last, "the first one was not disturbed"
    first.close()
    assert pipe.statistics().routines["server"].errors == 0


def test_while_nobody_looks_nothing_is_encoded(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *arguments: encoded.append(1) or encode(*arguments))  # type: ignore[func-returns-value]
    server = MjpegServer(port)
    server.setup()

    def is_encoded() -> bool:
        before = len(encoded)
        server.main_logic(np.zeros((48, 64, 3), np.uint8))
        return len(encoded) > before

    assert not is_encoded()
    first, second = viewer(port), viewer(port)
    eventually(is_encoded, "encoding for those who look")
    assert next(pictures(first)).shape == (48, 64, 3)
    first.close()
    assert is_encoded(), "one is left"
    second.close()
    eventually(lambda: not is_encoded(), "an end of that when they have left")
    third = viewer(port)
    server.cleanup()
    assert third.read().endswith(b"--frame--\r\n"), "it is sent away in good order"
    third.close()


def test_a_viewer_that_takes_nothing_holds_up_nobody(port: int) -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, Frames("source", 1500, (480, 640, 3)), MjpegServer(port, name="server"))
        pipe.build()
        with socket.socket() as lazy:
            pipe.notify_event(START_EVENT_NAME)
            eventually(lambda: lazy.connect_ex(("127.0.0.1", port)) == 0, "a listening server")
            lazy.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            pipe.join()
    assert pipe.statistics().routines["server"].received == 1500


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # a name that was rebound to this address
        {"Host": "0.0.0.0"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
    ids=str,
)
def test_pages_of_other_sites_see_nothing(port: int, headers: dict[str, str]) -> None:
    server = MjpegServer(port, origins=["http://wall.example"])
    server.setup()
    try:
        assert viewer(port, headers).status == 403
        named = {"Referer": "http://wall.example/", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
        with viewer(port, named) as shown:
            assert shown.status == 200
    finally:
        server.cleanup()


def test_beyond_this_machine_it_takes_a_token(port: int) -> None:
    with pytest.raises(ValueError, match="anyone could watch: give it a token="):
        MjpegServer(port, "0.0.0.0")
    with pytest.raises(ValueError, match="token is empty"):
        MjpegServer(port, token="")
    server = MjpegServer(port, "0.0.0.0", token="a secret")
    server.setup()
    try:
        assert viewer(port).status == 401
        with viewer(port, {"Authorization": "Bearer a secret"}) as shown:
            assert shown.status == 200
    finally:
        server.cleanup()


def test_viewers_take_no_thread_and_are_gone_when_they_have_gone(port: int) -> None:
    """While no frame comes, as of a camera that is lost."""
    server = MjpegServer(port)
    server.setup()
    try:
        viewers = [viewer(port)]
        threads = threading.active_count()
        viewers += [viewer(port) for _ in range(30)]
        assert server._viewers.count == 31
        assert threading.active_count() == threads
        for one in viewers:
            one.close()
        eventually(lambda: server._viewers.count == 0, "an end of all viewers")
    finally:
        server.cleanup()


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        pipe = Pipe()
        chain(pipe, Frames("source", 1), MjpegServer(number, name="server"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        with pytest.raises(PipeFailed, match=f"can't listen on 127.0.0.1:{number}: Address already in use; choose"):
            pipe.join()


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_out_of_range(quality: int) -> None:
    with pytest.raises(ValueError, match="quality must be from 1 to 100"):
        MjpegServer(quality=quality)


# ---- a window ------------------------------------------------------------------------------------


def test_without_a_screen_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(VideoError, match=r"there is no screen .*use MjpegServer to look by a browser"):
        Display().setup()


def test_with_a_screen_frames_are_shown_and_a_key_ends_the_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no screen where tests run: OpenCV's window is a stand-in, that is shown 3 frames, and then gets a key."""
    shown: list[tuple[str, float]] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda title, frame: shown.append((title, float(frame.mean()))))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: (tmp_path / "shown").write_text(repr(shown)))
    with Pipe(policy="block", logger=logging.getLogger("test")) as pipe:
        source = Frames("source", None)
        source.set_const_fps(50)
        chain(pipe, source, Display("a window"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert (tmp_path / "shown").read_text().startswith("[('a window', 0.0), ('a window', 1.0), ('a window', 2.0)")
