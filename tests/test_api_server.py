"""The server beside the flows: what it outlives, where it listens, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from conftest import StartScript
from pipert_shm import APIWrapper, Pipe, PipeFailed, PipeStateError
from serving import HELD, LET_GO, Served, free_port, greeting, make_pipe, serving
from waiting import PATIENCE, Board, eventually


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


def test_a_call_that_waits_for_the_pipe_does_not_hold_up_others(served: Served) -> None:
    served.do("/start")
    served.do("/routines/end/events/hold/execute")
    served.board.wait(HELD)
    with ThreadPoolExecutor() as pool:
        kill = pool.submit(httpx.post, f"http://127.0.0.1:{served.port}/kill", timeout=2 * PATIENCE)
        eventually(lambda: "stopped" in served.states(), "a pipe that is being killed")
        assert served.client.get("/pipe/structure").status_code == 200
        assert not kill.done()
        served.board[LET_GO] = 1
        assert kill.result().json()["outcome"] == "the pipe has ended"
    served.expect_end()


def test_a_flow_that_dies_does_not_take_the_server_along(served: Served) -> None:
    served.do("/start")
    with served.pipe.tap("numbers") as tap:
        flow, _ = tap.read(PATIENCE)
    assert flow != os.getpid()
    os.kill(flow, signal.SIGKILL)
    eventually(lambda: served.do("/statistics")["routines"][0]["state"] == "failed", "a failed routine")
    assert served.do("/pipe/structure") == served.pipe.get_pipe_structure()
    assert "'first' was killed by signal 9" in served.do("/kill")["outcome"]
    served.expect_end()
    assert isinstance(served.failure, PipeFailed)
    assert served.failure.exit_codes == {"first": -9}
    served.failure = None


def test_the_server_ends_when_the_pipe_is_killed_otherwise(served: Served) -> None:
    served.do("/start")
    served.pipe.notify_event("kill")
    served.expect_end()


def test_a_client_in_the_middle_of_a_request_does_not_hold_up_the_end(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(b"POST /routines/events/scale/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        served.do("/kill")
        served.expect_end()
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_port_must_be_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        pipe = make_pipe(Board(2))
        pipe.build()
        with pytest.raises(OSError, match="in use"):
            APIWrapper("127.0.0.1", other.getsockname()[1], pipe).serve()
        pipe.join(to_kill=True)


def test_run_needs_a_built_pipe() -> None:
    with pytest.raises(PipeStateError, match="build"):
        APIWrapper("127.0.0.1", free_port(), make_pipe(Board(2))).serve()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "10.0.0.1", "example.com", ""])
def test_other_addresses_than_loopback_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="give it a token"):
        APIWrapper(host, 8080, Pipe())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "::1"])
def test_loopback_addresses_are_served(host: str) -> None:
    try:
        free_port(host)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with serving(host) as served:
        served.do("/start")
        served.move()


SCRIPT = """
from pipert_shm import APIWrapper, DestinationRoutine, Pipe, SourceRoutine

class Numbers(SourceRoutine):
    def main_logic(self):
        return 1

class End(DestinationRoutine):
    def main_logic(self, data):
        pass

    def cleanup(self):
        print("cleaned up", flush=True)

pipe = Pipe()
pipe.create_flow("flow", True, Numbers("numbers"), End("end"))
pipe.build()
print(pipe._built().segment.pipe_id, flush=True)
print("serving", flush=True)
APIWrapper(host="127.0.0.1", port={port}, pipe=pipe).serve()
print("serve has returned")
"""


HANGING = """
import threading
import time
from pipert_shm import APIWrapper, DestinationRoutine, Pipe, SourceRoutine

class Hangs(SourceRoutine):
    def main_logic(self):
        print("hangs", flush=True)
        threading.Event().wait()

class End(DestinationRoutine):
    def main_logic(self, data): ...

pipe = Pipe(grace_period=0.5)
pipe.create_flow("flow", True, Hangs("hangs"), End("end"))
pipe.build()
pipe.notify_event("start")

def watch():
    while not pipe._built()._line._questions:
        time.sleep(0.01)
    print("a request waits", flush=True)

threading.Thread(target=watch, daemon=True).start()
APIWrapper(host="127.0.0.1", port=PORT, pipe=pipe).serve()
"""


def test_a_request_that_waits_for_a_routine_that_hangs_does_not_hold_up_the_end(start_script: StartScript) -> None:
    port = free_port()
    script = start_script(HANGING.replace("PORT", str(port)))
    script.wait_for_line("hangs")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client, ThreadPoolExecutor() as pool:

        def answers() -> bool:
            with suppress(httpx.ConnectError):
                return client.get("/health").status_code == 200
            return False

        eventually(answers, "a server that answers")
        waits = [pool.submit(httpx.get, f"http://127.0.0.1:{port}/routines/hangs/preview.jpg") for _ in range(8)]
        script.wait_for_line("a request waits")
        assert client.get("/statistics").status_code == 200
        script.interrupt()
        end = script.finish()
        assert (end.returncode, end.stderr) == (
            0,
            greeting(port) + "flow 'flow' did not end within 0.5 s and is killed\n",
        )
        assert all(isinstance(wait.exception() or wait.result(), (httpx.Response, httpx.TransportError)) for wait in waits)


@pytest.mark.parametrize("way", ["kill", "interrupt"])
def test_run_blocks_until_kill_or_ctrl_c(start_script: StartScript, way: str) -> None:
    port = free_port()
    script = start_script(SCRIPT.format(port=port))
    assert script.process.stdout is not None
    pipe_id = script.process.stdout.readline().strip()
    script.wait_for_line("serving")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:

        def started() -> bool:
            try:
                return client.post("/start").status_code == 200
            except httpx.ConnectError:
                return False

        eventually(started, "a server that answers")
        eventually(lambda: client.get("/statistics").json()["routines"][1]["received"] > 0, "messages")
        assert script.process.poll() is None
        if way == "kill":
            assert client.post("/kill").status_code == 200
        else:
            script.interrupt()
        end = script.finish()
    assert (end.returncode, end.stderr) == (0, greeting(port))
    assert end.lines == ["cleaned up", "serve has returned"]
    assert list(Path("/dev/shm").glob(f"pipert-{pipe_id}-*")) == []
