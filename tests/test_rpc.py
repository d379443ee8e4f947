"""The zerorpc control: a real server around a real pipe, and real clients, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import RunCli, RunScript, Script, StartScript
from pipert_shm import Pipe
from pipert_shm.bridges.rpc import THREADS, RPCPipeWrapper, check_endpoint
from pipert_shm.extras import to_install
from waiting import PATIENCE, eventually

SERVER = """
import os
import sys
from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, events
from pipert_shm.bridges.rpc import RPCPipeWrapper

class Numbers(SourceRoutine):
    factor = 1

    @events("scale")
    def scale(self, factor):
        self.factor = factor

    @events("die")
    def die(self):
        os._exit(3)

    def main_logic(self):
        return self.factor

class End(DestinationRoutine):
    last = None

    def main_logic(self, data):
        if data != self.last:
            self.last = data
            print("value", data, "gevent" in sys.modules)

    def cleanup(self):
        print("cleaned up")

numbers = Numbers("numbers")
numbers.set_const_fps(200)
pipe = Pipe()
pipe.create_flow("first", True, numbers, End("end"), restart="never")
pipe.build()
print(pipe._built().segment.pipe_id, flush=True)
RPCPipeWrapper(pipe).run_rpc_server(endpoint="{endpoint}", key={key!r})
print("run has returned")
"""

CLIENT = """
import json, sys, zerorpc
from pipert_shm.bridges.rpc import use_key
from pipert_shm.extras import to_install
client = zerorpc.Client(timeout={timeout})
if {key!r}:
    use_key(client, {key!r})
if {server!r}:
    import zmq
    client._events._socket.curve_serverkey = zmq.curve_public({server!r}.encode())
client.connect("{endpoint}")
for line in sys.stdin:
    call = json.loads(line)
    try:
        if call[0] == "later":
            later = client(*call[1:], **{{"async": True}})
            continue
        answer = {{"value": later.get() if call[0] == "now" else client(*call)}}
    except zerorpc.RemoteError as error:
        answer = {{"error": error.name, "message": error.msg}}
    print(json.dumps(answer), flush=True)
