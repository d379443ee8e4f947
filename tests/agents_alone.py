"""Hub and agents in one process, with stubs for their pipes: what they refuse, put back, keep and bring up again.

It is a script, since a process that has had a session of Zenoh can't fork flows.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest

from pipert_shm import ConfigError, HostsError, PipelineFile
from pipert_shm.agents.agent import Agent
from pipert_shm.agents.asking import Asker
from pipert_shm.agents.hub import Router
from pipert_shm.agents.kept import Store
from pipert_shm.agents.names import key_of_token
from pipert_shm.agents.rollout import Rollout, finish, roll_out
from pipert_shm.errors import RemoteRefusal
from pipert_shm.hosts import Hub
from streams import free_port
from waiting import eventually

STUB = (sys.executable, "-I", "-S", str(Path(__file__).with_name("stub_part.py")))
YARD = """\
pipe: {name: yard}
hosts: {hub: HUB, name: desk}
routines:
  count: {class: pipert_shm.VideoSource, parameters: {source: a.mp4}}
  times: {class: pipert_shm.MotionDetector}
flows:
  gate: {routines: [count], host: edge-1}
  detect: {routines: [times], host: {gpu: "true"}}
wires:
  - {source: count, destinations: [times]}
"""


class Stage:
    """A hub, and agents."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"tcp/127.0.0.1:{free_port()}"
        self.logger = logging.getLogger("stage")

    def agent(self, name: str, **labels: str) -> Agent:
        """An agent, which may still be on its way to the hub."""
        store = Store(self.directory / name)
        return Agent(name, labels, Hub(connect=self.address), store, self.logger, command=STUB)

    def roll_out(self, *changes: tuple[str, str], reachable_only: bool = False) -> Rollout:
        """Brings the file, with texts in place of others, to the agents."""
        text = YARD.replace("HUB", self.address)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = PipelineFile(Path("yard.yaml"), text)
        with Asker(Hub(connect=self.address)) as asker:
            before = self.kept()
            rollout = roll_out(file, asker, reachable_only=reachable_only)
            assert set(before) <= set(self.kept()), "no part ends before all others run"
            finish(asker, rollout)
            return rollout

    def states(self) -> dict[str, list[str]]:
        """What each host runs."""
        with Asker(Hub(connect=self.address)) as asker:
            return {host: [pipe["state"] for pipe in its["pipes"].values()] for host, its in asker.hosts().items()}

    def kept(self) -> list[str]:
        """Whose directories have a pipe."""
        return sorted(path.parent.name for path in self.directory.glob("*/yard.json"))

    def pid(self, host: str) -> int:
        """The process of a host's part."""
        return int((self.directory / host / "yard.lock").read_text())


@contextmanager
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as directory:
        its = Stage(Path(directory))
        try:
            with Router(Hub(listen=its.address), None, its.logger):
                yield its
        finally:
            for lock in its.directory.glob("*/yard.lock"):
                with suppress(OSError):
                    os.kill(int(lock.read_text()), signal.SIGKILL)


def main() -> None:
    with stage() as its:
        edge, gpu = its.agent("edge-1"), its.agent("gpu-1", gpu="true")
        eventually(lambda: its.states() == {"edge-1": [], "gpu-1": []}, "both agents")
        refuse(its)
        assert its.roll_out().changes == {"edge-1": ["+ pipe yard@edge-1"], "gpu-1": ["+ pipe yard@gpu-1"]}
        assert its.states() == {"edge-1": ["running"], "gpu-1": ["running"]}
        late = {"pipe": "yard", "revision": "late", "text": "", "remotes": [], "by": "", "replaces": "what ran before that"}
        with pytest.raises(RemoteRefusal, match="at the same time"):
            edge._apply(late)
        answering = [thread for thread in threading.enumerate() if thread.name.startswith("answer-")]
        assert {thread.daemon for thread in answering} == {True}, "an end waits for no answer"
        first = its.pid("edge-1")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: its.pid("edge-1") != first and its.states()["edge-1"] == ["running"], "the part again")
        print("a part that dies is started again")
        edge.close(and_pipes=True)
        os.kill(its.pid("gpu-1"), signal.SIGKILL)
        gpu.close()
        edge, gpu = its.agent("edge-1"), its.agent("gpu-1", gpu="true")
        eventually(lambda: its.states() == {"edge-1": ["running"], "gpu-1": ["running"]}, "both after a reboot")
        print("after a reboot all comes up again")
        with pytest.raises(HostsError, match="runs already"):
            its.agent("edge-1")
        moved = its.roll_out(('{gpu: "true"}', "edge-2"), ("edge-1", "edge-2"), reachable_only=True)
        assert moved.missing == ["edge-2"]
        assert moved.changes == {"edge-1": ["- pipe yard@edge-1"], "gpu-1": ["- pipe yard@gpu-1"]}
        assert its.kept() == []
        print("a host that the file no longer names ends its part")
        for agent in (edge, gpu):
            agent.close(and_pipes=True)


def refuse(its: Stage) -> None:
    """What is refused leaves nothing behind."""
    with pytest.raises(ConfigError) as failed:
        its.roll_out(("pipert_shm.MotionDetector}", "pipert_shm.MotionDetector, parameters: {a: FAIL}}"))
    assert [str(fault) for fault in failed.value.faults] == [
        "yard.yaml:5: routines.times.class: host gpu-1: it fails",
        "yard.yaml:2: hosts: all hosts are as they were before",
    ]
    assert its.kept() == [], "the part of edge-1, which did not fail, was put back"
    with pytest.raises(ConfigError, match=r"yaml:7: flows\.gate\.host: host 'edge-9' can't be reached, so nothing was"):
        its.roll_out(("edge-1", "edge-9"))
    with pytest.raises(ConfigError, match=r"host gpu-1: it has no module 'lacking'"):
        its.roll_out(("pipert_shm.MotionDetector", "lacking.Detector"))
    with mock.patch("pipert_shm.agents.rollout.version", return_value="9"), pytest.raises(ConfigError) as older:
        its.roll_out()
    assert [fault.message.partition(" has ")[0] for fault in older.value.faults] == ["host edge-1: it", "host gpu-1: it"]
    assert its.kept() == []
    print("what is refused leaves nothing behind")
    with mock.patch("pipert_shm.agents.agent.DOUBLE_S", 0.3):
        double = Agent("edge-1", {}, Hub(connect=its.address), Store(its.directory / "other"), its.logger, command=STUB)
        with double, pytest.raises(HostsError, match=r"a host called 'edge-1' is at the hub already"):
            double.wait()
        third = Agent("edge-3", {}, Hub(connect=its.address), Store(its.directory / "third"), its.logger, command=STUB)
        eventually(lambda: "edge-3" in its.states(), "a third agent")
        with third, Asker(Hub(connect=its.address)) as asker:
            hidden = asker._session.liveliness().declare_token(key_of_token("edge-3", "0-earlier"))  # until its link was mended
            with pytest.raises(HostsError, match=r"a host called 'edge-3' is at the hub already"):
                third.wait()
            hidden.undeclare()
    print("a second agent of a name is refused")


if __name__ == "__main__":
    main()
