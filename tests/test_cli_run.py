"""`pipert-shm run`: real pipelines in processes of their own, run, ended, failed and watched."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from conftest import SHM, Finished, RunCli, StartCli
from pipert_shm.cli.commands import main
from pipert_shm.cli.run import load
from test_video import short_clip
from waiting import eventually

pytestmark = pytest.mark.shm

TICKER = """
import os, sys
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine

class Ticker(SourceRoutine):
    def __init__(self, name="ticker", until=None, fps=200):
        super().__init__(name)
        self.until = until
        self.set_const_fps(fps)

    def main_logic(self):
        if self.meta.sequence == self.until:
            raise EndOfStream
        return self.meta.sequence

class Screen(DestinationRoutine):
    def __init__(self, name="screen", says="tick"):
        super().__init__(name)
        self.says = says

    def main_logic(self, number):
        if number % 100 == 0:
            print(self.says, number, flush=True)

    def cleanup(self):
        print("cleaned up", flush=True)

class Dying(DestinationRoutine):
    def main_logic(self, number):
        os._exit(3)

class NoStart(DestinationRoutine):
    def setup(self):
        raise RuntimeError("no screen")

    def main_logic(self, number): ...

def make_pipe():
    pipe = Pipe()
    pipe.create_flow("both", True, Ticker(until=101), Screen())
    return pipe

if __name__ == "__main__":
    print("this is not the main program")
"""

TICKING = """
routines:
  ticker: {class: ticker_code.Ticker}
  screen: {class: ticker_code.Screen, parameters: {says: tick}}
flows:
  source: {routines: [ticker]}
  end: {routines: [screen], restart: never}
wires:
  - {source: ticker, destinations: [screen], policy: block}
"""


@pytest.fixture
def ticking(tmp_path: Path) -> Path:
    """A pipeline that ticks for ever."""
    (tmp_path / "ticker_code.py").write_text(TICKER)
    path = tmp_path / "ticking.yaml"
    path.write_text(TICKING)
    return path


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`pipert-shm run` with these arguments, in this process: for what ends before anything runs."""

    def run_here(*arguments: str | Path) -> Finished:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", list(sys.path))
            status = main(["run", *map(str, arguments)])
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
                del sys.modules[name]
        return Finished(status, *capsys.readouterr())

    return run_here


def read_until(stream: IO[str] | None, text: str) -> str:
    """Reads lines up to one that contains the text, and returns that."""
    assert stream is not None
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"it ended without saying {text!r}")


def segments(process: subprocess.Popen[str]) -> list[Path]:
    """What the pipe that a process runs has in /dev/shm."""
    (control,) = set(re.findall(r"/dev/shm/(pipert-\w+-)c", Path(f"/proc/{process.pid}/maps").read_text()))
    return list(SHM.glob(f"{control}*"))


# ---- to the end ----------------------------------------------------------------------------------


def test_a_pipeline_in_yaml_on_a_real_video(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "motion.yaml").write_text(
        f"""
routines:
  camera: {{class: pipert_shm.VideoSource, parameters: {{source: {short_clip(tmp_path)}}}}}
  detector: {{class: pipert_shm.MotionDetector}}
  writer: {{class: pipert_shm.JsonLinesWriter, parameters: {{path: out/detections.jsonl}}}}
flows:
  camera: {{routines: [camera]}}
  detect: {{routines: [detector, writer], auto_wire: true}}
wires:
  - {{source: camera, destinations: [detector]}}
pipe: {{policy: block, name: motion}}
logging: {{file: log}}
"""
    )
    before = set(SHM.iterdir())
    end = run_cli("run", "motion.yaml", path=tmp_path)
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
    lines = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
    assert [line["sequence"] for line in lines] == list(range(5))
    log = (tmp_path / "log").read_text()
    assert "INFO motion: camera -> detector: 5 sent, 5 received, dropped: nothing\n" in log
    assert not set(SHM.iterdir()) - before


def test_a_python_file(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "ticker_code.py").write_text(TICKER.replace("Pipe()", 'Pipe(policy="block")'))
    end = run_cli("run", "ticker_code.py")
    assert (end.returncode, end.lines) == (0, ["tick 0", "tick 100", "cleaned up"])
    assert "Pipe: ticker -> screen: 101 sent, 101 received, dropped: nothing" in end.stderr


STUCK = """
import threading
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire

class Five(SourceRoutine):
    def main_logic(self):
        if self.meta.sequence == 5:
            self.notify_event("kill")
            raise EndOfStream
        return self.meta.sequence

class Stuck(DestinationRoutine):
    def main_logic(self, number):
        if number == 1:
            threading.Event().wait()

def make_pipe():
    five, stuck = Five("five"), Stuck("stuck")
    pipe = Pipe(capacity=8, grace_period=0.1)
    pipe.create_flow("in", False, five)
    pipe.create_flow("out", False, stuck)
    pipe.link(Wire(five, stuck))
    return pipe
"""


