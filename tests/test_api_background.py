"""A server that runs beside the program: what comes of it when the pipe, the program or the server itself ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from conftest import Script, StartScript
from joining import TELLS_OF_JOIN
from pipert_shm import APIWrapper, Pipe, PipeFailed
from serving import free_port, make_pipe
from waiting import PATIENCE, Board, eventually

SCRIPT = """
import sys
from pipert_shm import APIWrapper, DestinationRoutine, Pipe, SourceRoutine

class Numbers(SourceRoutine):
    def main_logic(self):
        return 1

class End(DestinationRoutine):
    def main_logic(self, data): ...

    def cleanup(self):
        print("cleaned up", flush=True)

pipe = Pipe()
pipe.create_flow("flow", True, Numbers("numbers"), End("end"))
pipe.build()
server = APIWrapper("127.0.0.1", PORT, pipe).run()
print("run has returned", flush=True)
"""
ENDS = {
    "the last line": "",
    "join": "pipe.join()\nprint('joined')",
    "wait": "server.wait()\nprint('waited')",
    "with": "with pipe: pass\nprint('left')",
}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", timeout=PATIENCE) as one:
        yield one


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = make_pipe(Board(2))
    yield one
    if one._session is not None and not one._joined:
        one.join(to_kill=True)


def port_of(client: httpx.Client) -> int:
    assert client.base_url.port is not None
    return client.base_url.port


def started(start_script: StartScript, client: httpx.Client, last: str) -> Script:
    """A program that serves a pipe, which a client has started after the program's last line but for its wait."""
    script = start_script(SCRIPT.replace("PORT", str(port_of(client))) + last)
    script.wait_for_line("run has returned")
    assert client.post("/start").json()["outcome"] == "on its way"
    return script


@pytest.mark.parametrize("last", ENDS.values(), ids=ENDS)
def test_a_program_goes_on_and_waits_for_the_pipe_that_a_client_starts_and_kills(
    start_script: StartScript, client: httpx.Client, last: str
) -> None:
    script = started(start_script, client, last)
    eventually(lambda: client.get("/statistics").json()["routines"][1]["received"] > 0, "messages")
    assert client.post("/kill").json()["outcome"] == "the pipe has ended"  # the answer comes, although the program ends
    end = script.finish()
    assert end.returncode == 0
    assert "Traceback" not in end.stderr
    assert len(end.lines) == (2 if last else 1)


@pytest.mark.parametrize("last", [ENDS["wait"], ENDS["the last line"]], ids=["wait", "the last line"])
def test_ctrl_c_ends_pipe_server_and_program(start_script: StartScript, client: httpx.Client, last: str) -> None:
    script = started(start_script, client, TELLS_OF_JOIN + last)
    script.wait_for_line("joins")
    eventually(lambda: client.get("/statistics").json()["routines"][1]["received"] > 0, "messages")
    script.interrupt()
    end = script.finish()
    assert end.returncode == 0
    assert "Traceback" not in end.stderr


OWN_ROUTE = """
import asyncio, sys, threading

@wrapper._app.get("/main")
async def main() -> list[str]:
    def look():
        frame, names = sys._current_frames().get(threading.main_thread().ident), []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        return names
    return await asyncio.to_thread(look)
"""


def test_a_server_works_as_ever_when_the_program_is_done(start_script: StartScript, client: httpx.Client) -> None:
    """Threads of asyncio's too, which end with the program's last line but for pipes that are served."""
    script = SCRIPT.replace("PORT", str(port_of(client))).replace("server = APIWrapper", "wrapper = APIWrapper")
    running = start_script(script.replace(".run()\n", f"\n{OWN_ROUTE}\nserver = wrapper.run()\n"))
    running.wait_for_line("run has returned")
    eventually(lambda: "_end_served_pipes" in client.get("/main").raise_for_status().json(), "a program that is done")
    client.post("/kill").raise_for_status()
    end = running.finish()
    assert (end.returncode, end.lines) == (0, [])


def test_an_exception_ends_them_too(start_script: StartScript, client: httpx.Client) -> None:
    script = started(
        start_script,
        client,
        "import threading\nwhile not pipe.statistics().routines['end'].received:\n    threading.Event().wait(0.01)\n1 / 0",
    )
    end = script.finish()
    assert (end.returncode, end.lines) == (1, ["cleaned up"])
    assert "an exception has ended the program: its pipe is killed" in end.stderr


def test_a_pipe_that_is_built_later(pipe: Pipe, client: httpx.Client) -> None:
    server = APIWrapper("127.0.0.1", port_of(client), pipe).run()
    assert (server.host, server.port) == ("127.0.0.1", port_of(client))
    refusal = client.post("/start")
    assert (refusal.status_code, "not built yet" in refusal.text) == (409, True)
    pipe.build()
    client.post("/start").raise_for_status()
    eventually(lambda: pipe.statistics().routines["end"].received > 0, "messages")
    assert not server.wait(0)
    client.post("/kill").raise_for_status()
    assert server.wait(PATIENCE)
    pipe.join()
    with pytest.raises(httpx.ConnectError):
        client.get("/health")


def test_a_server_that_is_closed_leaves_the_pipe_and_frees_the_port(pipe: Pipe, client: httpx.Client) -> None:
    pipe.build()
    for _ in range(2):
        with APIWrapper("127.0.0.1", port_of(client), pipe).run() as server:
            client.post("/start").raise_for_status()
        assert server.wait(0)
    eventually(lambda: pipe.statistics().routines["end"].received > 0, "messages")


def test_join_raises_what_a_pipe_that_is_served_has_failed_of(pipe: Pipe, client: httpx.Client) -> None:
    pipe.build()
    server = APIWrapper("127.0.0.1", port_of(client), pipe).run()
    os.kill(pipe.statistics().flows["first"].pid, signal.SIGKILL)
    eventually(lambda: pipe.statistics().flows["first"].state == "failed", "a flow that has failed")
    assert "'first' was killed by signal 9" in client.post("/kill").json()["outcome"]
    assert server.wait(PATIENCE)
    with pytest.raises(PipeFailed, match="killed by signal 9"):
        pipe.join()


def test_the_port_must_be_free(pipe: Pipe, client: httpx.Client) -> None:
    with APIWrapper("127.0.0.1", port_of(client), pipe).run(), pytest.raises(OSError, match="in use"):
        APIWrapper("127.0.0.1", port_of(client), pipe).run()
