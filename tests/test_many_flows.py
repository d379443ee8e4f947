"""Many flows are added at once: the launcher may be at work for long, and what it writes is that of the whole change."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest

from growing import camera_pipe
from pipert_shm import Wire, binding
from pipert_shm.applying.work import place_of
from pipert_shm.control.attachment import Attachment
from pipert_shm.control.channel import Channel
from pipert_shm.control.messages import Extend, Forked, ForkFlow, Message, Reap, Reaped, RemoveFlows
from pipert_shm.events import Audience
from pipert_shm.launcher.fork_server import IS_DEAD, MOST_ORDERS, PATIENCE, ForkServer
from pipert_shm.launcher.watch import Watch
from pipert_shm.parent.line import FOR_EACH_FLOW, LONG_PATIENCE
from pipert_shm.pipeline_file.loading import PipelineFile
from routines import Forward, Sink


def test_a_fork_server_that_has_answered_is_not_killed_by_a_launcher_that_was_at_work() -> None:
    ours, theirs = Channel.pair()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        server = ForkServer(ours.detach(), process.pid, {}, Watch(), logging.getLogger("test"), lambda: None)
        exit_codes: list[int] = []
        server.reap(1234, exit_codes.append)
        server.reap(1235, exit_codes.append)
        received = theirs.receive()
        assert received is not None
        assert isinstance(received.message, Reap)
        theirs.send(Reaped(7), received.question)
        late = time.monotonic() + PATIENCE + 1
        server.check(late)  # it has not looked for so long
        assert exit_codes == [7]
        assert process.poll() is None
        server.check(late + PATIENCE + 1)  # the second question it does not answer
        assert process.wait() == -signal.SIGKILL
        server.close()
        theirs.close()


def test_a_fork_server_gets_a_few_orders_at_a_time_and_all_are_answered_when_it_dies() -> None:
    ours, theirs = Channel.pair()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        server = ForkServer(ours.detach(), process.pid, {}, Watch(), logging.getLogger("test"), lambda: None)
        came: list[tuple[int, str]] = []
        order = ForkFlow("flow", [], [], {}, {}, {}, {}, {}, {}, {}, Attachment({}, {}, {}, []), Audience({}, {}, {}))
        for _ in range(MOST_ORDERS + 2):
            server.fork(order, [], lambda pid, why: came.append((pid, why)))
        theirs.set_blocking(False)
        questions: list[int] = []
        with suppress(BlockingIOError):
            while (received := theirs.receive()) is not None:
                questions.append(received.question)
        assert len(questions) == MOST_ORDERS
        theirs.send(Forked(7, ""), questions[0])
        server._peer.hear()
        assert came == [(7, "")]
        received = theirs.receive()
        assert received is not None
        assert received.question == MOST_ORDERS + 1
        server._lose()
        assert came[1:] == [(0, IS_DEAD)] * (MOST_ORDERS + 1)
        process.kill()
        theirs.close()


def test_a_receiver_may_keep_what_its_new_flow_holds_whichever_wire_comes_first() -> None:
    with camera_pipe() as (pipe, camera):
        first, second = Forward("first"), Sink("second")
        pipe.create_flow("new", False, first, second)
        pipe.link(Wire(camera, first), Wire(first, second))
        pipe.build()
        session = pipe._built()
        records = [binding.EdgeRecord(session.segment.process, edge.number) for edge in session.plan.edges]
        caps = {session.plan.name_of(each.ends().receiver): each._record.borrow_cap for each in records}
        assert caps["first"] > caps["preview"]


def test_each_flow_gives_a_change_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    with camera_pipe() as (pipe, camera):
        line = pipe._built()._line
        ask = line.ask

        def note(message: Message, *arguments: Any, patience: float, **options: Any) -> Any:
            if isinstance(message, Extend | RemoveFlows):
                asked.append(patience)
            return ask(message, *arguments, patience=patience, **options)

        monkeypatch.setattr(line, "ask", note)
        for name in ("one", "two"):
            pipe.create_flow(name, False, Sink(name))
            pipe.link(Wire(camera, pipe.flows[name].routines[name]))
        pipe.build()
        pipe.remove_flow("one", "two")
        assert asked == [LONG_PATIENCE + 2 * FOR_EACH_FLOW, LONG_PATIENCE + 2 * FOR_EACH_FLOW + 2]  # and the grace period


def test_a_wire_of_a_flow_is_found_in_its_section() -> None:
    text = "routines: {a: {class: pipert_shm.VideoSource, parameters: {source: x}}, b: {class: pipert_shm.JsonLinesWriter, "
    text += "parameters: {path: y}}}\nflows: {one: {routines: [a, b], auto_wire: true}}\n"
    file = PipelineFile("x.yaml", text)
    assert place_of(file, ("a", "b")) == ("flows", "one")
    assert place_of(file, ("gone", "b")) == ("wires",)