def test_the_totals_tell_what_nobody_read(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "stuck_code.py").write_text(STUCK)
    end = run_cli("run", "stuck_code.py")
    told = re.search(r"five -> stuck: 5 sent, (\d) received, dropped: (\d) unread", end.stderr)
    assert told, end.stderr
    assert int(told[1]) + int(told[2]) == 5


@pytest.mark.parametrize(("settings", "name"), [("", "gate"), ("pipe: {name: street}", "street")])
def test_a_pipe_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, name: str) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "gate.yaml").write_text(
        f"""
routines:
  camera: {{class: pipert_shm.VideoSource, parameters: {{source: gate.mp4}}}}
  detector: {{class: pipert_shm.MotionDetector}}
flows:
  both: {{routines: [camera, detector], auto_wire: true}}
{settings}
"""
    )
    assert load(tmp_path / "gate.yaml").pipe.name == name


def test_check_runs_nothing(run_here: Callable[..., Finished], ticking: Path) -> None:
    for file in (ticking, ticking.with_name("ticker_code.py")):
        end = run_here(file, "--check")
        assert (end.returncode, end.stdout, end.stderr) == (0, f"{file} is fit to run\n", "")


def test_faults_are_a_line_each(run_here: Callable[..., Finished], ticking: Path) -> None:
    ticking.write_text(TICKING.replace("block", "wait").replace("never", "nevre"))
    for option in ([], ["--check"]):
        end = run_here(ticking, *option)
        assert (end.returncode, end.stdout) == (1, "")
        assert [line[: line.index(": Input")] for line in end.stderr.splitlines()] == [
            f"pipert-shm: {ticking}:7: flows.end.restart",
            f"pipert-shm: {ticking}:9: wires[0].policy",
        ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.py", "make_pipe = 3", "it defines no function make_pipe(), which returns the Pipe to run"),
        ("other.py", "def make_pipe():\n    return 3", "its make_pipe() returned int, not a Pipe"),
        ("json.py", "", "a module 'json' is loaded already; give the file another name"),
        ("importing.py", "\nimport nowhere", "ModuleNotFoundError: No module named 'nowhere' ({path}:2)"),
        (
            "opening.py",
            "def make_pipe():\n    open('nothing')",
            "FileNotFoundError: [Errno 2] No such file or directory: 'nothing' ({path}:2)",
        ),
        ("pipe.toml", "", "it is neither .yaml nor .yml nor .py"),
    ],
)
def test_a_file_that_is_no_pipeline(run_here: Callable[..., Finished], tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    end = run_here(tmp_path / name)
    assert (end.returncode, end.stdout, end.stderr) == (
        1,
        "",
        f"pipert-shm: {tmp_path / name}: {said}\n".format(path=tmp_path / name),
    )


def test_a_pipe_that_does_not_fit_is_one_line(run_here: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "ticker_code.py").write_text(TICKER.replace("True, Ticker", "False, Ticker"))
    for option in ([], ["--check"]):
        end = run_here(tmp_path / "ticker_code.py", *option)
        assert (end.returncode, end.stdout) == (1, "")
        assert end.stderr == "pipert-shm: routine 'ticker': in flow 'both' it is wired to no other routine\n"


def test_an_exception_of_a_python_file_has_its_traceback(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text("def make_pipe():\n    raise LookupError('no camera')\n")
    end = run_cli("run", "raising.py")
    assert end.returncode == 1
    assert end.stderr.startswith("Traceback")
    assert 'raising.py", line 2, in make_pipe' in end.stderr
    assert end.stderr.endswith("LookupError: no camera\n")


# ---- ended, or failed ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--api", "127.0.0.1:0"]])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(
    start_cli: StartCli, ticking: Path, options: list[str], number: signal.Signals, status: int
) -> None:
    process = start_cli("run", ticking, *options)
    read_until(process.stdout, "tick 100")
    mine = segments(process)
    assert mine
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to every process of the group
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    assert out.splitlines()[-1] == "cleaned up"
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    assert "uvicorn" not in err
    assert not [path for path in mine if path.exists()]


@pytest.mark.parametrize("options", [[], ["--api", "127.0.0.1:0"]])
def test_a_failed_pipe_says_which_flow(run_cli: RunCli, ticking: Path, options: list[str]) -> None:
    ticking.write_text(TICKING.replace("Screen, parameters: {says: tick}", "Dying") + "pipe: {on_failure: stop}\n")
    end = run_cli("run", ticking, *options)
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.splitlines()[-1] == "pipert-shm: flow 'end' exited with status 3"
    assert "Traceback" not in end.stderr


def test_a_routine_that_can_not_start_is_told(run_cli: RunCli, ticking: Path) -> None:
    rest = "pipe: {on_failure: stop}\nlogging: {levels: {Pipe: CRITICAL}}\n"
    ticking.write_text(TICKING.replace("Screen, parameters: {says: tick}", "NoStart") + rest)
    end = run_cli("run", ticking)
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr == "pipert-shm: setup of routine 'screen' failed: RuntimeError: no screen\n"


def test_too_little_shared_memory_is_one_line(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(
        TICKER.replace("self.set_const_fps(fps)", "self.declare_output((1 << 20, 1 << 20))").replace(
            'create_flow("both", True, Ticker(until=101), Screen())',
            'create_flow("a", False, t := Ticker()); pipe.create_flow("b", False, s := Screen()); pipe.link(Wire(t, s))',
        )
        + "from pipert_shm import Wire\n"
    )
    end = run_cli("run", "large.py")
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith("pipert-shm: the ring of 'ticker' (3 slots of 1,099,511,627,776 bytes) needs ")
    assert end.stderr.count("\n") == 1


# ---- the control ---------------------------------------------------------------------------------


def test_the_end_of_the_streams_ends_the_control_too(run_cli: RunCli, ticking: Path) -> None:
    ticking.write_text(TICKING.replace("Ticker}", "Ticker, parameters: {until: 1}}") + "api: {port: 0}\n")
    end = run_cli("run", ticking)
    assert (end.returncode, end.lines) == (0, ["tick 0", "cleaned up"])
    assert "the control listens on 127.0.0.1, port " in end.stderr


def test_an_address_that_is_taken_or_not_local(run_cli: RunCli, ticking: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        end = run_cli("run", ticking, "--api", f"127.0.0.1:{taken.getsockname()[1]}")
    assert end.returncode == 1
    assert "Address already in use" in end.stderr.splitlines()[-1]
    assert "Traceback" not in end.stderr
    end = run_cli("run", ticking, "--api", "0.0.0.0:0")
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith("pipert-shm: ")
    assert "0.0.0.0" in end.stderr


# ---- watching ------------------------------------------------------------------------------------


def test_watch_applies_what_it_can_and_starts_afresh_for_the_rest(start_cli: StartCli, ticking: Path, tmp_path: Path) -> None:
    code = tmp_path / "library" / "ticker_code.py"
    code.parent.mkdir()
    ticking.with_name("ticker_code.py").rename(code)
    process = start_cli("run", ticking, "--watch", path=code.parent)
    read_until(process.stdout, "tick 100")
    mine = segments(process)
    ticking.write_text(TICKING.replace("says: tick", "says: tack"))
    read_until(process.stderr, "pipert-shm: ticking.yaml changed: applied")
    read_until(process.stdout, "cleaned up")
    read_until(process.stdout, "tack")
    assert {path for path in mine if path.name.endswith("-c")} <= set(segments(process))  # it is the same pipe
    ticking.write_text(TICKING.replace("says: tick", "sais: tack"))
    read_until(process.stderr, "ticking.yaml changed, and is not applied:")
    read_until(process.stderr, "takes no 'sais'")
    read_until(process.stdout, "tack")
    ticking.write_text(TICKING.replace("says: tick", "says: tack") + "pipe: {grace_period: 4}\n")
    read_until(process.stderr, "pipert-shm: ticking.yaml changed: starting afresh")
    read_until(process.stdout, "tack 100")
    assert not [path for path in mine if path.exists()]
    code.write_text(TICKER.replace("print(self.says, number", "print(self.says.upper(), number"))
    read_until(process.stderr, "ticker_code.py changed: starting afresh")
    read_until(process.stdout, "TACK 100")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out.splitlines()[-1]) == (130, "cleaned up")
    assert "Traceback" not in err


def test_watch_outlives_faults_failures_and_ends(start_cli: StartCli, ticking: Path) -> None:
    """It waits for a change then, and goes on with it."""
    code = ticking.with_name("ticker_code.py")
    code.write_text("def f(:\n")
    process = start_cli("run", ticking, "--watch")
    read_until(process.stderr, "SyntaxError")
    read_until(process.stderr, "ticking.yaml has ended; waiting for a change")
    code.write_text(TICKER)
    read_until(process.stdout, "tick 100")
    ticking.write_text(TICKING.replace("Screen, parameters: {says: tick}", "Dying") + "pipe: {on_failure: stop}\n")
    read_until(process.stderr, "flow 'end' exited with status 3")
    read_until(process.stderr, "waiting for a change")
    ticking.write_text(TICKING.replace("Ticker}", "Ticker, parameters: {until: 1}}"))
    read_until(process.stderr, "waiting for a change")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    eventually(lambda: process.poll() is not None)
