"""Signals that end `pipert-shm run`: each ends the pipe in order, whoever gets it, and however often it comes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import SHM, StartCli
from waiting import eventually

PIPELINE = """
import os
import time
from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, Wire

def say(text):
    os.write(1, text.encode() + b"\\n")  # in one piece: two flows speak at once

class Ticks(SourceRoutine):
    def main_logic(self):
        return self.meta.sequence

    def cleanup(self):
        say("ticks cleaned up")

class Screen(DestinationRoutine):
    slow = SLOW

    def main_logic(self, number):
        if number == 5:
            say("running")

    def cleanup(self):
        say("cleaning up")
        time.sleep(self.slow)
        say("screen cleaned up")

def make_pipe():
    ticks, screen = Ticks("ticks"), Screen("screen")
    ticks.set_const_fps(200)
    pipe = Pipe(policy="block", grace_period=10)
    pipe.create_flow("ticks", False, ticks)
    pipe.create_flow("screen", False, screen)
    pipe.link(Wire(ticks, screen))
    return pipe
"""
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
ALONE: list[str] = []
API = ["--api", "127.0.0.1:0"]
WAYS = [*((number, ALONE) for number in NUMBERS), (signal.SIGTERM, API)]
USUAL = [(signal.SIGINT, ALONE), (signal.SIGTERM, API)]


def begin(
    start_cli: StartCli, directory: Path, *options: str, slow: float = 0, wrap: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    (directory / "ticking.py").write_text(PIPELINE.replace("SLOW", str(slow)))
    process = start_cli("run", "ticking.py", *options, wrap=wrap)
    read_until(process, "running")
    return process


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == f"{text}\n":
            return
    raise AssertionError(f"it ended without saying {text!r}")


def expect_end(process: subprocess.Popen[str], status: int, mine: set[Path]) -> None:
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    assert {"ticks cleaned up", "screen cleaned up"} <= set(out.splitlines()), (out, err)
    for noise in ("Traceback", "KeyboardInterrupt", "Exception ignored", "exited with status", "was killed by"):
        assert noise not in err
    assert not [path for path in mine if path.exists()]


def segments(process: subprocess.Popen[str]) -> set[Path]:
    """What its pipe has in /dev/shm."""
    (control,) = set(re.findall(r"/dev/shm/(pipert-\w+-)c", Path(f"/proc/{process.pid}/maps").read_text()))
    return set(SHM.glob(f"{control}*"))


@pytest.mark.parametrize(("number", "options"), WAYS)
def test_a_signal_to_the_program(start_cli: StartCli, tmp_path: Path, number: signal.Signals, options: list[str]) -> None:
    process = begin(start_cli, tmp_path, *options)
    mine = segments(process)
    process.send_signal(number)
    expect_end(process, 128 + number, mine)


@pytest.mark.parametrize(("number", "options"), USUAL)
def test_a_signal_to_the_whole_group(start_cli: StartCli, tmp_path: Path, number: signal.Signals, options: list[str]) -> None:
    process = begin(start_cli, tmp_path, *options)
    mine = segments(process)
    os.killpg(process.pid, number)
    expect_end(process, 128 + number, mine)


@pytest.mark.parametrize(("second", "options"), USUAL)
def test_a_second_signal_while_it_ends(start_cli: StartCli, tmp_path: Path, second: signal.Signals, options: list[str]) -> None:
    process = begin(start_cli, tmp_path, *options, slow=0.5)
    process.send_signal(signal.SIGTERM)
    read_until(process, "cleaning up")
    for _ in range(3):
        process.send_signal(second)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "screen cleaned up" in out
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err


def test_nohup_keeps_it_from_hanging_up(start_cli: StartCli, tmp_path: Path) -> None:
    process = begin(start_cli, tmp_path, wrap=("nohup",))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    eventually(lambda: process.poll() is not None, "the end")
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("options", [ALONE, API])
def test_signals_that_come_again_and_again(start_cli: StartCli, tmp_path: Path, options: list[str]) -> None:
    """Up to the last moment: of its own, and of the interpreter's end."""
    process = begin(start_cli, tmp_path, *options)
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        for number in NUMBERS:
            process.send_signal(number)
        time.sleep(0.002)  # it has to get on with it, too
    out, err = process.communicate(timeout=20)
    assert process.returncode - 128 in NUMBERS, err  # of several that wait, Python takes the lowest first
    assert "screen cleaned up" in out
    assert "Traceback" not in err
