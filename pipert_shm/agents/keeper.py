"""The process of one pipe of an agent: started, watched, started again when it dies, changed, and ended.

The process has a lock for as long as it or a flow of it lives. So the next agent, after this one has died, knows that the pipe
runs, and waits for its end as this one did.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Literal

from pipert_shm.agents.kept import Kept, Store, Told
from pipert_shm.agents.names import pipe_on
from pipert_shm.agents.splitting import reachable
from pipert_shm.applying.service import KIND, question
from pipert_shm.attached import Attached, attach
from pipert_shm.errors import ConfigError, Fault, HostsError, PipeStateError, describe
from pipert_shm.hosts.session import Hub

State = Literal["starting", "running", "waiting", "ended", "failed", "stopped"]
COMMAND = (sys.executable, "-m", "pipert_shm.cli.part")
LONG_ENOUGH = 60.0  # seconds of life after which a death is no repeated one
SHORTEST_S, LONGEST_S = 0.25, 30.0  # between a death and the next start
START_S = 300.0  # that a pipe may take until all of its routines run
ATTACH_S = 10.0  # that a pipe which was found running may still take until others can attach
END_S = 60.0  # that it may take to end before it is killed


# longer than 300 lines: one state of one host, under one lock; what it takes is in modules beside it
class Keeper:
    """One pipe. Any thread.

    :param command: what runs a part, for tests.
    """

    def __init__(
        self, kept: Kept, store: Store, host: str, hub: Hub, logger: logging.Logger, command: Sequence[str] = COMMAND
    ) -> None:
        self.kept = kept
        self.name = pipe_on(kept.pipe, host)
        self.state: State = "ended" if kept.has_ended else "starting"
        self.error = ""
        self._faults: list[tuple[str, str]] = []
        self._store, self._hub, self._logger, self._command = store, hub, logger, command
        self._changed = threading.Condition()
        self._one_change = threading.Lock()  # of what is kept, and of the running pipe
        self._is_over = False
        self._is_new = False  # so that a first start that fails is the last
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None  # that this agent has started

    # ---- for those who were told something --------------------------------------------------------

    def begin(self) -> None:
        """Brings it up, or finds it running."""
        if not self.kept.has_ended:
            self._thread = threading.Thread(target=self._keep, name=f"keep-{self.kept.pipe}", daemon=True)
            self._thread.start()

    def start(self) -> None:
        """Starts it for the first time, and waits until all of its routines run.

        :raises ConfigError: when its file has faults here.
        :raises HostsError: when it can't be started.
        """
        self._is_new, self._is_over = True, False
        is_found = self._runs()
        self._set("starting")
        self.begin()
        with self._changed:
            self._changed.wait_for(lambda: self.state != "starting", START_S)
            state, error = self.state, self.error
        self._is_new = False
        if state == "running" and is_found:
            self._take_over()
        if state in ("running", "ended"):
            return
        if state == "starting":
            error = f"it does not run after {START_S:.0f} s"
        self.end()
        if self._faults:
            raise ConfigError([Fault(f"{self.kept.pipe}.yaml", 0, field, message) for field, message in self._faults])
        raise HostsError(error)

    def _take_over(self) -> None:
        """Brings a pipe that ran already, though nothing was kept of it, to what it is told."""
        try:
            self._ask_to_be(self.kept.now)
        except BaseException:
            self.leave()
            raise

    def check(self, text: str, remotes: tuple[str, ...]) -> None:
        """Checks a pipeline in a process of its own, without running it.

        :raises ConfigError: when it has faults.
        :raises HostsError: when it can't be checked.
        """
        file = self._store.write(self.kept.pipe, "check.yaml", reachable(text, list(remotes), self._hub))
        outcome = self._store.path(self.kept.pipe, "check.outcome")
        try:
            outcome.unlink(missing_ok=True)
            subprocess.run([*self._command, "--check", file, outcome], stdin=subprocess.DEVNULL, timeout=START_S, check=False)
            told: dict[str, Any] = (
                json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else {"error": "it could not be checked"}
            )
            if told.get("faults"):
                faults: list[list[str]] = told["faults"]
                raise ConfigError([Fault(f"{self.kept.pipe}.yaml", 0, fault[0], fault[1]) for fault in faults])
            if told.get("error"):
                raise HostsError(str(told["error"]))
        finally:
            file.unlink(missing_ok=True)
            outcome.unlink(missing_ok=True)

    def differences(self, told: Told) -> list[str]:
        """What `change` would do, a line each.

        :raises PipertError: when that can't be.
        """
        with self._attached() as pipe:
            answer = pipe.relay(KIND, self._question(told, dry_run=True), timeout=START_S)
        return [str(line) for line in json.loads(answer)["changes"]]

    def change(self, told: Told, *, for_good: bool = False) -> list[str]:
        """Brings the running pipe to another pipeline, or leaves it as it is. Returns what was done, a line each.

        If this agent dies meanwhile, the next one brings the pipe back to what it was.

        :param for_good: whether it is brought there in any case, now or later: what was applied is put back.
        :raises PipertError: when that can't be.
        """
        with self._one_change:
            before, after = self.kept, self.kept.changed(told)
            self._store.save(after if for_good else after.tried())
            self.kept = after if for_good else before
            try:
                lines = self._ask_to_be(told)
                self._store.save(after)
            except BaseException as error:
                with suppress(OSError):  # else it is a trial, and so the same
                    self._store.save(self.kept)
                if for_good or not isinstance(error, ConfigError):  # it may have done it all the same
                    self._mend_beside()
                raise
            self.kept = after
        return lines

    def settle(self) -> None:
        """Keeps for good what was a trial."""
        with self._one_change:
            self._store.save(self.kept)

    def _ask_to_be(self, told: Told) -> list[str]:
        with self._attached() as pipe:
            answer = pipe.relay(KIND, self._question(told, dry_run=False), timeout=2 * START_S)
        return [str(line) for line in json.loads(answer)["changes"]]

    def _mend_beside(self) -> None:
        threading.Thread(target=self._mend, name=f"mend-{self.kept.pipe}", daemon=True).start()

    def _mend(self) -> None:
        """Brings a running pipe to what is kept of it: an agent may have died in a change, or the hub may have moved."""
        wait = SHORTEST_S
        while not self._is_over:
            try:
                with self._one_change:
                    if self.state != "running":
                        return  # its start takes what is kept
                    lines = self._ask_to_be(self.kept.now)
            except Exception as error:  # such as one that is not up yet
                self._logger.warning("pipe %s can't be brought to what is kept of it yet: %s", self.name, describe(error))
            else:
                if lines:
                    self._logger.warning("pipe %s was brought to what is kept of it: %s", self.name, "; ".join(lines))
                return
            with self._changed:
                self._changed.wait_for(lambda: self._is_over, wait)
            wait = min(2 * wait, LONGEST_S)

    def end(self) -> None:
        """Ends it, and waits until it has ended. What is kept on disk stays."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._signal(signal.SIGTERM)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(END_S)
            if self._thread.is_alive():
                self._logger.warning("pipe %s does not end within %.0f s, and is killed", self.name, END_S)
                self._signal(signal.SIGKILL)
                self._thread.join(END_S)
        self._set("stopped")

    def end_left(self) -> None:
        """Ends a process that an agent before this one has left, and waits until nothing of it is left."""
        began = time.monotonic()
        while self._runs():
            self._signal(signal.SIGKILL if time.monotonic() - began > END_S else signal.SIGTERM)
            time.sleep(0.1)

    def leave(self) -> None:
        """Lets it run, and no longer looks after it."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def about(self) -> dict[str, Any]:
        """What it does, for people."""
        return {
            "name": self.name,
            "state": self.state,
            "error": self.error,
            "revision": self.kept.now.revision,
            "by": self.kept.now.by,
        }

    # ---- the process -----------------------------------------------------------------------------

    def _question(self, told: Told, *, dry_run: bool) -> bytes:
        text = reachable(told.text, list(told.remotes), self._hub)
        path = str(self._store.path(self.kept.pipe, "yaml"))
        return question(text, path, os.path.realpath(path), dry_run=dry_run)

    def _attached(self) -> Attached:
        if self.state != "running":
            raise PipeStateError(f"it does not run: {self.state}{': ' if self.error else ''}{self.error}")
        return attach(self.pipe_id, timeout=ATTACH_S)

    @property
    def pipe_id(self) -> str:
        """The id of the pipe, or its name as long as it has not told its id: other agents may have pipes of this name."""
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads(self._store.path(self.kept.pipe, "outcome").read_text(encoding="utf-8"))["pipe_id"])
        return self.name

    def _keep_end_in_mind(self) -> None:
        with self._one_change:
            self.kept = self.kept.ended()
            self._store.save(self.kept)

    def _set(self, state: State, error: str = "") -> None:
        with self._changed:
            self.state, self.error = state, error
            self._changed.notify_all()

    def _keep(self) -> None:
        """The thread: from one life of the process to the next."""
        deaths = 0
        while not self._is_over:
            began = time.monotonic()
            try:
                if self._has_lived():
                    return
            except Exception as error:  # such as a full disk, or a file of another version: it may be mended
                self._set("failed" if self._is_new else "waiting", f"it can't be started: {describe(error)}")
                if self._is_new:
                    return
            deaths = 1 if time.monotonic() - began > LONG_ENOUGH else deaths + 1
            wait = wait_after(deaths)
            self._logger.warning("pipe %s has died (%s), and is started again in %.1f s", self.name, self.error, wait)
            with self._changed:
                self._changed.wait_for(lambda: self._is_over, wait)

    def _has_lived(self) -> bool:
        """One life of the process, which is found or started. Returns whether it is the last one."""
        process = None
        if self._runs():
            self._logger.info("pipe %s runs", self.name)
            self._set("running")
            if not self._is_new:
                self._mend_beside()
        else:
            self._set("starting")
            process = self._launched()
        self._await_end(process)
        return self._is_over or self._is_done()

    def _launched(self) -> subprocess.Popen[bytes]:
        """Starts the process, and waits until it says that all routines run, or ends.

        :raises Exception: when it can't be started.
        """
        told = self.kept.now
        file = self._store.write(self.kept.pipe, "yaml", reachable(told.text, list(told.remotes), self._hub))
        outcome = self._store.path(self.kept.pipe, "outcome")
        outcome.unlink(missing_ok=True)
        lock = os.open(self._store.path(self.kept.pipe, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.ftruncate(lock, 0)  # the number there may be another process's by now
        ready, theirs = os.pipe2(os.O_CLOEXEC)
        with open(ready, "rb") as end:
            try:
                process = subprocess.Popen(
                    [*self._command, file, outcome, str(lock), str(theirs)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(lock, theirs),
                    start_new_session=True,
                )
                os.pwrite(lock, str(process.pid).encode(), 0)  # at once: this agent may die before the process says it
            finally:
                os.close(lock)
                os.close(theirs)
            with self._changed:
                self._process = process
                if self._is_over:
                    process.terminate()
            is_up = bool(end.read(1))
        if is_up:
            self._logger.info("pipe %s has been started, and runs", self.name)
            self._set("running")
        return process

    def _await_end(self, process: subprocess.Popen[bytes] | None) -> None:
        """Until no process of the pipe is left."""
        if process is not None:
            process.wait()
            with self._changed:
                self._process = None
        with self._lock() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def _runs(self) -> bool:
        with self._lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _lock(self) -> BinaryIO:
        return open(self._store.path(self.kept.pipe, "lock"), "a+b")

    def _is_done(self) -> bool:
        """Whether it is not to be started again: it has come to its end, or its first start has failed. Notes what happened."""
        path = self._store.path(self.kept.pipe, "outcome")
        state = self._note_outcome(path.read_text(encoding="utf-8") if path.exists() else "")
        if state == "ended":
            self._logger.info("pipe %s has come to its end", self.name)
            try:
                self._keep_end_in_mind()
            except OSError as error:
                self._logger.error("that pipe %s has ended can't be kept, so the next agent starts it: %s", self.name, error)
            self._set("ended")
            return True
        self._set("failed" if self._is_new else "waiting", self.error)
        return self._is_new

    def _note_outcome(self, text: str) -> str:
        """Takes in what the process has left behind; the state that it tells."""
        told: dict[str, Any] = {}
        with suppress(ValueError):  # it died while it wrote
            told = json.loads(text)
        state = str(told.get("state", ""))
        died = "was ended" if state == "stopped" else "died without a word, see its log"
        self.error = "" if state == "ended" else str(told.get("error", f"it {died}"))
        self._faults = [(str(fault[0]), str(fault[1])) for fault in told.get("faults", ())]
        return state

    def _signal(self, number: int) -> None:
        """Sends a signal to the process that runs the pipe, if one does."""
        with self._changed:
            own = self._process
        if own is not None:  # it may not have said its number yet
            own.send_signal(number)
            return
        if not self._runs():
            return
        with suppress(OSError, ValueError):  # it has ended meanwhile
            process = os.pidfd_open(int(self._store.path(self.kept.pipe, "lock").read_text()))
            try:
                if self._runs():
                    signal.pidfd_send_signal(process, number)
            finally:
                os.close(process)


def wait_after(deaths: int) -> float:
    """Seconds from a death to the next start.

    >>> [wait_after(deaths) for deaths in (1, 2, 3, 10_000)]
    [0.5, 1.0, 2.0, 30.0]
    """
    return min(SHORTEST_S * float(1 << min(deaths, 16)), LONGEST_S)
