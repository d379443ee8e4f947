"""A hub, the agents of several hosts and a file for all of them: real processes, on the loopback interface."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import RunCli, StartCli
from pipert_shm import PipeStateError
from pipert_shm.cli.run_on_hosts import OnHosts
from streams import free_port
from test_cli_run import read_until
from waiting import eventually
from yards import Yard

UNREACHABLE = "it did not answer: the link is cut, or the host or its agent is down"


@pytest.fixture
def yard(tmp_path: Path, start_cli: StartCli, run_cli: RunCli) -> Iterator[Yard]:
    with Yard(tmp_path, start_cli, run_cli) as yard:
        yield yard


def test_a_file_for_several_hosts_runs_on_them_and_goes_on_without_hub_or_agents(yard: Yard) -> None:
    hub, edge, gpu = yard.hub(), yard.agent("edge-1"), yard.agent("gpu-1", "--label", "gpu=true")
    yard.await_there(edge, gpu)
    port = free_port()
    here = yard.start("run", yard.file, "--watch", "--api", f"127.0.0.1:{port}")
    yard.await_lines(2)
    with pytest.raises(PipeStateError, match="already: `pipert-shm apply`"):
        OnHosts(yard.file).load()

    yard.write(("by: 2", "by: 3"))  # and so it is applied, by `pipert-shm apply` in a process beside
    read_until(here.stderr, "gpu-1: ~ flow 'detect' gets a new process: routines.times.parameters.by: 2 -> 3\n")
    yard.await_lines(3)

    yard.write(("by: 2", "by: 4"), (str(yard.out), str(yard.directory / "lacking" / "out.txt")))
    read_until(here.stderr, "yard.yaml changed, and is not applied:\n")
    read_until(here.stderr, "yard.yaml:6: routines.log: ")
    yard.await_lines(3)
    assert "by: 3" in json.loads((yard.directory / "gpu-1" / f"{yard.pipe}.json").read_text())["now"]["text"], "it was put back"
    refused = yard.run("apply", yard.copied("other.yaml"))
    assert f"pipe.name: host edge-1 runs a pipe {yard.pipe!r} of another file, desk:{yard.file}: give this" in refused.stderr

    eventually(lambda: routines_elsewhere(port) == {"edge-1": ["count@edge-1"], "gpu-1": ["times@gpu-1"]}, "them over HTTP")
    attached = yard.run_script("remote_attached.py", f"{yard.pipe}@edge-1", yard.hub_address)
    assert attached.returncode == 0, attached.stderr
    assert attached.stdout.splitlines() == [
        "frames come in order",
        "counters are those of the host",
        "what can't be is refused by name",
        "a fork of this process opens no session, and says so",
    ]

    pids = yard.pid("edge-1"), yard.pid("gpu-1")
    for agent in (edge, gpu):
        agent.kill()
    yard.await_lines(3)
    eventually(lambda: set(problems_elsewhere(port)) == {UNREACHABLE}, "that over HTTP")
    hub.kill()
    hub.wait()
    yard.hub()
    yard.await_lines(3)
    yard.await_there(yard.agent("edge-1"), yard.agent("gpu-1", "--label", "gpu=true"))
    assert (yard.pid("edge-1"), yard.pid("gpu-1")) == pids, "found again, not started again"
    told = yard.run("ctl", f"{yard.pipe}@*", "stats")
    assert json.loads(told.stdout).keys() == {"edge-1", "gpu-1"}, told
    ended = yard.run("ctl", f"{yard.pipe}@*", "kill")
    assert sorted(ended.stdout.splitlines()) == ["edge-1: kill: the pipe has ended", "gpu-1: kill: the pipe has ended"], ended
    assert list((yard.directory / "gpu-1").glob("*.json")) == [], "and forgotten"
    here.send_signal(signal.SIGINT)
    assert here.wait(30) == 130

    program = yard.run_script("program_on_hosts.py", yard.hub_address, f"{yard.pipe}-program")
    assert (program.returncode, program.stdout) == (0, "True\n"), program


def hosts_over_http(port: int) -> list[dict[str, Any]]:
    """What the control of the desk's part tells of other hosts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hosts") as answer:
        hosts: list[dict[str, Any]] = json.load(answer)["hosts"]
    return hosts


def routines_elsewhere(port: int) -> dict[str, list[str]]:
    """The file's routines on other hosts, by host."""
    return {
        host["host"]: [one["name"] for one in host["statistics"]["routines"] if one["name"].count("@") == 1]
        for host in hosts_over_http(port)
        if host["statistics"]
    }


def problems_elsewhere(port: int) -> list[str]:
    """Why the other hosts tell nothing."""
    return [host["problem"] for host in hosts_over_http(port)]


def test_what_agents_refuse_and_put_back_and_bring_up_again() -> None:
    script = Path(__file__).with_name("agents_alone.py")
    end = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert end.returncode == 0, end.stderr
    assert end.stdout.splitlines() == [
        "what is refused leaves nothing behind",
        "a second agent of a name is refused",
        "a part that dies is started again",
        "after a reboot all comes up again",
        "a host that the file no longer names ends its part",
    ]
