"""Hosts on one machine: processes with a network, a /dev/shm and, if wanted, a clock of their own, and a link between two.

It takes CAP_SYS_ADMIN, /dev/net/tun, `ip` and a C compiler: `why_not()` says what is missing.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import multiprocessing
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import private_shm

CLONE_NEWTIME, CLONE_NEWNET = 0x00000080, 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
DEVICE = "wan0"
SOURCE = Path(__file__).with_name("hosts_link.c")


@cache
def why_not() -> str:
    """Why hosts can't be made on this machine; empty where they can."""
    if os.geteuid() != 0:
        return "hosts on one machine need root"
    for tool in ("ip", "cc"):
        if shutil.which(tool) is None:
            return f"hosts on one machine need {tool!r}"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}); import hosts_net; hosts_net.enter('10.77.0.9')",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"hosts can't be made here: {done.stderr.strip().splitlines()[-1]}"


@cache
def _program() -> str:
    directory = tempfile.mkdtemp(prefix="pshm-link-")
    path = os.path.join(directory, "hosts_link")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", path, str(SOURCE)], check=True)
    return path


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter(address: str) -> int:
    """Makes the calling process, which has one thread, a host of its own. Returns its end of a link, a TUN device."""
    private_shm.take()
    _unshare(CLONE_NEWNET)
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    for words in (
        "link set lo up",
        f"addr add {address}/24 dev {DEVICE}",
        f"link set {DEVICE} up mtu 1500",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    return tun


def shift_clock(seconds: int) -> bool:
    """Gives CLOCK_MONOTONIC another offset to all processes that the calling one forks from now on. False where it can't."""
    try:
        _unshare(CLONE_NEWTIME)
        Path("/proc/self/timens_offsets").write_text(f"monotonic {seconds} 0\n")
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class LinkSettings:
    """What a link is like, each way: delay (ms), loss (share), rate (Mbit/s)."""

    delay: float = 0.0
    loss: float = 0.0
    rate: float = 1000.0

    def __str__(self) -> str:
        return f"{self.delay:g} ms, {self.loss:.0%} loss, {self.rate:g} Mbit/s"


class Link:
    """Joins two hosts. Its process ends with it."""

    def __init__(self, first: Host, second: Host, settings: LinkSettings, seed: int = 1) -> None:
        rate = settings.rate * 1e6 / 8
        numbers = settings.delay * 1e3, settings.loss * 1e6, rate, max(rate * 0.05, 64_000), seed
        words = [str(first.tun), str(second.tun), *(str(int(number)) for number in numbers)]
        self._process = subprocess.Popen(
            [_program(), *words], stdin=subprocess.PIPE, pass_fds=(first.tun, second.tun), bufsize=0
        )

    def _say(self, word: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word)

    def cut(self) -> None:
        """Nothing comes through any more."""
        self._say(b"c")

    def join(self) -> None:
        """It carries again."""
        self._say(b"j")

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Host:
    """A process that serves requests: `serve(ask)` runs there, where `ask` is its end of a connection.

    :param clock_offset: seconds by which its CLOCK_MONOTONIC is ahead of the machine's.
    """

    def __init__(self, address: str, serve: Callable[[Connection], None], clock_offset: int = 0) -> None:
        self._ends, child_end = multiprocessing.Pipe()
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._be(address, serve, child_end, theirs, clock_offset)
        child_end.close()
        theirs.close()
        with ours:
            said, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if not fds:
            os.waitpid(self._pid, 0)
            raise OSError(f"there is no host {address}")
        self.tun = fds[0]
        self.has_clock = said == b"t"

    @staticmethod
    def _be(address: str, serve: Callable[[Connection], None], ask: Connection, link: socket.socket, offset: int) -> None:
        status = 1
        try:
            has_clock = bool(offset) and shift_clock(offset)
            if has_clock and os.fork():  # the clock is that of its children
                os.wait()
                os._exit(0)
            tun = enter(address)
            socket.send_fds(link, [b"t" if has_clock else b"-"], array.array("i", [tun]))
            link.close()
            serve(ask)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def ask(self, *words: Any, timeout: float = 60.0) -> Any:
        """What the host answers. It raises what it raised there.

        :raises TimeoutError: when there is no answer.
        """
        self._ends.send(words)
        if not self._ends.poll(timeout):
            raise TimeoutError(f"no answer to {words}")
        answer = self._ends.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """Ends it, and waits for its end."""
        with suppress(OSError):
            self._ends.send(None)
        os.waitpid(self._pid, 0)
        os.close(self.tun)
        self._ends.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def answer(ask: Connection, words: dict[str, Callable[..., Any]]) -> None:
    """Answers requests by these functions, until the other end has no more."""
    with suppress(EOFError):
        while (request := ask.recv()) is not None:
            try:
                ask.send(words[request[0]](*request[1:]))
            except Exception as error:
                traceback.print_exc()
                ask.send(RuntimeError(f"{type(error).__name__}: {error}"))


def uptime() -> float:
    """CLOCK_MONOTONIC of the calling process, seconds."""
    return time.monotonic()
