"""Wires between hosts: two pipes that meet over Zenoh on the loopback interface, in real processes."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import PACKAGE_ROOT, StartCli
from hosts_ends import (
    COUNT,
    DIED,
    ENDED,
    OLDEST,
    OPEN,
    RETURNED,
    SKIPPED,
    TOLD_NS,
    UNREACHABLE,
    WRONG,
    Link,
    at_rest,
    kill,
    receiving,
    sending,
    torment,
)
from media import bikes, excerpt
from pipert_shm.hosts import Hub, RemoteReceiver, RemoteSender
from pipert_shm.hosts.session import LEASE_S
from streams import free_port
from waiting import Board, eventually

SLACK = 8.0  # seconds that a busy machine may add


@pytest.fixture
def board() -> Board:
    board = Board()
    board[OPEN] = 1
    return board


@pytest.fixture
def port() -> int:
    return free_port()


def test_each_message_comes_once_and_in_order_while_both_ends_are_killed(board: Board, port: int) -> None:
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{port}", policy="block")
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}")
    with receiving(board, receiver) as hub, sending(board, sender, fps=300) as edge:
        board.wait(COUNT, 10)
        torment(board, edge, hub, 8, random.Random(20))
        skipped, counted = at_rest(board, edge, hub)
    assert board[WRONG] == 0
    assert skipped == counted, "what is lost is counted, once"
    assert board[DIED] + board[UNREACHABLE] > 0


def test_a_receiver_that_is_killed_doubles_nothing_and_loses_only_what_it_was_sending(board: Board, port: int) -> None:
    sender = RemoteSender("gate", "sender", listen=f"tcp/127.0.0.1:{port}", policy="block", window=4)
    receiver = RemoteReceiver("gate", "receiver", connect=f"tcp/127.0.0.1:{port}")
    with receiving(board, receiver) as hub, sending(board, sender, fps=300) as edge:
        board.wait(COUNT, 10)
        for _ in range(3):
            kill(hub, "receiver")
            board.wait(COUNT, board[COUNT] + 5)
        skipped, counted = at_rest(board, edge, hub)
        in_hand = hub.statistics().wires["receiver", "log"].dropped["crash"]
    assert board[WRONG] == 0
    assert skipped == counted == in_hand, "what waited for room in the queue after the receiver when it died"


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
def test_a_cut_is_told_and_what_comes_after_it_is_right(board: Board, port: int, policy: Any) -> None:
    near, max_age = free_port(), None if policy == "block" else 0.5
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{near}", policy=policy, max_age=max_age)
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}", max_age=max_age)
    with Link(near, port) as link, receiving(board, receiver) as hub, sending(board, sender, fps=100) as edge:
        board.wait(COUNT, 10)
        began = time.monotonic_ns()
        link.cut()
        board.wait(UNREACHABLE)  # and not before, of a link that is only slow
        assert board[TOLD_NS] - began < (LEASE_S + 1 + SLACK) * 1e9
        board[OLDEST] = 0
        began = time.monotonic_ns()
        link.join()
        board.wait(RETURNED)
        assert board[TOLD_NS] - began < (1 + SLACK) * 1e9
        board.wait(COUNT, board[COUNT] + 20)
        if policy == "block":
            assert at_rest(board, edge, hub) == (0, 0), (edge.statistics(), hub.statistics())
        else:
            assert 0 < board[OLDEST] < 600_000
    assert (board[WRONG], board[DIED], board[UNREACHABLE]) == (0, 0, 1)


def test_a_slow_receiver_gets_frames_that_are_not_old_and_the_memory_stays_flat(board: Board, port: int) -> None:
    shape = (480, 640, 3)
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{port}", window=2, max_age=1.0)
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}", max_age=1.0)
    with receiving(board, receiver, delay=0.1) as hub, sending(board, sender, fps=60, shape=shape) as edge:
        board.wait(COUNT, 8)

        def memory() -> int:
            return sum(flow.private_bytes or 0 for pipe in (edge, hub) for flow in pipe.statistics().flows.values())

        before = memory()
        board.wait(COUNT, 20)
        grown = memory() - before
    assert board[WRONG] == 0
    assert board[SKIPPED] > 10, "the receiver is slow"
    assert grown < 20 << 20, f"{grown:,} bytes"


def certificates(directory: Path) -> None:
    """Two authorities, each with a certificate for this machine."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("ours", "theirs"):
        openssl("req", "-x509", *curve, "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem", "-subj", f"/CN={name}")
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}-host")
        signed = ("-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key", "-CAcreateserial", "-out", f"{name}.pem")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-days", "2", "-extfile", "names")


