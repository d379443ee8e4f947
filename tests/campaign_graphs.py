"""The random graphs of the kill campaign, and the pipes that they become."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

from patterned import STYLES, BatchStep, Camera, Checks, Screen, Step
from pipert_shm import Join, Pipe, Routine, Wire
from pipert_shm.limits import POLICIES, Policy
from waiting import Board

OLD_DEATHS = 0.03  # seconds after which a death counts no more for a flow's back-off
SHAPES = ("chain", "fan out", "fan in", "diamond", "random")
LOSSLESS_SHAPES = ("batches", "joined")  # a chain with batches on full wires, and a diamond at whose end all is joined in order
REMEMBERED = 4096  # numbers per way, to find doubles

Edge = tuple[int, int]
Way = tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One routine, or the replicas of one."""

    number: int
    kind: str  # camera, step or screen
    flow: str
    replicas: int = 1
    ordered: bool = False
    batch: int = 0  # messages of one call, where it takes several
    max_wait: float = 0.0  # seconds, for the batch to be full
    joins: bool = False
    slow: float = 0.0  # seconds that a screen looks at each message

    @property
    def name(self) -> str:
        return f"r{self.number}"

    @property
    def copies(self) -> tuple[str, ...]:
        """Names of the routines that it becomes."""
        return (self.name,) if self.replicas == 1 else tuple(f"{self.name}#{n}" for n in range(self.replicas))

    @property
    def flows(self) -> tuple[str, ...]:
        return (self.flow,) if self.replicas == 1 else tuple(f"{self.flow}#{n}" for n in range(self.replicas))

    def __str__(self) -> str:
        what = [self.name, f"in {self.flow}"]
        what += [f"x{self.replicas}{' ordered' if self.ordered else ''}"] if self.replicas > 1 else []
        what += [f"batch {self.batch} within {self.max_wait} s"] if self.batch else []
        what += [f"slow {self.slow} s"] if self.slow else []
        return " ".join([*what, "joins"] if self.joins else what)


@dataclass
class Graph:
    """Routines by number, and who sends to whom.

    Attributes:
        edges: of the first build.
        extra: wires that may be linked while it runs.
        loose: of all, those that may be unlinked.
        late: routines that are added while it runs; late_edges: theirs.
        max_age: seconds, of some edges.
    """

    shape: str
    nodes: list[Node]
    edges: list[Edge]
    policy: Policy
    capacity: int
    fps: int
    timeout: float | None = None
    auto_pacing: bool = False
    extra: list[Edge] = field(default_factory=list)
    loose: list[Edge] = field(default_factory=list)
    late: list[Node] = field(default_factory=list)
    late_edges: list[Edge] = field(default_factory=list)
    max_age: dict[Edge, float] = field(default_factory=dict)

    def __str__(self) -> str:
        def wires(edges: Iterable[Edge]) -> str:
            return ", ".join(f"{a}->{b}" for a, b in edges) or "none"

        return (
            f"{self.shape}: {wires(self.edges)}; {'; '.join(map(str, self.nodes))}\n  {self.policy}, capacity {self.capacity}, "
            f"time-out {self.timeout}, {self.fps or 'no'} fps{', auto pacing' if self.auto_pacing else ''}, max_age "
            f"{self.max_age}\n  may be linked: {wires(self.extra)}; unlinked: {wires(self.loose)}\n"
            f"  added: {wires(self.late_edges)}; {'; '.join(map(str, self.late)) or 'nothing'}"
        )

    @property
    def everybody(self) -> list[Node]:
        return [*self.nodes, *self.late]

    @property
    def joins_lose_nothing(self) -> bool:
        """Whether each message of a join's inputs has its partners, if nothing is lost on the way to it."""
        in_order = all(node.ordered or node.replicas == 1 for node in self.everybody)
        return self.policy == "block" and self.timeout is None and not self.loose and in_order

    @property
    def every_edge(self) -> list[Edge]:
        return [*self.edges, *self.extra, *self.late_edges]

    def senders_to(self, node: int) -> list[int]:
        return sorted(a for a, b in self.every_edge if b == node)

    def ways_to(self, node: int, *, on: bool = False) -> list[Way]:
        """Every way on which a message can come to a routine, by names: (origin, …, itself).

        :param on: those on which it goes on: of a join, that of its first wire.
        """
        senders = self.senders_to(node)
        copies = self.everybody[node].copies
        if not senders:
            return [(name,) for name in copies]
        if on and self.everybody[node].joins:
            senders = senders[:1]
        ways = [way for sender in senders for way in self.ways_to(sender, on=True)]
        return [(*way, name) for way, name in product(ways, copies)]

    def plain(self, way: Way) -> Way:
        """A way with every replica called by the name that they share."""
        return tuple(name.split("#")[0] for name in way)

    def order_of(self, way: Way) -> Way:
        """What the ways have in common whose messages come in order, one way after the other included."""
        names = list(way)
        for place, (name, following) in enumerate(pairwise(way)):
            node, other = (int(n.split("#")[0][1:]) for n in (name, following))
            if self.everybody[node].ordered and (node, other) in self.edges:
                names[place] = self.everybody[node].name
        return tuple(names)

    def moving(self, linked: set[Edge]) -> set[int]:
        """The routines that surely get something, if these edges are there. A join may find no partners for long."""
        moving = {node.number for node in self.everybody if not self.senders_to(node.number)}
        for _ in self.everybody:
            for node in self.everybody:
                ins = [edge for edge in self.every_edge if edge[1] == node.number]
                alive = [edge in linked and edge[0] in moving and edge not in self.max_age for edge in ins]
                if any(alive) and (not node.joins or (all(alive) and self.policy == "block" and self.timeout is None)):
                    moving.add(node.number)
        return moving


