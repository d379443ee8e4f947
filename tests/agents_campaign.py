"""SIGKILL in the midst of `apply`, with real pipes: `agents_campaign.py [KILLS] [SEED]`.

A hub and two agents, which run parts of one file, and are started again at once when they die, as systemd does it. Again and
again the file changes, and is applied; meanwhile a process is killed: an agent, the process of a part, or its launcher. Each
time both hosts have to run the new file afterwards, or both the old one, as `apply` has said. At the end nothing may be left.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipert_shm import ConfigError, PipelineFile, PipertError, attach
from pipert_shm.agents.asking import Asker
from pipert_shm.agents.rollout import remove, roll_out
from pipert_shm.agents.splitting import reachable
from pipert_shm.applying.service import KIND, question
from pipert_shm.hosts import Hub
from streams import free_port
from waiting import eventually
from yards import STEPS

LONGEST_S = 3.5  # from the beginning of an `apply` to the kill
CLI = (sys.executable, "-m", "pipert_shm.cli")
HOSTS = ("edge-1", "gpu-1")
FILE = """\
pipe: {name: PIPE, policy: block}
hosts: {hub: HUB, name: desk}
routines:
  count: {class: steps.Count}
  first: {class: steps.Times, parameters: {by: BY}}
  times: {class: steps.Times, parameters: {by: BY}}
  log: {class: steps.Log, parameters: {path: OUT}}
flows:
  gate: {routines: [count], host: edge-1}
  before: {routines: [first], host: edge-1}
  detect: {routines: [times, log], host: gpu-1}
wires:
  - {source: count, destinations: [first, times]}
  - {source: times, destinations: [log]}
"""


class Stage:
    """A hub, and two agents that are started again when they die."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hub = Hub(connect=f"tcp/127.0.0.1:{free_port()}")
        self.pipe = f"campaign-{os.getpid()}"
        (directory / "steps.py").write_text(STEPS)
        self.is_over = False
        self.hub_process = subprocess.Popen([*CLI, "hub", "--listen", str(self.hub.connect)], stderr=subprocess.DEVNULL)
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.threads = [threading.Thread(target=self._keep_up, args=(host,)) for host in HOSTS]
        for thread in self.threads:
            thread.start()

    def _keep_up(self, host: str) -> None:
        log = (self.directory / f"{host}.log").open("ab")
        while not self.is_over:
            command = [*CLI, "agent", "--name", host, "--hub", str(self.hub.connect), "--state", str(self.directory / host)]
            process = self.agents[host] = subprocess.Popen(command, cwd=self.directory, stderr=log, stdout=log)
            process.wait()

    def file(self, by: int) -> PipelineFile:
        """The file, with a number in it."""
        text = FILE.replace("PIPE", self.pipe).replace("HUB", str(self.hub.connect)).replace("BY", str(by))
        return PipelineFile(self.directory / "yard.yaml", text.replace("OUT", str(self.directory / "out.txt")))

    def kept(self, host: str) -> dict[str, Any]:
        """What the agent of a host keeps of the pipe."""
        with suppress(OSError):
            told: dict[str, Any] = json.loads((self.directory / host / f"{self.pipe}.json").read_text())
            return told
        return {}

    def victims(self) -> dict[str, int]:
        """Processes that may be killed, by what they are."""
        found: dict[str, int] = {}
        for host in HOSTS:
            found[f"agent of {host}"] = self.agents[host].pid
            with suppress(OSError, ValueError):
                part = int((self.directory / host / f"{self.pipe}.lock").read_text())
                found[f"part of {host}"] = part
                found[f"launcher of {host}"] = int(Path(f"/proc/{part}/task/{part}/children").read_text().split()[0])
        return {what: pid for what, pid in found.items() if _is_ours(pid)}

    def by_number(self, host: str) -> int | None:
        """The number in what a host runs, if its pipe is just what the agent keeps; else None."""
        kept = self.kept(host)
        if not kept or kept["is_trial"]:
            return None
        text = reachable(kept["now"]["text"], kept["now"]["remotes"], self.hub)
        path = str(self.directory / host / f"{self.pipe}.yaml")
        try:
            with attach(f"{self.pipe}@{host}", timeout=1) as pipe:
                changes = json.loads(pipe.relay(KIND, question(text, path, path, dry_run=True), timeout=20))["changes"]
                states = {routine.state for routine in pipe.statistics().routines.values()}
        except (PipertError, OSError):
            return None
        number = int(text.partition("by: ")[2].split()[0])
        return number if not changes and states == {"running"} else None

    def number(self) -> int | None:
        """The number that both hosts run; None while they differ, or one is on its way."""
        numbers = {self.by_number(host) for host in HOSTS}
        return numbers.pop() if len(numbers) == 1 else None

    def count(self) -> int:
        """How many agents are at the hub."""
        try:
            with Asker(self.hub) as asker:
                return len(asker.hosts())
        except PipertError:
            return 0

    def end(self) -> None:
        """Ends all."""
        eventually(lambda: self.count() == 2, "both agents", 60)
        with Asker(self.hub) as asker:
            assert not any(answer.error for answer in remove(asker, self.pipe, HOSTS).values())
        self.is_over = True
        for process in (*self.agents.values(), self.hub_process):
            process.terminate()
            process.wait(60)
        for thread in self.threads:
            thread.join()


def _is_ours(pid: int) -> bool:
    with suppress(OSError):
        return b"pipert_shm" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def apply(its: Stage, by: int) -> str:
    """Brings the file to both; what came of it."""
    try:
        with Asker(its.hub) as asker:
            roll_out(its.file(by), asker)
    except ConfigError as error:
        text = str(error)
        if "not all is as it was" in text:
            return "partly"
        return "put back" if "as they were before" in text else "refused"
    return "done"


def kill_one(its: Stage, draw: random.Random, now: int, after: int) -> str:
    """Kills a process while a number is applied; which, and what `apply` has said."""
    eventually(lambda: its.number() == now, "a quiet start", 90)
    what, pid = draw.choice(sorted(its.victims().items()))
    delay = draw.uniform(0, LONGEST_S)
    timer = threading.Timer(delay, _kill, (pid,))
    timer.start()
    outcome = apply(its, after)
    timer.join()
    eventually(lambda: its.number() is not None, f"all or nothing ({outcome}; {what} after {delay:.2f} s)", 120)
    print(f"{after}: {what} killed after {delay:.2f} s: {outcome}; all have {its.number()}", flush=True)
    wanted = {"done": {after}, "put back": {now}, "refused": {now}, "partly": {now, after}}[outcome]
    assert its.number() in wanted, (outcome, its.number(), now, after, what)
    return f"{what.split()[0]} killed: {outcome}"


def main(kills: int = 50, seed: int = 0) -> None:
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        its = Stage(Path(directory))
        eventually(lambda: its.count() == 2, "both agents", 60)
        assert apply(its, 1) == "done"
        now = 1
        for number in range(2, kills + 2):
            outcomes[kill_one(its, draw, now, number)] += 1
            now = its.number() or 0
        its.end()
        assert [path.name for host in HOSTS for path in (its.directory / host).glob("*.json")] == []
        for host in HOSTS:
            with (its.directory / host / f"{its.pipe}.lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process of the pipe is left
    print(dict(outcomes))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