def test_with_tls_only_who_has_a_certificate_of_the_authority_gets_a_frame(board: Board, port: int, tmp_path: Path) -> None:
    certificates(tmp_path)

    def files(name: str) -> dict[str, Any]:
        return {
            "ca": str(tmp_path / "ours-ca.pem"),
            "certificate": str(tmp_path / f"{name}.pem"),
            "key_file": str(tmp_path / f"{name}.key"),
        }

    address = f"tls/127.0.0.1:{port}"
    stranger_board, owner_board = Board(), board
    sender = RemoteSender("gate", "sender", listen=address, **files("ours"))
    with sending(owner_board, sender, fps=50) as edge:
        stranger = RemoteReceiver("gate", "receiver", connect=address, **files("theirs"))
        with receiving(stranger_board, stranger) as hub:
            eventually(lambda: hub.statistics().flows["of receiver"].pid is not None, "a stranger")
            owner = RemoteReceiver("gate", "receiver", connect=address, **files("ours"))
            with receiving(owner_board, owner):
                owner_board.wait(COUNT, 20)
            assert edge.statistics().routines["sender"].counters["sent"] > 0
    assert stranger_board[COUNT] == 0
    assert owner_board[WRONG] == 0
    assert owner_board[ENDED] == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "either connect= or listen="),
        ({"connect": "tcp/a:1", "listen": "tcp/b:1"}, "either connect= or listen="),
        ({"connect": "udp/a:1"}, "'tcp/HOST:PORT' or 'tls/HOST:PORT'"),
        ({"connect": "tcp/a:http"}, "'tcp/HOST:PORT' or 'tls/HOST:PORT'"),
        ({"connect": "tcp/:7447"}, "'tcp/HOST:PORT' or 'tls/HOST:PORT'"),
        ({"connect": "tls/a:1", "ca": "ca.pem"}, "there is no certificate, key"),
        ({"connect": "tcp/a:1", "ca": "ca.pem"}, "would protect nothing"),
        ({"connect": "tcp/a:1", "window": 65}, "window must be 'auto'"),
        ({"connect": "tcp/a:1", "policy": "drop_newest"}, "unknown policy"),
        ({"connect": "tcp/a:1", "codec": "png"}, "unknown codec"),
        ({"connect": "tcp/a:1", "max_age": 0}, "max_age must be"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RemoteSender("gate", **settings)


def test_both_ends_can_be_named_in_a_file() -> None:
    assert Hub(connect="tcp/a:1").address == "tcp/a:1"
    assert RemoteReceiver("gate", listen="tcp/0.0.0.0:7447").key == "gate"


def test_the_example_of_two_hosts_runs(port: int, tmp_path: Path, start_cli: StartCli) -> None:
    excerpt(bikes(), range(40), tmp_path / "clip.mp4")
    for name in ("hub", "edge"):
        text = (PACKAGE_ROOT / "examples" / "two_hosts" / f"{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text.replace("127.0.0.1:7447", f"127.0.0.1:{port}"))
    processes = [start_cli("run", tmp_path / f"{name}.yaml", cwd=tmp_path) for name in ("hub", "edge")]
    lines = tmp_path / "detections.jsonl"
    eventually(lambda: lines.exists() and lines.read_text().count("\n") >= 5, "five frames on the other host", 40)
    for process in processes:
        process.send_signal(signal.SIGINT)
    assert [process.wait(30) for process in processes] == [130, 130], "as after Ctrl-C"
    assert '"origin": "gate"' in lines.read_text()