# ---- at random -----------------------------------------------------------------------------------


def random_graph(rng: random.Random, policy: Policy | None) -> Graph:
    shape = rng.choice((*SHAPES, *LOSSLESS_SHAPES) if policy in (None, "block") else SHAPES)
    size = rng.randint(3, 6)
    if shape in ("chain", "batches"):
        edges = [(n, n + 1) for n in range(size - 1)]
    elif shape == "fan out":
        edges = [(0, n) for n in range(1, size)]
    elif shape == "fan in":
        edges = [(n, size - 2) for n in range(size - 2)] + [(size - 2, size - 1)]
    elif shape in ("diamond", "joined"):
        size = max(size, 4)
        edges = [(0, n) for n in range(1, size)] + [(n, size - 1) for n in range(1, size - 1)]
    else:
        edges = sorted({(rng.randrange(n), n) for n in range(1, size)} | {(rng.randrange(n), n) for n in range(2, size)})
    lossless = shape in LOSSLESS_SHAPES
    chosen: Policy = "block" if lossless else policy if policy is not None else rng.choice(POLICIES)
    graph = Graph(shape, [], edges, chosen, rng.choice((1, 2, 3, 8)), rng.choice((0, 0, 200, 1000)))
    for number in range(size):
        graph.nodes.append(_random_node(graph, number, rng))
    _share_a_flow(graph, rng)
    if chosen == "block" and not lossless and rng.random() < 0.15:
        graph.timeout = 0.02
    graph.auto_pacing = rng.random() < 0.25
    if rng.random() < 0.5:
        _grow(graph, rng)
    ends = [edge for edge in graph.edges if graph.nodes[edge[1]].kind == "screen" and not graph.nodes[edge[1]].joins]
    if ends and rng.random() < 0.25:
        graph.max_age[rng.choice(ends)] = rng.choice((0.002, 0.02, 0.5))
    if not lossless:
        _loosen(graph, rng)
    return graph


