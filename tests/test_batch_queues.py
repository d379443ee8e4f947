"""Queues around a batch hold it: what comes while it is handled, and what goes out of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import (
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    BatchRoutine,
    Join,
    MiddleRoutine,
    Pipe,
    Routine,
    Wire,
    WiresValidation,
)
from pipert_shm.graph.model import Defaults, Plan
from pipert_shm.graph.plan import make_plan
from pipert_shm.limits import LARGEST_CAPACITY
from pipert_shm.transmitters import SharedMemoryTransmitter
from routines import Forward, Frames, Items, Record, Sink, chain, received
from waiting import eventually

CAPACITY, LONG = 2, 3600.0


class Batches(BatchRoutine):
    def main_logic(self, batch: list[Any]) -> list[Any]:
        return batch


class Joined(MiddleRoutine):
    join = Join(by="seq", depth=3)

    def main_logic(self, data: Any) -> Any:
        return sorted(data)


def planned(*wires: Wire, policy: Any = "drop_oldest", replicas: int = 1, ordered: bool = False) -> Plan:
    """Of routines in flows of their own; those called `b` have the replicas."""
    routines = dict.fromkeys(each for wire in wires for each in (wire.source, *wire.destinations))
    flows: dict[str, Sequence[Routine]] = {routine.name: [routine] for routine in routines}
    defaults = Defaults(policy, CAPACITY, None, SharedMemoryTransmitter())
    return make_plan(flows, wires, defaults, {"b": replicas}, ["b"] if ordered else [])


def capacities(plan: Plan) -> dict[str, int]:
    return {f"{plan.names[edge.sender]}-{plan.names[edge.receiver]}": edge.capacity for edge in plan.edges}


def in_a_row(*routines: Routine, **settings: Any) -> list[Wire]:
    return [Wire(a, b, **settings) for a, b in pairwise(routines)]


def cameras(count: int) -> list[Routine]:
    return [Frames(f"s{number}", 1) for number in range(count)]


def test_the_queues_to_a_batch_and_all_that_is_behind_it_hold_one() -> None:
    plan = planned(*in_a_row(Frames("s", 1), Forward("f"), Batches("b", batch_size=16), Forward("g"), Sink("t")))
    assert capacities(plan) == {"s-f": 2, "f-b": 18, "b-g": 18, "g-t": 18}
    assert plan.get("s").message_slots > 0
    b = plan.get("b")
    assert b.ins[0].borrow_cap >= 16


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize(("count", "capacity"), [(1, 10), (2, 10), (5, 6), (20, 4)])
def test_of_many_cameras_each_may_send_twice_its_share(policy: str, count: int, capacity: int) -> None:
    b = Batches("b", batch_size=8)
    got = capacities(planned(*(Wire(camera, b) for camera in cameras(count)), Wire(b, Sink("t")), policy=policy))
    assert got == {**{f"s{number}-b": capacity for number in range(count)}, "b-t": 10}


def test_of_many_cameras_none_needs_the_memory_of_all() -> None:
    def slots(count: int) -> tuple[int, int]:
        b = Batches("b", batch_size=8)
        plan = planned(*(Wire(camera, b) for camera in cameras(count)), *in_a_row(b, Forward("f"), Sink("t")))
        return plan.get("s0").slots, plan.get("f").slots

    (alone, behind), (one_of_two, _), (one_of_many, behind_many) = slots(1), slots(2), slots(16)
    assert (alone - one_of_two, alone - one_of_many) == (0, 3 * 6), "2 more on each wire in place of 8"
    assert behind == behind_many, "what a later step makes of any camera's frames"


def test_a_queue_that_makes_its_sender_wait_needs_no_more_and_a_batch_of_one_is_none() -> None:
    row: list[Routine] = [Frames("s", 1), Batches("b", batch_size=16), Sink("t")]
    assert set(capacities(planned(*in_a_row(*row), policy="block")).values()) == {CAPACITY}
    row[1] = Batches("b", batch_size=1)
    assert set(capacities(planned(*in_a_row(*row))).values()) == {CAPACITY}


def test_batches_that_meet_and_batches_of_batches() -> None:
    s, t, b, c = Frames("s", 1), Sink("t"), Batches("b", batch_size=8), Batches("c", batch_size=5)
    f = Forward("f")
    got = capacities(planned(Wire(s, (b, c)), Wire(b, f), Wire(c, f), Wire(f, t)))
    assert got == {"s-b": 10, "s-c": 7, "b-f": 10, "c-f": 10, "f-t": 15}, "13 at once"
    got = capacities(planned(*in_a_row(s, b, c, t)))
    assert got == {"s-b": 10, "b-c": 10, "c-t": 10}


def test_while_a_batch_s_results_are_handled_others_wait() -> None:
    s, b, t = Frames("s", 1), Batches("b", batch_size=8), Sink("t")
    assert capacities(planned(Wire(s, b), Wire(b, t), Wire(s, t))) == {"s-b": 10, "b-t": 10, "s-t": 10}


@pytest.mark.parametrize("ordered", [False, True])
def test_each_replica_has_batches_of_its_own(ordered: bool) -> None:
    s, b, f, t = Frames("s", 1), Batches("b", batch_size=8), Forward("f"), Sink("t")
    got = capacities(planned(*in_a_row(s, b, f, t), replicas=3, ordered=ordered))
    assert {got[f"s-b#{number}"] for number in range(3)} == {10}
    assert {got[f"b#{number}-f"] for number in range(3)} == {18 if ordered else 10}, "one may be a batch ahead"
    assert got["f-t"] == 2 + 3 * 8


def test_a_join_waits_as_long_as_a_batch_may_take() -> None:
    s, b, f, j = Frames("s", 1), Batches("b", batch_size=8), Forward("f"), Joined("j")
    for policy, queue in (("drop_oldest", 10), ("block", 2)):
        assert planned(Wire(s, (f, j)), Wire(f, j), policy=policy).get("j").depth == 3, "no batch"
        plan = planned(Wire(s, (b, j)), Wire(b, f), Wire(f, j), policy=policy)
        assert plan.get("j").depth == (1 + queue) + (8 + queue) + (1 + queue)
        assert all(edge.borrow_cap > plan.get("j").depth for edge in plan.get("j").ins)


def refusals() -> Iterable[Any]:
    s, b, t = Frames("s", 1), Batches("b", batch_size=8), Sink("t")
    yield (
        "out",
        [Wire(s, b), Wire(b, t, capacity=7)],
        r"'b' to 't' holds 7 messages, and batches of 8 come from 'b'.*capacity=8 ",
    )
    yield "in", [Wire(s, b, capacity=7), Wire(b, t)], r"'s' to 'b' holds 7 messages, and batches of 8 come to 'b'.*capacity=8 "
    two = [Wire(camera, b, capacity=3, policy="drop_newest") for camera in cameras(2)]
    yield "in, of two", [*two, Wire(b, t)], r"holds 3 messages, and batches of 8 come to 'b'.*capacity=4 "
    big = Batches("b", batch_size=LARGEST_CAPACITY)
    yield (
        "too large",
        [Wire(s, big), Wire(big, t)],
        r"would have to hold batches of 65536 messages, and can't hold more than 65536",
    )


@pytest.mark.parametrize(("wires", "text"), [pytest.param(*rest, id=name) for name, *rest in refusals()])
def test_a_capacity_that_is_too_small_is_refused_with_the_number(wires: list[Wire], text: str) -> None:
    with pytest.raises(WiresValidation, match=text):
        planned(*wires)


def test_a_capacity_that_suffices_is_taken_at_its_word() -> None:
    b = Batches("b", batch_size=8)
    four = [Wire(camera, b, capacity=2) for camera in cameras(4)]
    behind = in_a_row(b, Forward("f"), Sink("t"), capacity=8)
    assert set(capacities(planned(*four, *behind)).values()) == {2, 8}
    f, t = Forward("f"), Sink("t")
    got = capacities(planned(Wire(cameras(1)[0], b), Wire(b, f), Wire(f, t, capacity=1)))
    assert got["f-t"] == 1, "further on it is somebody's wish"
    got = capacities(planned(Wire(cameras(1)[0], b, capacity=1, policy="block"), Wire(b, f, capacity=1, policy="block")))
    assert set(got.values()) == {1}


# ---- in pipes that run ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one by one", "replicas in order"])
def test_nothing_of_a_batch_is_dropped_before_its_receivers_have_looked(tmp_path: Path, kind: str) -> None:
    """Each step is started when the one before has sent all it has: no one could be slower, and it is one batch each."""
    source, record = Items("source", range(16)), Record("record", tmp_path / "got")
    replicas = 2 if kind == "replicas in order" else 1
    batches, forward = Batches("batches", batch_size=16 // replicas, max_wait=LONG), Forward("forward")
    pipe = Pipe()
    chain(pipe, source)
    pipe.create_flow("batches", False, batches, replicas=replicas, ordered=replicas > 1)
    chain(pipe, forward, record)
    pipe.link(Wire(source, batches), Wire(batches, forward))
    pipe.build()
    for name in ("source", "batches", "forward"):
        pipe.notify_event(START_EVENT_NAME, specific_routine=name)
        eventually(lambda name=name: sent(pipe, name) == 16, f"all that {name} sends")  # type: ignore[misc]
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.value for message in received(tmp_path / "got")] == list(range(16))
    assert sum(wire.lost for wire in pipe.statistics().wires.values()) == 0


def sent(pipe: Pipe, name: str) -> int:
    return sum(routine.sent for each, routine in pipe.statistics().routines.items() if each.split("#")[0] == name)


def test_a_join_finds_the_partners_of_a_batch(tmp_path: Path) -> None:
    source, batches, joined = Items("source", range(64)), Batches("batches", batch_size=16, max_wait=LONG), Joined("joined")
    pipe = Pipe(policy="block")
    chain(pipe, source, batches, joined, Record("record", tmp_path / "got"))
    pipe.link(Wire(source, joined))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.sequence for message in received(tmp_path / "got")] == list(range(64))
    assert sum(wire.lost for wire in pipe.statistics().wires.values()) == 0


def test_wires_and_flows_that_come_later_hold_batches_too() -> None:
    first, second, batches, sink = Items("first", []), Items("second", []), Batches("batches", batch_size=8), Sink("sink")
    pipe = Pipe()
    chain(pipe, first, batches, sink)
    pipe.create_flow("second", False, second, third := Items("third", []), other := Sink("other"))
    pipe.link(Wire(second, other), Wire(third, other))
    pipe.build()
    pipe.notify_event(LINK_EVENT_NAME, specific_routine="second", link_routine_name="batches")
    pipe.notify_event(LINK_EVENT_NAME, specific_routine="third", link_routine_name="batches", capacity=3)
    later, end = Batches("later", batch_size=12), Sink("end")
    chain(pipe, later, end)
    pipe.link(Wire(second, later))
    pipe.build()
    wires = pipe.statistics().wires
    pipe.join(to_kill=True)
    assert wires["second", "batches"].capacity == 10
    assert wires["third", "batches"].capacity == 3, "a link is taken at its word"
    assert (wires["second", "later"].capacity, wires["later", "end"].capacity) == (14, 14)


def test_a_later_batch_that_no_queue_can_hold_is_refused_with_the_number() -> None:
    pipe = Pipe()
    source = Items("source", [])
    chain(pipe, source, Sink("sink"))
    pipe.build()
    chain(pipe, later := Batches("later", batch_size=20), Sink("end"))
    pipe.link(Wire(source, later))
    with pytest.raises(
        WiresValidation, match=r"16 messages at the most, not 22: .* policy='block', which also is enough for batches"
    ):
        pipe.build()
    pipe.join(to_kill=True)
