"""Random graphs of routines over flows: what was sent arrives, in order per wire, all of it ends, and nothing is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipert_shm import START_EVENT_NAME, MiddleRoutine, Pipe, Routine, Wire
from routines import Items, Record, received


@dataclass(frozen=True)
class Graph:
    """Nodes are numbers, in topological order; those without a predecessor are sources.

    Attributes:
        flow_of: the flow of each node.
        wires: pairs of nodes, the smaller number first.
        counts: how many messages each source sends.
        capacity: of every queue.
        frames: whether payloads carry a frame.
    """

    flow_of: tuple[int, ...]
    wires: frozenset[tuple[int, int]]
    counts: tuple[int, ...]
    capacity: int
    frames: bool

    @property
    def nodes(self) -> range:
        return range(len(self.flow_of))

    def before(self, node: int) -> list[int]:
        return sorted(a for a, b in self.wires if b == node)

    def after(self, node: int) -> list[int]:
        return sorted(b for a, b in self.wires if a == node)

    def paths_to(self, node: int) -> Iterator[tuple[int, ...]]:
        """Every way from a source to a node."""
        previous = self.before(node)
        if not previous:
            yield (node,)
        for other in previous:
            for path in self.paths_to(other):
                yield (*path, node)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(2, 7))
    wires = set()
    for node in range(1, size):
        for other in draw(st.sets(st.integers(0, node - 1), max_size=3)):
            wires.add((other, node))
    for node in range(size):  # nobody floats
        if not any(node in wire for wire in wires):
            wires.add((node, node + 1) if node + 1 < size else (draw(st.integers(0, node - 1)), node))
    return Graph(
        flow_of=tuple(draw(st.integers(0, 3)) for _ in range(size)),
        wires=frozenset(wires),
        counts=tuple(draw(st.integers(0, 12)) for _ in range(size)),
        capacity=draw(st.integers(1, 4)),
        frames=draw(st.booleans()),
    )


class Via(MiddleRoutine):
    """Notes on each message that it came by here."""

    def __init__(self, node: int) -> None:
        super().__init__(str(node))
        self.node = node

    def main_logic(self, data: Any) -> Any:
        number, path, frame = data
        return number, (*path, self.node), frame


def check(data: Any) -> Any:
    number, path, frame = data
    if frame is not None:
        assert (np.asarray(frame) == (number + 31 * path[0]) % 251).all(), "a torn frame"
    return number, path


def items(graph: Graph, node: int) -> list[Any]:
    return [
        (n, (node,), np.full((50, 100 + n), (n + 31 * node) % 251, np.uint8) if graph.frames else None)
        for n in range(graph.counts[node])
    ]


def run(graph: Graph, folder: Path) -> None:
    routines: list[Routine] = []
    for node in graph.nodes:
        if not graph.before(node):
            routines.append(Items(str(node), items(graph, node)))
        elif graph.after(node):
            routines.append(Via(node))
        else:
            routines.append(Record(str(node), folder / str(node), check))
    pipe = Pipe(policy="block", capacity=graph.capacity)
    for flow in sorted(set(graph.flow_of)):
        pipe.create_flow(f"flow{flow}", False, *(routines[node] for node in graph.nodes if graph.flow_of[node] == flow))
    pipe.link(*(Wire(routines[a], routines[b]) for a, b in sorted(graph.wires)))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()

    statistics = pipe.statistics()
    for name, routine in statistics.routines.items():
        assert (routine.state, routine.errors) == ("ended", 0), name
    for names, wire in statistics.wires.items():
        assert (wire.received, wire.waiting, wire.lost, wire.protocol_errors) == (wire.sent, 0, 0, 0), names
    for node in graph.nodes:
        if graph.before(node) and not graph.after(node):
            arrived_as_expected(graph, node, folder / str(node))


def arrived_as_expected(graph: Graph, node: int, path: Path) -> None:
    got = [message.value for message in received(path)]
    expected = Counter((n, way[:-1]) for way in graph.paths_to(node) for n in range(graph.counts[way[0]]))
    assert Counter(got) == expected
    for way in {way for _, way in got}:
        numbers = [number for number, other in got if other == way]
        assert numbers == sorted(numbers), f"out of order by way of {way}"


def graph(flow_of: str, wires: str, counts: str, capacity: int = 1, frames: bool = True) -> Graph:
    """For examples: one digit for each node, wires as pairs of digits."""
    return Graph(
        tuple(map(int, flow_of)),
        frozenset((int(pair[0]), int(pair[1])) for pair in wires.split()),
        tuple(map(int, counts)),
        capacity,
        frames,
    )


@settings(max_examples=25)
@given(graphs())
@example(graph("00", "01", "50"))
@example(graph("01", "01", "90"))
@example(graph("0123", "01 12 23", "9000"))
@example(graph("0123", "01 02 13 23", "9000"))
@example(graph("0000", "01 02 13 23", "9000"))
@example(graph("0110", "01 02 13 23 03", "9000"))
@example(graph("0101010", "01 12 23 34 45 56", "9000000"))
@example(graph("0121", "01 02 03", "9000", frames=False))
@example(graph("0123333", "06 16 26 36 46 56", "4444440"))
@example(graph("0011223", "02 03 12 13 24 25 34 35 46 56", "5500000"))
def test_what_was_sent_arrives(tmp_path_factory: Any, graph: Graph) -> None:
    run(graph, tmp_path_factory.mktemp("graph"))


def test_a_mesh_within_one_flow(tmp_path: Any) -> None:
    """There are 3 ** 9 ways through it, but only so many queues to hold frames on them."""

    class Once(MiddleRoutine):
        """Sends on each message that it sees for the first time."""

        def setup(self) -> None:
            self.seen: set[int] = set()

        def main_logic(self, data: Any) -> Any:
            if data[0, 0] in self.seen:
                return None
            self.seen.add(data[0, 0])
            return data

    layers = [[Once(f"{layer}-{place}") for place in range(3)] for layer in range(9)]
    source = Items("source", [np.full((100, 100), n, np.uint8) for n in range(20)])
    record = Record("record", tmp_path / "r", lambda frame: int(frame[0, 0]))
    pipe = Pipe(policy="block")
    pipe.create_flow("a", False, source)
    pipe.create_flow("b", False, *(routine for layer in layers for routine in layer))
    pipe.create_flow("c", False, record)
    pipe.link(Wire(source, layers[0]))
    for layer, following in pairwise(layers):
        pipe.link(*(Wire(routine, following) for routine in layer))
    pipe.link(*(Wire(routine, record) for routine in layers[-1]))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert sorted(message.value for message in received(tmp_path / "r")) == sorted(3 * list(range(20)))
    assert {routine.errors for routine in pipe.statistics().routines.values()} == {0}