client.close()
"""


class Client:
    """A zerorpc client in a process of its own. The calls `later`, …, and `now`: a call under way, and its answer."""

    def __init__(self, endpoint: str, key: str | None = None, server: str | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT.format(endpoint=endpoint, timeout=PATIENCE, key=key, server=server)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def ask(self, *call: Any) -> None:
        self.requests.write(json.dumps(call) + "\n")
        self.requests.flush()

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer

    def __call__(self, *call: Any) -> Any:
        """The value that a call returns; it must not fail."""
        self.ask(*call)
        return self.answer()["value"]

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.requests.close()
        assert self.process.wait(PATIENCE) in (0, -signal.SIGKILL)
        self.answers.close()


class Server:
    """A pipe and its RPC server in a process of their own."""

    def __init__(self, start_script: StartScript, key: str | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.script: Script = start_script(SERVER.format(endpoint=self.endpoint, key=key))
        assert self.script.process.stdout is not None
        self.pipe_id = self.script.process.stdout.readline().strip()
        eventually(lambda: _listens(port), "a server that listens")

    def expect_end(self) -> None:
        """Sees that the pipe, which was started, and the server end by themselves."""
        end = self.script.finish()
        assert (end.returncode, end.stderr) == (0, "")
        assert end.lines[-2:] == ["cleaned up", "run has returned"]
        assert list(Path("/dev/shm").glob(f"pipert-{self.pipe_id}-*")) == []


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(start_script: StartScript) -> Server:
    return Server(start_script)


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[], Client]]:
    """Makes clients of the server."""
    with ExitStack() as clients:

        def new_client() -> Client:
            client = Client(server.endpoint)
            clients.callback(client.close)
            return client

        yield new_client


def expect_messages(client: Client) -> None:
    """Sees messages come through the pipe."""

    def received() -> int:
        number: int = client("statistics")["routines"][1]["received"]
        return number

    before = received()
    eventually(lambda: received() > before, "messages")


def test_the_calls_of_the_seed(server: Server, connect: Callable[[], Client]) -> None:
    client = connect()
    assert client("structure") == {
        "Routines": [
            {"flow_name": "first", "routine_name": "numbers", "events": ["die", "scale", "start", "stop", "unlink"]},
            {"flow_name": "first", "routine_name": "end", "events": ["start", "stop", "unlink"]},
        ],
        "Events": ["start", "stop", "kill"],
    }
    assert client("execute", "start") is None
    server.script.wait_for_line("value 1 False")
    assert client("execute", "scale", '{"factor": 2}') is None
    server.script.wait_for_line("value 2 False")
    assert client("execute", "scale", {"factor": 3, "specific_flow_routines": {"first": ["numbers"]}}) is None
    server.script.wait_for_line("value 3 False")
    assert client("execute", "join", '{"to_kill": true}') is None
    server.expect_end()


def test_start_pause_and_kill(server: Server, connect: Callable[[], Client]) -> None:
    client = connect()

    def states() -> set[str]:
        return {routine["state"] for routine in client("statistics")["routines"]}

    for _ in range(2):
        assert client("start") is None
        expect_messages(client)
        assert client("pause") is None
        eventually(lambda: states() == {"stopped"}, "a stopped pipe")
    assert client("kill") is None
    server.expect_end()


def test_statistics_are_plain(server: Server, connect: Callable[[], Client]) -> None:
    client = connect()
    (wire,) = client("statistics")["wires"]
    assert (wire["sender"], wire["receiver"], wire["policy"], wire["capacity"]) == ("numbers", "end", "drop_oldest", 2)
    assert wire["hop"] == {"count": 0, "p50_us": None, "p99_us": None}
    client("start")
    expect_messages(client)
    statistics = client("statistics")
    assert statistics["wires"][0]["hop"]["p50_us"] > 0
    assert statistics["wires"][0]["dropped"]["oldest"] == 0
    assert statistics["routines"][0]["flow"] == "first"
    client("kill")
    server.expect_end()


def test_an_error_reaches_the_client(server: Server, connect: Callable[[], Client]) -> None:
    client = connect()
    client("start")
    cases: list[tuple[tuple[Any, ...], str, str]] = [
        (("execute", "nothing"), "UnknownEvent", "they handle: die, kill, link, log_data, scale"),
        (("execute", "scale"), "UnknownEvent", "factor"),
        (("execute", "scale", '{"factor": '), "JSONDecodeError", "Expecting value"),
        (("execute", "scale", "[2]"), "ValueError", "must be a dict or the JSON of one"),
        (("execute", "scale", {"factor": 2, "specific_routine": "nobody"}), "UnknownTarget", "there are: numbers, end"),
        (("run_rpc_server", "tcp://127.0.0.1:1"), "NameError", "run_rpc_server"),
    ]
    for call, error, message in cases:
        client.ask(*call)
        answer = client.answer()
        assert (answer.get("error"), message in answer["message"]) == (error, True), (call, answer)
    client("kill")
    server.expect_end()


@pytest.mark.parametrize("way", ["kill", "interrupt"])
def test_a_client_that_waits_for_the_end_holds_up_nobody(server: Server, connect: Callable[[], Client], way: str) -> None:
    waiting, other = connect(), connect()
    other("start")
    for _ in range(3):
        waiting.ask("later", "execute", "join")
        expect_messages(waiting)
        expect_messages(other)
    if way == "kill":
        other("kill")
    else:
        server.script.interrupt()
    assert waiting("now") is None
    server.expect_end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_server_and_pipe(server: Server, connect: Callable[[], Client], number: signal.Signals) -> None:
    client = connect()
    client("start")
    server.script.wait_for_line("value 1 False")
    server.script.process.send_signal(number)
    server.expect_end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_any_number_of_joins_keeps_nobody_out(server: Server, connect: Callable[[], Client], number: signal.Signals) -> None:
    """Of clients that are gone, too; before the pipe is started, and after."""
    waiting, gone, other = connect(), connect(), connect()
    for _ in range(THREADS + 20):
        waiting.ask("later", "execute", "join")
        gone.ask("later", "execute", "join")
    assert waiting("structure") == gone("structure") == other("structure")  # all of these are on their way
    gone.process.kill()
    gone.process.wait()
    other("start")
    expect_messages(other)
    threads = len(list(Path(f"/proc/{server.script.process.pid}/task").iterdir()))
    assert threads < THREADS
    server.script.process.send_signal(number)
    assert waiting("now") is None
    server.expect_end()


def test_a_join_hears_that_the_pipe_failed(server: Server, connect: Callable[[], Client]) -> None:
    waiting, other = connect(), connect()
    waiting.ask("later", "execute", "join")
    other("start")
    expect_messages(other)
    other("execute", "die")
    waiting.ask("now")
    answer = waiting.answer()
    assert (answer["error"], answer["message"]) == ("PipeFailed", "flow 'first' exited with status 3")
    end = server.script.finish()
    assert end.returncode == 1
    assert "PipeFailed: flow 'first' exited with status 3" in end.stderr


def test_calls_of_clients_that_are_gone_keep_nobody_from_looking(server: Server, connect: Callable[[], Client]) -> None:
    """While the pipe takes no events: its launcher is stopped, and what it is sent has filled its channel."""
    gone, other = connect(), connect()
    launcher = int(Path(f"/proc/{server.script.process.pid}/task/{server.script.process.pid}/children").read_text().split()[0])
    os.kill(launcher, signal.SIGSTOP)
    try:
        for _ in range(THREADS + 10):
            gone.ask("later", "execute", "scale", {"factor": "x" * 100_000})
        gone.ask("structure")
        gone.answer()  # all of these are on their way
        gone.process.kill()
        gone.process.wait()
        assert other("structure")["Routines"]
        assert other("statistics")["wires"]
    finally:
        os.kill(launcher, signal.SIGCONT)
    other("kill")
    end = server.script.finish()
    assert (end.returncode, end.stderr) == (0, "")


# ---- who may call --------------------------------------------------------------------------------

KEY = r"S6{VhWZPbwhR<3Rj[p[*OOe23X{8hCl8Li:@=--$"
OTHER_KEY = r"i4ZX[rsnXW)GL.^+:^dCLxa<k}u)!K6Ka6QS!VJ$"


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:4242", "tcp://*:4242", "tcp://[::]:4242", "tcp://10.0.0.5:4242", "tcp://eth0:1"]
)
def test_without_a_key_only_this_machine_may_call(endpoint: str) -> None:
    with pytest.raises(ValueError, match="anyone could end the pipe: give it a key="):
        RPCPipeWrapper(Pipe()).run_rpc_server(endpoint)
    check_endpoint(endpoint, KEY)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:4242", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///tmp/x", "inproc://x"]
)
def test_an_endpoint_of_this_machine_takes_no_key(endpoint: str) -> None:
    check_endpoint(endpoint, None)


@pytest.mark.parametrize("key", ["", "short", KEY + "x", "é" * 40, " " * 40])
def test_a_key_that_is_none(key: str) -> None:
    with pytest.raises(ValueError, match="curve_keypair"):
        check_endpoint("tcp://127.0.0.1:1", key)


def test_only_who_has_the_key_may_call(start_script: StartScript, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even who knows the half of it that is no secret."""
    server = Server(start_script, KEY)
    strangers = [Client(server.endpoint), Client(server.endpoint, OTHER_KEY), Client(server.endpoint, OTHER_KEY, server=KEY)]
    for stranger in strangers:
        stranger.ask("kill")
    owner = Client(server.endpoint, KEY)
    owner("start")
    expect_messages(owner)
    monkeypatch.setenv("PIPERT_KEY", KEY)
    assert json.loads(run_cli("rpc", server.endpoint, "structure").stdout)["Routines"]
    for stranger in strangers:
        assert stranger.process.poll() is None, "it still waits for an answer"
        stranger.process.kill()
        stranger.close()
    owner("kill")
    owner.close()
    server.expect_end()