def _random_node(graph: Graph, number: int, rng: random.Random) -> Node:
    ins, outs = ([edge for edge in graph.edges if edge[end] == number] for end in (1, 0))
    node = Node(number, "camera" if not ins else "step" if outs else "screen", f"f{number}")
    if not ins:
        return node
    joined = graph.shape == "joined"
    if len(ins) > 1 and len(_origins(graph, number)) == 1 and (joined or rng.random() < 0.5):
        graph.capacity = min(graph.capacity, 3)  # so much less has to wait for partners
        return replace(node, joins=True)
    if not any(graph.nodes[a].ordered for a, _ in ins) and rng.random() < 0.25:
        node = replace(node, replicas=rng.choice((2, 2, 3)), ordered=node.kind == "step" and (joined or rng.random() < 0.6))
    batches = graph.shape == "batches"
    if node.kind == "step" and (rng.random() < 0.2 or (batches and number == 1)):
        node = replace(node, batch=rng.choice((2, 4)), max_wait=rng.choice((0.02, 0.2) if batches else (0, 0.005)))
    if node.kind == "screen" and (batches or rng.random() < 0.1):
        node = replace(node, slow=rng.choice((0.002, 0.01)))
    return node


def _origins(graph: Graph, number: int) -> set[int]:
    senders = graph.senders_to(number)
    return set().union(*(_origins(graph, sender) for sender in senders)) if senders else {number}


def _share_a_flow(graph: Graph, rng: random.Random) -> None:
    single = [(a, b) for a, b in graph.edges if graph.nodes[a].replicas == graph.nodes[b].replicas == 1]
    if len(graph.nodes) > 3 and single and rng.random() < 0.4:
        a, b = rng.choice(single)
        graph.nodes[b] = replace(graph.nodes[b], flow=graph.nodes[a].flow)


def _grow(graph: Graph, rng: random.Random) -> None:
    """Flows for later: a screen, a step before it, or a camera."""
    first = len(graph.nodes)
    senders = [node.number for node in graph.nodes if node.kind != "screen"]
    joins = {node.number for node in graph.nodes if node.joins}  # of one source only
    takers = [node.number for node in graph.nodes if _takes_more(node) and not joins & _reached(graph, node.number)]
    what = rng.choice(("screen", "step", "camera"))
    if what == "camera" and takers:
        graph.late = [Node(first, "camera", f"f{first}")]
        graph.late_edges = [(first, rng.choice(takers))]
    elif what == "step":
        batch = rng.choice((0, 0, 3))
        together = rng.random() < 0.4
        step = Node(first, "step", f"f{first}", batch=batch, max_wait=0.005)
        graph.late = [step, Node(first + 1, "screen", f"f{first + (not together)}")]
        graph.late_edges = [(rng.choice(senders), first), (first, first + 1)]
    else:
        graph.late = [Node(first, "screen", f"f{first}")]
        graph.late_edges = [(a, first) for a in sorted(rng.sample(senders, min(2, len(senders))))]


def _reached(graph: Graph, number: int) -> set[int]:
    return {number}.union(*(_reached(graph, b) for a, b in graph.edges if a == number))


def _takes_more(node: Node) -> bool:
    return node.kind != "camera" and not node.joins and node.replicas == 1


def _loosen(graph: Graph, rng: random.Random) -> None:
    """Which wires come and go: new ones, and some of those that are not all that their receiver has."""
    pairs = [(a.number, b.number) for a in graph.nodes for b in graph.nodes if a.number < b.number]
    fresh = [
        (a, b)
        for a, b in pairs
        if (a, b) not in graph.edges and graph.nodes[a].kind != "screen" and _takes_more(graph.nodes[b])
    ]
    if fresh and rng.random() < 0.6:
        graph.extra = rng.sample(fresh, min(len(fresh), rng.choice((1, 1, 2))))
    by_receiver: dict[int, list[Edge]] = defaultdict(list)
    for a, b in [*graph.edges, *graph.late_edges]:
        by_receiver[b].append((a, b))
    graph.loose = list(graph.extra)
    for receiver, ins in by_receiver.items():
        built = [edge for edge in ins if edge in graph.edges]
        if len(built) > 1 and graph.nodes[receiver].replicas == 1 and rng.random() < 0.4:
            kept = rng.choice([edge for edge in built if edge not in graph.max_age])
            graph.loose += [edge for edge in built if edge != kept]


# ---- pipes ---------------------------------------------------------------------------------------


