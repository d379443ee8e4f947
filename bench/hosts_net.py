"""Two hosts on one machine: network namespaces with a /dev/shm each, and a link between them; else the loopback interface."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .processes import end_with_parent

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
ADDRESSES = ("10.9.0.1", "10.9.0.2")
QUEUE_MS = 100  # that a slow link's queue holds
FIRST_PORT = 20_000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Trouble:
    """What a link does to packets: a delay each way, a share that is lost, and a rate; 0 for none of it."""

    delay_ms: float = 0.0
    loss_percent: float = 0.0
    rate_mbit: float = 0.0


def why_not() -> str:
    """Why namespaces can't be made here; empty if they can."""
    missing = [program for program in ("ip", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}: apt-get install iproute2 util-linux"
    return "" if os.geteuid() == 0 else "namespaces take root: run it by sudo"


class Loopback:
    """One host, where there can't be two."""

    is_real = False

    def enter(self, end: int) -> None:
        """Nothing to enter."""

    def next_port(self) -> int:
        """A port that nobody listens at."""
        with socket.create_server((self.address(1), 0)) as server:
            port: int = server.getsockname()[1]
        return port

    def address(self, end: int) -> str:
        return "127.0.0.1"

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""


class TwoHosts(Loopback):
    """Namespaces, each held by a process, and a link between them: `veth`, or a slow one in user space.

    :raises RuntimeError: when something is missing.
    """

    is_real = True

    def __init__(self, trouble: Trouble | None = None) -> None:
        self._trouble = trouble
        self._port = FIRST_PORT
        self._device = "veth0" if trouble is None else "link0"

    def __enter__(self) -> TwoHosts:
        self._anchors: list[int] = []
        self._link: subprocess.Popen[str] | None = None
        try:
            for _ in ADDRESSES:
                self._anchors.append(_anchor())
            self._join_by_link()
            for end, address in enumerate(ADDRESSES):
                self._ip(end, "link", "set", "lo", "up")
                self._ip(end, "addr", "add", f"{address}/24", "dev", self._device)
                self._ip(end, "link", "set", self._device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _join_by_link(self) -> None:
        a, b = map(str, self._anchors)
        if self._trouble is None:
            _run("ip", "link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
            return
        trouble = self._trouble
        with tempfile.TemporaryDirectory() as directory:
            program = _compiled(Path(directory))
            numbers = map(str, (trouble.delay_ms, trouble.loss_percent, trouble.rate_mbit, QUEUE_MS))
            self._link = subprocess.Popen([program, a, b, *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self._link.stdout is not None
            if self._link.stdout.readline() != "up\n":
                raise RuntimeError("the slow link does not come up: see above")

    def _ip(self, end: int, *words: str) -> None:
        _run("nsenter", "-t", str(self._anchors[end]), "-n", "ip", *words)

    def enter(self, end: int) -> None:
        """Makes the calling process, which has one thread, one of a host's."""
        for kind, flag in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS)):
            space = os.open(f"/proc/{self._anchors[end]}/ns/{kind}", os.O_RDONLY)
            if _libc.setns(space, flag):
                raise OSError(ctypes.get_errno(), f"setns({kind})")
            os.close(space)

    def next_port(self) -> int:
        self._port += 1
        return self._port

    def address(self, end: int) -> str:
        return ADDRESSES[end]

    def cut(self) -> None:
        """Nothing comes through any more."""
        self._ip(0, "link", "set", self._device, "down")

    def join(self) -> None:
        """It carries again."""
        self._ip(0, "link", "set", self._device, "up")

    def sent_bytes(self, end: int) -> int:
        """What a host has sent on the link, with all headers."""
        found = subprocess.run(
            ["nsenter", "-t", str(self._anchors[end]), "-n", "cat", f"/proc/{self._anchors[end]}/net/dev"],
            check=True,
            capture_output=True,
            text=True,
        )
        (line,) = [line for line in found.stdout.splitlines() if line.strip().startswith(f"{self._device}:")]
        return int(line.partition(":")[2].split()[8])

    def __exit__(self, *error: object) -> None:
        if self._link is not None:
            assert self._link.stdin is not None
            assert self._link.stdout is not None
            self._link.stdin.close()
            self._link.wait()
            self._link.stdout.close()
        for pid in self._anchors:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _anchor() -> int:
    """A process that holds namespaces."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            end_with_parent()
            if _libc.unshare(CLONE_NEWNET | CLONE_NEWNS):
                raise OSError(ctypes.get_errno(), "unshare")
            for source, target, kind, flags in ((b"none", b"/", None, MS_REC | MS_PRIVATE), (b"shm", b"/dev/shm", b"tmpfs", 0)):
                if _libc.mount(source, target, kind, flags, None):
                    raise OSError(ctypes.get_errno(), f"mount {target.decode()}")
            os.write(theirs, b"up")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    came = os.read(ours, 2)
    os.close(ours)
    if came != b"up":
        os.waitpid(pid, 0)
        raise RuntimeError("namespaces can't be made: in a container it takes --privileged")
    return pid


def _compiled(directory: Path) -> Path:
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"there is no C compiler, {compiler[0]}: apt-get install gcc libc6-dev")
    program = directory / "link"
    subprocess.run(
        [*compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", program, Path(__file__).with_name("link.c")], check=True
    )
    return program


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
