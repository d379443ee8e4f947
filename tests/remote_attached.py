"""A program that attaches to a part of another host: `remote_attached.py PIPE@HOST HUB`.

It is a script, since a process that has had a session of Zenoh can't fork flows.
"""

from __future__ import annotations

import os
import sys
from itertools import islice
from typing import NoReturn

import pytest

import pipert_shm
from pipert_shm import HostsError, PayloadError, PipeStateError, RemoteRefusal
from pipert_shm.hosts import RemoteReceiver, RemoteSender


def fork(hub: str) -> NoReturn:
    """What a flow's process does: it ends with status 0 if the ends of a wire between hosts refuse."""
    status = 1
    try:
        for end in RemoteSender("gate", connect=hub).setup, RemoteReceiver("gate", connect=hub).main_logic:
            with pytest.raises(HostsError, match=r"forked from one that has had a session of Zenoh \(a RemotePipe, say\)"):
                end()
        status = 0
    finally:
        os._exit(status)


def main(name: str, hub: str) -> None:
    with pipert_shm.attach(name, timeout=10, hub=hub) as edge:
        assert "count" in [routine["routine_name"] for routine in edge.structure()["Routines"]]
        before = edge.statistics()
        with edge.tap("count") as tap:
            numbers = list(islice(tap, 20))
            assert numbers == sorted(set(numbers))
            assert tap.meta is not None
            assert (tap.meta.origin, tap.meta.sequence) == ("count", numbers[-1])
            print("frames come in order")
        now = edge.statistics()
        assert now.routines["count"].sent - before.routines["count"].sent >= numbers[-1] - numbers[0]
        assert now.routines["count"].state == "running"
        print("counters are those of the host")
        edge.notify_event("update_fps", {"gate": ["count"]}, fps=50)
        with pytest.raises(RemoteRefusal, match=r"host edge-1: .*there is no routine 'cuont'"):
            edge.notify_event("update_fps", specific_routine="cuont", fps=50)
        with pytest.raises(PayloadError, match="they go to another host as JSON"):
            edge.notify_event("update_fps", fps=object())
        with pytest.raises(RemoteRefusal, match=r"host edge-1: .*there is no routine 'cuont'"):
            edge.tap("cuont")
        with pytest.raises(PipeStateError, match="by a wire, in a file with a section `hosts`"):
            edge.source("count")
        print("what can't be is refused by name", flush=True)
        child = os.fork()
        if not child:
            fork(hub)
        assert os.waitpid(child, 0)[1] == 0
        print("a fork of this process opens no session, and says so")
    with pytest.raises(RemoteRefusal, match=r"runs no part of a pipe 'yord'; it runs: yard"):
        pipert_shm.attach("yord@edge-1", hub=hub)
    with pytest.raises(RemoteRefusal, match=r"host edge-9: it did not answer"):
        pipert_shm.attach("yard@edge-9", hub=hub)


if __name__ == "__main__":
    main(*sys.argv[1:])