class Tally(Checks):
    """Checks against what the ways have in common, and that nothing comes twice. What it saw outlives its process."""

    def __init__(self, board: Board, doubles: Board, cells: dict[Way, tuple[int, int, int]]) -> None:
        super().__init__(board, {})
        self.doubles = doubles
        self.cells = cells

    def note(self, way: Way, sequence: int) -> None:
        order, count, table = self.cells[way]
        last = self._board[order] - 1
        assert sequence > last, f"out of order: {way} {sequence} came after {last}"
        self._board[order] = sequence + 1
        self._board.add(count)
        if table >= 0:
            cell = table + sequence % REMEMBERED
            assert self.doubles[cell] != sequence + 1, f"doubled: {way} {sequence}"
            self.doubles[cell] = sequence + 1


class SlowScreen(Screen):
    """Looks at each message for a while, and says so while the board tells it to talk."""

    def __init__(self, name: str, checks: Checks, seconds: float, talk: Board) -> None:
        super().__init__(name, checks)
        self.seconds = seconds
        self.talk = talk

    def main_logic(self, data: Any) -> None:
        super().main_logic(data)
        if self.talk[0]:
            self._logger.warning("saw %d", self.meta.sequence)
        if self.seconds:
            time.sleep(self.seconds)


@dataclass
class Made:
    """A pipe, its routines by their numbers in the graph, and where on the board each way is recorded.

    Attributes:
        cells: per way the cells of its order, of its count, and of its table of doubles or -1.
        talk: whether screens log each message.
    """

    pipe: Pipe
    routines: list[Routine]
    board: Board
    cells: dict[Way, tuple[int, int, int]]
    talk: Board

    def add(self, graph: Graph, nodes: list[Node], edges: list[Edge]) -> None:
        """Creates flows and wires, for the next build."""
        for flow in dict.fromkeys(node.flow for node in nodes):
            members = [node for node in nodes if node.flow == flow]
            self.pipe.create_flow(
                flow,
                False,
                *(self.routines[node.number] for node in members),
                replicas=members[0].replicas,
                ordered=members[0].ordered,
                max_restarts=10**6,
                restart_window=OLD_DEATHS,
            )
        for a, b in sorted(edges):
            self.pipe.link(Wire(self.routines[a], self.routines[b], max_age=graph.max_age.get((a, b))))


def make_pipe(graph: Graph, rng: random.Random) -> Made:
    """The pipe as it is to be built first."""
    cells: dict[Way, tuple[int, int, int]] = {}
    orders: dict[Way, int] = {}
    tables: dict[Way, int] = {}
    ways = [way for node in graph.everybody if node.kind != "camera" for way in graph.ways_to(node.number)]
    for way in ways:
        spread = any("#" in name for name in way)
        table = tables.setdefault(graph.plain(way), REMEMBERED * len(tables)) if spread else -1
        cells[way] = len(ways) + orders.setdefault(graph.order_of(way), len(orders)), len(cells), table
    board = Board(2 * len(ways) + 1)
    doubles = Board(REMEMBERED * len(tables) + 1)
    talk = Board(1)
    pipe = Pipe(policy=graph.policy, capacity=graph.capacity, timeout=graph.timeout, auto_pacing_mechanism=graph.auto_pacing)
    routines = [_routine(graph, node, Tally(board, doubles, cells), talk, rng) for node in graph.everybody]
    made = Made(pipe, routines, board, cells, talk)
    made.add(graph, graph.nodes, graph.edges)
    return made


def _routine(graph: Graph, node: Node, checks: Checks, talk: Board, rng: random.Random) -> Routine:
    if node.kind == "camera":
        shape = rng.choice(((48, 64, 3), (60, 80, 3), (120, 160, 3)))
        camera = Camera(node.name, shape, loaning=rng.random() < 0.6)
        camera.set_const_fps(graph.fps)
        return camera
    again = [style for style in STYLES if style != "loan"]  # those that a stop does not end in the midst
    if node.batch:
        return BatchStep(node.name, rng.choice(again), checks, batch_size=node.batch, max_wait=node.max_wait)
    style = rng.choice(again if node.joins else STYLES)
    routine = Step(node.name, style, checks) if node.kind == "step" else SlowScreen(node.name, checks, node.slow, talk)
    if node.joins:
        routine.join = Join(by="seq", depth=len(graph.nodes) * (graph.capacity + 3))
    return routine
