"""What happens in a pipe, as server-sent events that a client reads."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from killing import running
from pipert_shm import DestinationRoutine, Pipe, events
from pipert_shm.api import journal as journals
from routines import Items, chain
from serving import Served, serving
from waiting import PATIENCE, Board, eventually

Told = tuple[str, dict[str, Any]]


class Talks(DestinationRoutine):
    """Logs what it is told to."""

    @events("say")
    def say(self, text: str) -> None:
        self.logger.warning("%s", text)

    def main_logic(self, data: Any) -> None: ...


def talking(_: Board) -> Pipe:
    pipe = Pipe(grace_period=1)
    chain(pipe, Items("numbers", range(3)), Talks("talks"))
    return pipe


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make=talking) as one:
        yield one


class Listener:
    """Reads `/events` in a thread."""

    def __init__(self, served: Served, headers: dict[str, str] | None = None) -> None:
        self.told: list[Told] = []
        self.numbers: list[int] = []
        self.ended = False
        self._address = f"http://127.0.0.1:{served.port}/events"
        self._headers = headers
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self) -> None:
        with httpx.stream("GET", self._address, headers=self._headers, timeout=PATIENCE) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            kind = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.numbers.append(int(value))
                elif name == "event":
                    kind = value
                elif name == "data":
                    self.told.append((kind, json.loads(value)))
        self.ended = True

    def wait_for(self, kind: str, **details: Any) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def is_told() -> bool:
            found[:] = [data for said, data in self.told if said == kind and details.items() <= data.items()]
            return bool(found)

        try:
            eventually(is_told, f"{kind} {details}")
        except AssertionError as error:
            raise AssertionError(f"{error}; told was: {self.told}") from None
        return found[0]


@contextmanager
def listening(served: Served, **headers: str) -> Iterator[Listener]:
    listener = Listener(served, headers)
    try:
        yield listener
    finally:
        served.session.kill()
        listener.thread.join()


def test_states_deaths_restarts_and_the_end_are_told(served: Served) -> None:
    with listening(served) as listener:
        served.do("/start")
        listener.wait_for("state", routine="numbers", flow="numbers", now="ended")
        os.kill(served.pipe.statistics().flows["talks"].pid, signal.SIGKILL)
        crash = listener.wait_for("crash", flow="talks", last_exit=-9, restarts=1)
        assert crash["state"] in ("restarting", "running")
        restart = listener.wait_for("restart", flow="talks", restarts=1)
        assert restart["pid"] == served.pipe.statistics().flows["talks"].pid
        served.do("/kill")
        listener.wait_for("end")
        eventually(lambda: listener.ended, "the end of the stream")
    assert listener.numbers == list(range(1, len(listener.numbers) + 1))
    assert all(data["time"] > 1e9 for _, data in listener.told)


def test_a_flow_that_fails_for_good_is_a_crash(served: Served) -> None:
    with listening(served) as listener:
        for _ in range(6):  # one more than the restarts it has
            eventually(lambda: served.pipe.statistics().flows["numbers"].pid != 0, "a process")
            before = served.pipe.statistics().flows["numbers"]
            os.kill(before.pid, signal.SIGKILL)
            eventually(lambda now=before: served.pipe.statistics().flows["numbers"] != now, "a death")  # type: ignore[misc]
        listener.wait_for("crash", flow="numbers", state="failed", restarts=5)
        listener.wait_for("state", routine="numbers", now="failed")
    served.thread.join()
    served.failure = None


def test_log_records_are_told_with_who_logged_them(served: Served) -> None:
    with listening(served) as listener:
        served.do("/routines/talks/events/say/execute", json={"extra_args": {"text": "ünïcode\nand a line"}})
        told = listener.wait_for("log", message="ünïcode\nand a line")
        assert (told["level"], told["logger"], told["flow"], told["routine"]) == (
            "WARNING",
            "Pipe.talks.talks",
            "talks",
            "talks",
        )
        served.pipe.logger.info("below the level")
        thread = threading.Thread(target=log_an_exception, args=(served.pipe.logger,))
        thread.start()
        thread.join()
        told = listener.wait_for("log", message="in the parent", routine=None)
        assert "ValueError: a mishap" in told["exception"]
    assert [data for kind, data in listener.told if data.get("message") == "below the level"] == []


def log_an_exception(logger: logging.Logger) -> None:
    """Not below a frame where a pipe is at hand: pytest keeps the record, and with it the frames."""
    try:
        raise ValueError("a mishap")
    except ValueError:
        logger.exception("in the parent")


def say(served: Served, texts: list[str]) -> None:
    for text in texts:
        served.pipe.logger.warning(text)


def said(listener: Listener) -> list[str]:
    return [data["message"] for kind, data in listener.told if kind == "log"]


def test_a_client_that_comes_again_gets_what_it_missed(served: Served) -> None:
    say(served, ["one", "two"])
    with listening(served) as first:
        first.wait_for("log", message="two")
        last = first.numbers[-1]
        say(served, ["three"])
        with listening(served, **{"Last-Event-ID": str(last)}) as second:
            second.wait_for("log", message="three")
            assert second.numbers[0] == last + 1
    assert said(first)[:3] == ["one", "two", "three"]


@pytest.mark.parametrize("number", ["-1", "nonsense", "9" * 30, str(10**12)])
def test_a_number_that_is_none_of_ours_does_no_harm(served: Served, number: str) -> None:
    with listening(served, **{"Last-Event-ID": number}) as listener:
        say(served, ["hello"])
        listener.wait_for("log", message="hello")


def test_what_is_forgotten_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "REMEMBERED", 10)
    with serving(make=talking) as served:
        say(served, [str(number) for number in range(50)])
        with listening(served, **{"Last-Event-ID": "1"}) as listener:
            listener.wait_for("log", message="49")
            lost = listener.wait_for("lost")["count"]
    newest = next(place for place, (_, data) in enumerate(listener.told) if data.get("message") == "49")
    assert lost == listener.numbers[newest] - 1 - newest
    assert "state" in [kind for kind, _ in listener.told], "a flood of records takes nothing else away"
    assert said(listener)[:10] == [str(number) for number in range(40, 50)]


def test_a_client_does_not_hold_up_the_end_and_leaves_no_handler(served: Served) -> None:
    def has_handler() -> bool:
        return any(isinstance(handler, journals.Journal) for handler in served.pipe.logger.handlers)

    say(served, ["hello"])
    with listening(served) as listener:
        listener.wait_for("log", message="hello")
        assert has_handler()
        served.do("/kill")
        served.expect_end()
        eventually(lambda: listener.ended, "the end of the stream")
    assert not has_handler()


def test_ctrl_c_with_a_client_that_listens(start_script: Callable[..., Any]) -> None:
    script = start_script(
        """
        import socket
        import threading
        import httpx
        from pipert_shm import APIWrapper, DestinationRoutine, Pipe, SourceRoutine

        class Numbers(SourceRoutine):
            def main_logic(self):
                return 1

        class End(DestinationRoutine):
            def main_logic(self, data): ...

        pipe = Pipe()
        pipe.create_flow("flow", True, Numbers("numbers"), End("end"))
        pipe.build()

        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        transport = httpx.HTTPTransport(retries=10)

        def connect():
            with httpx.Client(transport=transport, timeout=30) as client:
                with client.stream("GET", f"http://127.0.0.1:{port}/events") as response:
                    for line in response.iter_lines():
                        if line.startswith("retry"):
                            print("connected", flush=True)
            print("the stream has ended", flush=True)
        thread = threading.Thread(target=connect)
        thread.start()
        APIWrapper("127.0.0.1", port, pipe).serve()
        thread.join()
        print("serve has returned", flush=True)
        """
    )
    script.wait_for_line("connected")
    script.interrupt()
    end = script.finish()
    assert (end.returncode, end.stderr.count("\n")) == (0, 1), "the control's address only"
    assert sorted(end.lines) == ["serve has returned", "the stream has ended"]


def test_the_journal_begins_with_what_happened_before() -> None:
    pipe = talking(Board(1))
    with running(pipe):
        eventually(lambda: pipe.statistics().routines["numbers"].state == "ended", "an end")
        died = pipe.statistics().flows["talks"].pid
        os.kill(died, signal.SIGKILL)
        eventually(lambda: pipe.statistics().flows["talks"].pid not in (0, died), "a restart")
        journal = journals.Journal(pipe)
        journal.start()
        eventually(lambda: journal.count >= 4, "what is known")
        told = {(entry.kind, entry.details.get("flow"), entry.details.get("now")) for entry in journal.after(0)}
        pid = next(entry.details["pid"] for entry in journal.after(0) if entry.kind == "restart")
        assert pid == pipe.statistics().flows["talks"].pid
    assert told >= {("crash", "talks", None), ("restart", "talks", None), ("state", "numbers", "ended")}
    eventually(lambda: journal.over, "the end")


def test_the_journal_starts_with_a_pipe_that_is_built_later() -> None:
    pipe = talking(Board(1))
    journal = journals.Journal(pipe)
    journal.start()
    assert (journal.after(0), journal.over) == ([], False)
    pipe.build()
    journal.start()
    journal.start()
    eventually(lambda: journal in pipe.logger.handlers, "a handler")
    assert pipe.logger.handlers.count(journal) == 1
    pipe.notify_event("start")
    pipe.join()
    eventually(lambda: journal.over, "the end")
    assert [entry.kind for entry in journal.after(0)][-1] == "end"
    assert journal not in pipe.logger.handlers
