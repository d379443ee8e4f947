"""Killing a pipe's flows, and waiting until what is left is sound again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from audit import Snapshot, audit, take_snapshot
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, Pipe, PipeFailed, Routine, Wire
from waiting import eventually

FAST: dict[str, Any] = {
    "max_restarts": 10**6,
    "restart_window": 0.03,
}  # of a flow that is killed often: no limit, the shortest back-off


def flows_of(pipe: Pipe, *routines: Routine, wires: dict[str, str], **options: Any) -> Pipe:
    """Each routine in a flow of its own, of the same name, that may be killed often; wires as {sender: "receivers"}."""
    by_name = {routine.name: routine for routine in routines}
    for routine in routines:
        pipe.create_flow(routine.name, False, routine, **{**FAST, **options})
    pipe.link(*(Wire(by_name[sender], [by_name[name] for name in names.split()]) for sender, names in wires.items()))
    return pipe


@contextmanager
def running(pipe: Pipe) -> Iterator[Pipe]:
    """Builds and starts a pipe, and kills it in the end."""
    pipe.build()
    try:
        pipe.notify_event(START_EVENT_NAME)
        yield pipe
    finally:
        with suppress(PipeFailed):
            pipe.join(to_kill=True)


def pipe_id_of(pipe: Pipe) -> str:
    assert pipe._session is not None
    return pipe._session.segment.pipe_id


def launcher_of(pipe: Pipe) -> int:
    assert pipe._session is not None
    return pipe._session._launcher


def snapshot_of(pipe: Pipe) -> Snapshot:
    return take_snapshot(pipe_id_of(pipe))


def pid_of(pipe: Pipe, flow: str) -> int:
    """The process of a flow, as soon as it has one."""
    seen = 0

    def is_there() -> bool:
        nonlocal seen
        seen = pipe.statistics().flows[flow].pid
        return seen != 0  # a signal to 0 would reach the group of the tests

    eventually(is_there, f"a process for flow {flow!r}")
    return seen


def kill_flows(pipe: Pipe, *flows: str) -> None:
    """SIGKILL to all of them, as much at once as can be; returns when all are up again."""
    victims = [(flow, pid_of(pipe, flow)) for flow in flows]
    for _, pid in victims:
        os.kill(pid, signal.SIGKILL)
    for flow, pid in victims:
        await_successor(pipe, flow, pid)


def await_successor(pipe: Pipe, flow: str, dead: int) -> None:
    """Until the flow has another process."""
    eventually(lambda: pipe.statistics().flows[flow].pid not in (0, dead), f"a restart of flow {flow!r}")


def await_motion(pipe: Pipe, *but: tuple[str, str], messages: int = 1) -> None:
    """Until every wire, but some, has carried so many messages from now on."""
    base = {wire: counters.received for wire, counters in pipe.statistics().wires.items() if wire not in but}

    def moved() -> bool:
        wires = pipe.statistics().wires
        return all(wires[wire].received >= received + messages for wire, received in base.items())

    eventually(moved, f"{messages} messages on every wire")


def await_states(pipe: Pipe, **states: str) -> None:
    """Until each of these routines has this state."""
    eventually(
        lambda: all(pipe.statistics().routines[name].state == state for name, state in states.items()), f"the states {states}"
    )


def drain(pipe: Pipe, *sources: str) -> None:
    """Stops the sources, and lets the rest take all that is on its way."""
    for source in sources:
        pipe.notify_event(STOP_EVENT_NAME, specific_routine=source)
    await_states(pipe, **dict.fromkeys(sources, "stopped"))

    before: list[int] = []

    def is_drained() -> bool:
        """Twice in a row: a picture is not taken at once, so a message may be counted here already, and there not yet."""
        shot, now = snapshot_of(pipe), pipe.statistics()
        names = list(now.routines)
        resting = {names.index(source) for source in sources}
        received = [int(r["received"]) for r in shot.routines[: len(names)]]
        drained = all(r["received"] == r["handled"] for r in shot.routines[: len(names)]) and not any(
            shot.uncounted(number) or (edge["sender"] not in resting and shot.pending(number))
            for number, edge in enumerate(shot.edges[: len(now.wires)])
        )
        again = drained and received == before
        before[:] = received if drained else []
        return again

    eventually(is_drained, "an end of what is on its way")


def assert_sound(pipe: Pipe, in_hand: Mapping[str, int] | None = None) -> None:
    """Every counter of a resting pipe adds up, and every slot is accounted for, as soon as the recoveries are through.

    :param in_hand: how many slots routines hold.
    """
    names = tuple(pipe.statistics().routines)
    allowed = {names.index(name): count for name, count in (in_hand or {}).items()}
    problems: list[str] = []

    def sound() -> bool:
        problems[:] = audit(snapshot_of(pipe), names, allowed)
        return not problems

    try:
        eventually(sound, "a sound state", 3.0)
    except AssertionError:
        raise AssertionError("\n".join(problems)) from None
    errors = {name: routine.errors for name, routine in pipe.statistics().routines.items() if routine.errors}
    assert not errors, f"routines found errors: {errors}"
