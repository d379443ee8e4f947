"""What `repr`, `print` and a notebook show of a pipe and its parts, at any time and in any process."""

from __future__ import annotations

import logging
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import DestinationRoutine, Latency, Pipe, PipeStatistics, Routine, Wire, WireStatistics
from pipert_shm.binding import BUCKET_NS
from pipert_shm.display.tables import HtmlRepr, Table
from pipert_shm.parent import session
from pipert_shm.statistics import RoutineStatistics
from routines import Gated, Items, Record, Sink, chain, received
from waiting import Board, eventually

ODD = "<script>alert('x')&"  # names have no slash


class Cells(HTMLParser):
    """What an HTML table says, cell by cell, and which tags it is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def html_of(thing: Any) -> str:
    text = thing._repr_html_()
    assert isinstance(text, str)
    return text


# ---- parts by themselves ---------------------------------------------------------------------------


def test_routines() -> None:
    source, sink = Items("camera", []), Sink("screen")
    assert (repr(source), str(sink)) == ("Items('camera')", "Sink('screen')")
    Pipe().create_flow("capture", True, source, sink)
    assert repr(source) == "Items('camera' in flow 'capture')"
    assert html_of(source) == "<code>Items(&#x27;camera&#x27; in flow &#x27;capture&#x27;)</code>"

    class Hasty(DestinationRoutine):
        def __init__(self) -> None:
            self.seen = repr(self)
            super().__init__("hasty")

    hasty = Hasty()
    assert (hasty.seen, repr(hasty)) == ("Hasty(None)", "Hasty('hasty')")


def test_wires() -> None:
    camera, screen, disk = Items("camera", []), Sink("screen"), Sink(ODD)
    assert repr(Wire(camera, screen)) == "Wire('camera' -> 'screen')"
    told = "Wire('camera' -> 'screen', policy='block', capacity=8, timeout=0.5, max_age=2.0)"
    assert repr(Wire(camera, screen, policy="block", capacity=8, timeout=0.5, max_age=2)) == told
    assert Cells(html_of(Wire(camera, [screen, disk]))).tags == ["code"]


def latency(*places: int) -> Latency:
    return Latency(tuple(places.count(place) for place in range(len(BUCKET_NS))))


def test_latencies() -> None:
    assert repr(Latency(())) == "Latency(count=0)"
    assert re.fullmatch(r"Latency\(count=3, p50=[\d.]+ ms, p99=[\d.]+ ms\)", repr(latency(200, 200, 220)))
    assert len(repr(Latency((1,) * len(BUCKET_NS)))) < 80
    assert html_of(latency(200)).startswith("<code>Latency(count=1")


def test_statistics_that_nobody_has_measured() -> None:
    empty = PipeStatistics(1.0, {}, {}, {})
    assert repr(empty) == "PipeStatistics(0 flows, 0 routines, 0 wires, sent=0, lost=0, errors=0)"
    assert str(empty).startswith("wire  sent")
    wire = WireStatistics(
        "a", ODD, "block", 2, False, 5, 2, 1, {"oldest": 2, "crash": 0}, 0, 0, Latency(())
    )  # of a sender that is not there
    routine = RoutineStatistics(ODD, ODD, "running", 0, 0, 0, 0, 0, 0, 0.5, 0, Latency(()), {"faces": 3})
    partial = PipeStatistics(1.0, {ODD: routine}, {("a", ODD): wire}, {})
    assert repr(wire) == (
        f"WireStatistics('a' -> {ODD!r}, sent=5, received=2, waiting=1, lost=2, hop=Latency(count=0), unlinked)"
    )
    assert repr(routine) == f"RoutineStatistics({ODD!r} in flow {ODD!r}, running, received=0, sent=0, errors=0, faces=3)"
    assert "2 oldest" in str(partial)
    shown = Cells(html_of(partial))
    assert set(shown.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert f"a -> {ODD}" in shown.cells


def test_tables() -> None:
    table = Table(("name", "n"), [(ODD, "1"), ("b", "200")])
    first, *rows = str(table).splitlines()
    assert first.index("n", 1) == rows[0].index("1", len(ODD))
    assert all(line == line.rstrip() for line in (first, *rows))
    assert Cells(table.html()).cells == ["name", "n", ODD, "1", "b", "200"]

    class Quoted(HtmlRepr):
        def __repr__(self) -> str:
            return ODD

    assert Cells(html_of(Quoted())).tags == ["code"]


# ---- a pipe through its life -----------------------------------------------------------------------


def test_a_pipe_through_its_life(tmp_path: Path) -> None:
    board, states, seen = Board(), tmp_path / "states", []
    pipe = Pipe(logger=logging.getLogger("front door"), policy="block", capacity=1)
    assert repr(pipe) == str(pipe) == "Pipe('front door': 0 flows, 0 routines, 0 wires, not built)"
    gate = Gated("gate", board, 0, 1)
    looks = Record("looks", states, lambda data: (repr(pipe), str(pipe), html_of(pipe), repr(looks)))
    source = Items("source", range(4))
    chain(pipe, source, gate)
    pipe.create_flow("looks", False, looks)
    pipe.link(Wire(source, looks))
    assert repr(pipe).endswith("3 flows, 3 routines, 2 wires, not built)")
    lines = str(pipe).splitlines()
    assert "source  source   Items" in lines
    assert "source -> gate   block   1" in lines
    launch = session.Session.launch

    def look(it: session.Session) -> None:
        seen.append(repr(pipe))
        launch(it)
        seen.append(repr(pipe))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Session, "launch", look)
        pipe.build()
    assert all(text.endswith("not built)") for text in seen)
    assert repr(pipe).endswith("3 built)")
    pipe.notify_event("start")
    eventually(lambda: repr(pipe).endswith("3 running)"), "all run")
    statistics = pipe.statistics()
    assert "unread" not in str(statistics)
    assert "running" in str(statistics)
    board[0] = 4
    pipe.join()
    assert repr(pipe).endswith("2 wires, ended)")
    over = pipe.statistics()
    wires, routines = str(over).split("\n\n")
    assert re.split("  +", wires.splitlines()[0]) == [
        *("wire", "sent", "received", "dropped", "hop p50", "hop p99", "copied/frame", "private/frame")
    ]
    assert re.search(r"^source -> gate +4 +4 +0 +\d", wires, re.MULTILINE)
    assert re.search(r"^gate +gate +ended +4 +0 +0 ", routines, re.MULTILINE)
    assert Cells(html_of(over)).cells.count("source -> gate") == 1
    assert repr(over) == "PipeStatistics(3 flows, 3 routines, 2 wires, sent=8, lost=0, errors=0)"
    in_the_flow = received(states)[0].value
    assert in_the_flow[0].endswith(f"of process {pipe._owner})")
    assert in_the_flow[1].startswith(in_the_flow[0])
    assert in_the_flow[3] == "Record('looks' in flow 'looks')"


def test_a_pipe_that_failed_and_one_whose_memory_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Sink):
        def setup(self) -> None:
            raise OSError("no disk")

    pipe = Pipe(logger=logging.getLogger("failing"))
    logging.getLogger("failing").propagate = False
    chain(pipe, Items("source", range(3)), Broken("broken"))
    pipe.build()

    def damaged(*_: Any) -> Any:
        raise ValueError("cut short")

    with monkeypatch.context() as patch:
        patch.setattr("pipert_shm.pipe.read_statistics", damaged)
        assert repr(pipe).endswith("2 wires, its state can't be read: ValueError: cut short)".replace("2 wires", "1 wires"))
    pipe.notify_event("start")
    with pytest.raises(Exception, match="no disk"):
        pipe.join()
    assert repr(pipe).endswith("failed)")


def test_a_pipe_that_is_only_half_made() -> None:
    seen: list[str] = []

    class Mine(Pipe):
        def __init__(self) -> None:
            seen.extend((repr(self), str(self), self._repr_html_()))
            super().__init__()

    assert repr(Mine()).startswith("Mine('Pipe': 0 flows")
    assert seen[0] == seen[1] == "Mine(its __init__ is not done)"
    assert seen[2].startswith("<code>Mine(")


def test_names_in_html_are_escaped() -> None:
    pipe = Pipe(logger=logging.getLogger("<b>"))
    pipe.create_flow(ODD, True, Items("<i>", []), Sink(ODD))
    shown = Cells(html_of(pipe))
    assert {"script", "b", "i"}.isdisjoint(shown.tags)
    assert {ODD, "<i>", f"<i> -> {ODD}"} <= set(shown.cells)


def test_a_tap() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Items("source", range(3)), Gated("gate", board, 0, 1))
    pipe.build()
    tap = pipe.tap("source")
    assert repr(tap) == "Tap('source')"
    tap.close()
    assert repr(tap) == "Tap('source', closed)"
    pipe.join(to_kill=True)


def test_a_pipe_that_another_thread_adds_to() -> None:
    pipe, over = Pipe(), threading.Event()

    def add() -> None:
        for number in range(300):
            pipe.create_flow(f"flow{number}", True, *two(number))
        over.set()

    def two(number: int) -> tuple[Routine, Routine]:
        return Items(f"source{number}", []), Sink(f"sink{number}")

    thread = threading.Thread(target=add)
    thread.start()
    while not over.is_set():
        assert "not built" in repr(pipe)
        assert str(pipe)
    thread.join()
    assert "300 flows, 600 routines, 300 wires" in repr(pipe)


@pytest.mark.parametrize("evil", ["\x1b[2J", "\n", "\u202e", "\udc1b", "\x7f"], ids=ascii)
def test_cells_can_not_command_a_terminal(evil: str) -> None:
    table = Table(("wire", "sent"), [(f"gate{evil} -> screen", "3")])
    for text in (str(table).split("\n", 1)[1], table.html()):
        assert evil not in text
        assert f"gate{evil.encode('unicode_escape').decode()} " in text.replace("&gt;", ">")
