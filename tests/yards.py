"""A pipeline over several hosts on the loopback interface: its hub, its agents, and what comes out of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from conftest import RunCli, StartCli
from streams import free_port
from waiting import eventually

STEPS = """\
from pipert_shm import DestinationRoutine, MiddleRoutine, SourceRoutine


class Count(SourceRoutine):
    def setup(self):
        self.set_const_fps(100)

    def main_logic(self):
        return self.meta.sequence


class Times(MiddleRoutine):
    def __init__(self, name=None, *, by: int):
        super().__init__(name)
        self.by = by

    def setup(self):
        if self.by < 0:
            raise ValueError("by is less than nothing")

    def main_logic(self, number):
        return [number, number * self.by]


class Log(DestinationRoutine):
    def __init__(self, name=None, *, path: str):
        super().__init__(name)
        self.path = path

    def setup(self):
        self.file = open(self.path, "a")

    def main_logic(self, pair):
        print(*pair, file=self.file, flush=True)

    def cleanup(self):
        self.file.close()
"""
YARD = """\
pipe: {name: NAME, policy: block}
hosts: {hub: HUB, name: desk}
routines:
  count: {class: steps.Count}
  times: {class: steps.Times, parameters: {by: 2}}
  log: {class: steps.Log, parameters: {path: OUT}}
flows:
  gate: {routines: [count], host: edge-1}
  detect: {routines: [times], host: {gpu: "true"}}
  output: {routines: [log]}
wires:
  - {source: count, destinations: [times]}
  - {source: times, destinations: [log]}
"""


class Yard:
    """The hosts, all on this machine. A context manager, which leaves nothing behind."""

    def __init__(self, directory: Path, start: StartCli, run: RunCli) -> None:
        self.directory, self._start, self._run = directory, start, run
        self.hub_address = f"tcp/127.0.0.1:{free_port()}"
        self.pipe = f"yard-{self.hub_address.rpartition(':')[2]}"  # others of this machine may run a yard, too
        self.out = directory / "out.txt"
        self.out.touch()
        self.file = directory / "yard.yaml"
        self.write()
        self.code = directory / "code"
        self.code.mkdir()
        (self.code / "steps.py").write_text(STEPS)
        self.states: set[Path] = set()
        self.parts: set[int] = set()
        self.agents: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        for lock in {lock for state in self.states for lock in state.glob(f"{self.pipe}*.lock")}:
            with suppress(ValueError):
                self.parts.add(int(lock.read_text()))
            self.kill(lock)
        for pid in self.parts:  # orphans of agents that were killed come to the tests' own process
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def write(self, *changes: tuple[str, str]) -> None:
        """Writes the pipeline, with texts in place of others."""
        text = YARD.replace("HUB", self.hub_address).replace("OUT", str(self.out)).replace("NAME", self.pipe)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)

    def copied(self, name: str) -> Path:
        """The same file under another name."""
        return Path(shutil.copy(self.file, self.directory / name))

    def run_script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of the tests, which finds the code."""
        script, path = Path(__file__).with_name(name), os.pathsep.join((str(self.code), os.environ.get("PYTHONPATH", "")))
        return subprocess.run(
            [sys.executable, script, *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=os.environ | {"PYTHONPATH": path},
        )

    def hub(self) -> subprocess.Popen[str]:
        """Starts a hub."""
        return self._start("hub", "--listen", self.hub_address)

    def agent(self, name: str, *options: str, state: str = "", code: Path | None = None) -> subprocess.Popen[str]:
        """Starts an agent."""
        path = self.directory / (state or name)
        self.states.add(path)
        way = ("--hub", self.hub_address, "--state", path)
        self.agents.append(self._start("agent", "--name", name, *way, *options, cwd=code or self.code))
        return self.agents[-1]

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Starts another command, which finds the code and the hub."""
        return self._start(*arguments, path=self.code, PIPERT_HUB=self.hub_address)

    def run(self, *arguments: str | Path) -> Any:
        """Runs one to its end."""
        return self._run(*arguments, path=self.code, PIPERT_HUB=self.hub_address)

    @staticmethod
    def await_there(*agents: subprocess.Popen[str]) -> None:
        """Until the hub knows them."""
        for agent in agents:
            assert agent.stderr is not None
            for line in agent.stderr:
                if line.endswith(" is there\n"):
                    break
            else:
                raise AssertionError(f"it ended with status {agent.wait()}")

    def pid(self, host: str) -> int:
        """The process that runs a host's part."""
        pid = int((self.directory / host / f"{self.pipe}.lock").read_text() or 0)
        self.parts.add(pid)
        return pid

    def await_lines(self, by: int, more: int = 5) -> None:
        """Until so many new lines came out, the last of which is a multiple by this number."""
        before = self.out.stat().st_size

        def came() -> int:
            pairs = [line.split() for line in self.out.read_text()[before:].splitlines()[:-1]]
            return sum(int(pair[1]) == by * int(pair[0]) > 0 for pair in pairs)

        eventually(lambda: came() >= more, f"lines on the desk, times {by}", 40)

    @staticmethod
    def kill(lock: Path) -> None:
        """Kills a part, and waits until nothing of it is left."""
        with suppress(OSError, ValueError):
            os.kill(int(lock.read_text()), signal.SIGKILL)
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
