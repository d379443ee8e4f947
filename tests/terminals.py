"""Commands on terminals of their own, as a person has them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 90.0  # seconds that a command may take


class PageError(AssertionError):
    """A block does not do what its page says."""


class Command:
    """A bash command on a terminal of its own."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        self.command = command
        self.output = ""
        self._master, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[1] &= ~termios.OPOST  # no "\r\n"
        settings[3] &= ~termios.ECHO  # no "^C"
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        self.process = subprocess.Popen(
            ["bash", "-c", command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=directory,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is a signal only on a session's own terminal
        )
        os.close(slave)

    def _read(self, deadline: float) -> bool:
        """Some output; False when there will be no more. :raises PageError: when none has come by the deadline."""
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise PageError(f"$ {self.command}\nhas not ended, or said what it should, within {PATIENCE:g} s:\n{self.output}")
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: everyone has closed the terminal
            data = b""
        self.output += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern: str) -> None:
        """Waits until the output begins with what matches the pattern."""
        deadline = time.monotonic() + PATIENCE
        while not re.match(pattern, self.output):
            if not self._read(deadline):
                raise PageError(f"$ {self.command}\nshould print what matches\n{pattern}\nand printed\n{self.output}")

    def interrupt(self) -> None:
        """Ctrl-C."""
        with suppress(OSError):  # it has ended
            os.write(self._master, b"\x03")

    def finish(self) -> int:
        """Its status, once it has ended."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(timeout=PATIENCE)

    def end(self) -> None:
        """Ends what still runs in its session."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._master)
