"""Commands that take a pipe by its name: `ctl`, `top`, `why` and `view`."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

from conftest import Finished
from killing import await_states, pipe_id_of
from killing import running as started
from pipert_shm import Pipe
from pipert_shm.cli.commands import main
from pipert_shm.cli.terminal import draw_kitty, sixel_of
from test_attach import OWN, made

Run = Callable[..., Finished]

GATE = f"gate-{OWN}"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`pipert-shm` with these arguments, in this process."""

    def run(*arguments: str) -> Finished:
        status = main(arguments)
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def gate() -> Iterator[Pipe]:
    with started(made(GATE)) as pipe:
        yield pipe


def test_ctl_by_name(gate: Pipe, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert run("ctl", GATE, "pause").lines == ["stop: on its way"]
    await_states(gate, camera="stopped", screen="stopped")
    assert {one["state"] for one in json.loads(run("ctl", GATE, "stats").stdout)["routines"]} == {"stopped"}
    assert run("ctl", pipe_id_of(gate), "start").lines == ["start: on its way"]
    await_states(gate, camera="running")
    assert run("ctl", GATE, "event", "zoom", "--routine", "camera", "factor=3").lines == ["zoom: on its way"]
    refused = run("ctl", GATE, "event", "zoom", "--routine", "nobody", "factor=3")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"pipert-shm: pipe {GATE}: there is no routine 'nobody'")
    assert run("ctl", GATE, "event", "zoom").returncode == 1
    for command in ("start", "stats"):
        assert f"pipe gatte-{OWN}: there is no pipe 'gatte-{OWN}'; there are: " in run("ctl", f"gatte-{OWN}", command).stderr
    assert run("ctl", GATE, "kill").lines == ["kill: the pipe has ended"]
    gate.join()


def test_top_and_why_by_name(gate: Pipe, run: Run) -> None:
    with started(made(f"other-{OWN}")):
        shown = json.loads(run("top", GATE, "--once", "--json", "--interval", "0.05").stdout)
        assert [pipe["name"] for pipe in shown["pipes"]] == [GATE]
        assert [pipe["name"] for pipe in json.loads(run("why", GATE, "--json", "--seconds", "0.05").stdout)] == [GATE]
        assert f"there is no pipe 'nowhere-{OWN}'" in run("top", f"nowhere-{OWN}", "--once").stderr


def test_a_page_shows_what_a_routine_sends(gate: Pipe) -> None:
    command = [sys.executable, "-m", "pipert_shm.cli", "view", f"{GATE}/detect", "--in", "page"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
        assert address
        with urlopen(address[0], timeout=20) as stream:
            part = stream.read(2000)
            while b"\xff\xd9" not in part:
                part += stream.read(500)
        picture = cv2.imdecode(np.frombuffer(part[part.index(b"\xff\xd8") :], np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (48, 64, 3)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("answer", "begins"), [(b"\x1b_Gi=31;OK\x1b\\\x1b[?62c", b"\x1b_Ga=T"), (b"\x1b[?62;4;6c", b"\x1bP0;1q")]
)
def test_a_terminal_that_can_shows_pictures(gate: Pipe, answer: bytes, begins: bytes) -> None:
    command = [sys.executable, "-m", "pipert_shm.cli", "view", GATE]
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        seen = b""
        while b"\x1b[c" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, answer)
        until = time.monotonic() + 20
        while begins not in seen and time.monotonic() < until:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        drain = threading.Thread(target=_read_all, args=(ours,))
        drain.start()
        assert process.wait(20) == 130
        drain.join()
    os.close(ours)
    assert begins in seen


def _read_all(terminal: int) -> None:
    with suppress(OSError):  # EIO: the other end is closed
        while os.read(terminal, 65536):
            continue


def test_where_nothing_can_be_shown(gate: Pipe, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for display, why in (("", "DISPLAY is not set"), ("x", "DISPLAY is 'x'"), (":990", "nothing answers at DISPLAY ':990': ")):
        monkeypatch.setenv("DISPLAY", display)
        assert f"there is no screen to show a window on ({why}" in run("view", GATE, "--in", "window").stderr
    monkeypatch.delenv("DISPLAY")
    assert "this terminal shows no pictures" in run("view", GATE, "--in", "terminal").stderr
    assert "'screen' sends nothing that could be tapped" in run("view", f"{GATE}/screen", "--in", "page").stderr
    assert "there is no routine 'nobody'" in run("view", f"{GATE}/nobody", "--in", "page").stderr


def test_pictures_for_terminals() -> None:
    red = np.zeros((7, 10, 3), np.uint8)
    red[..., 2] = 255
    assert sixel_of(red) == '\x1bP0;1q"1;1;10;7#180;2;100;0;0#180!10~$-#180!10@$-\x1b\\'
    grey = np.full((6, 2), 255, np.uint8)
    assert "#215;2;100;100;100#215~~$" in sixel_of(grey)
    out = io.StringIO()
    draw_kitty(np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8), out)
    commands = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", out.getvalue())
    assert [head[-3:] for head, _ in commands] == ["m=1"] * (len(commands) - 1) + ["m=0"]
    assert commands[0][1].startswith("iVBORw0KGgo")  # a PNG