LATER = """
import threading, time

def build():
    while not pipe._early:
        time.sleep(0.01)
    pipe.build()
    print("built", flush=True)

threading.Thread(target=build).start()
"""
BUILD = "pipe.build()\nprint(pipe._built().segment.pipe_id, flush=True)\n"


def test_a_pipe_that_is_built_later(start_script: StartScript) -> None:
    """What clients notify before is kept for it; the rest has to wait."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    script = start_script(SERVER.replace(BUILD, LATER).format(endpoint=endpoint, key=None))
    client = Client(endpoint)
    try:
        client.ask("statistics")
        answer = client.answer()
        assert (answer["error"], "not built yet" in answer["message"]) == ("PipeStateError", True)
        client("start")
        script.wait_for_line("built")
        client("kill")
    finally:
        client.close()
    end = script.finish()
    assert (end.returncode, end.lines[-2:], end.stderr) == (0, ["cleaned up", "run has returned"], "")


def test_kill_before_build_ends_the_server(start_script: StartScript) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    script = start_script(SERVER.replace(BUILD, "").format(endpoint=endpoint, key=None))
    client = Client(endpoint)
    try:
        client("execute", "kill")
    finally:
        client.close()
    end = script.finish()
    assert (end.returncode, end.lines, end.stderr) == (0, ["run has returned"], "")


def test_without_zerorpc_the_message_says_what_to_install(run_script: RunScript) -> None:
    text = SERVER.format(endpoint="tcp://127.0.0.1:4242", key=None).replace(
        "import sys", "import sys; sys.modules['zerorpc'] = None"
    )
    end = run_script(text)
    assert end.returncode == 1
    assert to_install("rpc") in end.stderr
