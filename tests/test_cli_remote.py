"""`pipert-shm ctl` and `pipert-shm rpc`, against real servers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from conftest import PACKAGE_ROOT, Finished, RunCli, StartCli, StartScript
from pipert_shm.cli.commands import main
from test_cli_run import TICKER, read_until
from test_rpc import Server
from waiting import eventually

SCALED = """
from pipert_shm import Pipe, events
from ticker_code import Screen, Ticker

class Loud(Screen):
    @events("say")
    def say(self, what, times=1):
        print("says", repr(what), times, flush=True)

def make_pipe():
    pipe = Pipe()
    pipe.create_flow("both", True, Ticker(), Loud())
    return pipe
"""


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`pipert-shm ctl` with these arguments, in this process: a new one each time would take half a second."""

    def ctl(*arguments: str) -> Finished:
        status = main(["ctl", *arguments])
        return Finished(status, *capsys.readouterr())

    return ctl


def test_ctl_against_a_run_with_its_control(start_cli: StartCli, ctl: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "ticker_code.py").write_text(TICKER)
    (tmp_path / "scaled.py").write_text(SCALED)
    process = start_cli("run", "scaled.py", "--api", "127.0.0.1:0")
    said = re.search(r"port (\d+)", read_until(process.stderr, "the control listens on 127.0.0.1, port "))
    assert said
    url = f"http://127.0.0.1:{said[1]}"

    def states() -> set[str]:
        return {routine["state"] for routine in json.loads(ctl(url, "stats").stdout)["routines"]}

    read_until(process.stdout, "tick 100")
    assert ctl(url, "pause").lines == ["stop: on its way"]
    eventually(lambda: states() == {"stopped"}, "a stopped pipe")
    (wire,) = json.loads(ctl(url, "stats").stdout)["wires"]
    assert (wire["sender"], wire["receiver"]) == ("ticker", "screen")
    assert ctl(url, "start").lines == ["start: on its way"]
    eventually(lambda: states() == {"running"}, "a running pipe")
    for parameters, heard in (
        (["what=loud"], "says 'loud' 1"),
        (["what=2", "times=3"], "says 2 3"),
        (['what={"a": [null, "b=c"]}'], "says {'a': [None, 'b=c']} 1"),
        (["what=a=b", "--routine", "screen"], "says 'a=b' 1"),
    ):
        assert ctl(url, "event", "say", *parameters).lines == ["say: on its way"]
        read_until(process.stdout, heard)
    refused = ctl(url.removeprefix("http://"), "event", "shout")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"pipert-shm: {url} refuses: no routine that was addressed handles the event 'shout'")
    refused = ctl(url, "event", "say", "--routine", "no body")
    assert "there is no routine 'no body'; there are: ticker, screen" in refused.stderr
    assert ctl(url, "kill").lines == ["kill: the pipe has ended"]
    process.communicate(timeout=20)
    assert process.returncode == 0
    gone = ctl(url, "start")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith(f"pipert-shm: nothing answers at {url}: ")


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str | None]]]:
    """A web server that answers so to everything: its URL, and the Authorization of each request."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Not on stderr."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", "is not the control of a pipe: "),
        (404, b"<html>", "refuses: 404 Not Found"),
        (401, b'{"detail": "a token is needed"}', "refuses: a token is needed"),
    ],
)
def test_another_server_at_that_address(ctl: Callable[..., Finished], status: int, body: bytes, said: str) -> None:
    with answering(status, body) as (url, _):
        end = ctl(url, "start")
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith(f"pipert-shm: {url} {said}")
    assert end.stderr.count("\n") == 1


def test_a_token_goes_along(ctl: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, b"{}") as (url, seen):
        assert ctl(url, "stats").lines == ["{}"]
        ctl("--token", "one", url.removeprefix("http://"), "stats")
        monkeypatch.setenv("PIPERT_TOKEN", "two")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # which is not for controls
        ctl(url, "stats")
    assert seen == [None, "Bearer one", "Bearer two"]


def test_an_address_that_is_none(ctl: Callable[..., Finished]) -> None:
    end = ctl("gopher://localhost", "start")
    assert (end.returncode, end.stderr.count("\n")) == (1, 1)
    assert end.stderr.startswith("pipert-shm: nothing answers at gopher://localhost: unknown url type")


COMMANDS = """
import contextlib, io, json, sys
from pipert_shm.cli.commands import main

for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(json.loads(line))
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture
def cli() -> Iterator[Callable[..., Finished]]:
    """`pipert-shm` again and again in one process, which is not this one: zerorpc leaves things open where it ran."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
    command = [sys.executable, "-c", COMMANDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:

        def cli(*arguments: str) -> Finished:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(arguments), file=process.stdin, flush=True)
            return Finished(*json.loads(process.stdout.readline()))

        yield cli
        process.communicate()


def test_rpc_against_a_real_server(start_script: StartScript, run_cli: RunCli, cli: Callable[..., Finished]) -> None:
    server = Server(start_script)

    def rpc(*arguments: str) -> Finished:
        return cli("rpc", server.endpoint, *arguments)

    def states() -> set[str]:
        return {routine["state"] for routine in json.loads(rpc("statistics").stdout)["routines"]}

    end = run_cli("rpc", server.endpoint, "start")
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
    server.script.wait_for_line("value 1 False")
    assert rpc("pause").returncode == 0
    eventually(lambda: states() == {"stopped"}, "a stopped pipe")
    assert rpc("execute", "start").returncode == 0
    assert rpc("execute", "scale", '{"factor": 2}').returncode == 0
    server.script.wait_for_line("value 2 False")
    structure = json.loads(rpc("structure").stdout)
    assert [routine["routine_name"] for routine in structure["Routines"]] == ["numbers", "end"]
    refused = rpc("execute", "nothing")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"pipert-shm: {server.endpoint} refuses: UnknownEvent: no routine that was addressed")
    assert rpc("execute", "join", '{"to_kill": true}').returncode == 0
    server.expect_end()


def test_rpc_where_nobody_serves(cli: Callable[..., Finished]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    end = cli("rpc", endpoint, "start")
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith(
        f"pipert-shm: nothing answers at {endpoint}: [Errno 111] Connection refused; is RPCPipeWrapper"
    )
    end = cli("rpc", "127.0.0.1", "start")
    assert (end.returncode, end.stdout, end.stderr.count("\n")) == (1, "", 1)
    assert end.stderr.startswith("pipert-shm: 127.0.0.1 is no endpoint: ")
