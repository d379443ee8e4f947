"""The agent of a host: runs the parts that it is told, and answers what is asked about them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pipert_shm.agents.answering import QUEUED, Answering
from pipert_shm.agents.asking import Handler, Question, answered
from pipert_shm.agents.code import sources_of
from pipert_shm.agents.keeper import COMMAND, Keeper
from pipert_shm.agents.kept import Kept, Store, Told
from pipert_shm.agents.link import CLOSING_S, Link
from pipert_shm.agents.names import EVERY, key_of_questions, key_of_token, version
from pipert_shm.errors import HostsError, RemoteRefusal
from pipert_shm.hosts.access import check_host_name
from pipert_shm.hosts.session import LEASE_S, Hub, load_zenoh

LOOK_S = 1.0  # that the hub has to say who is called like us
DOUBLE_S = LEASE_S + 1  # after which another one of the same name is alive, and no remains


class Agent:
    """One host's agent. It dials out only. A context manager, which runs until its end.

    Its pipes are processes of their own: they go on when it dies, and the next agent with the same directory finds them.

    :param name: of the host. A second agent of this name at the hub is refused.
    :param labels: by which flows choose hosts.
    :param store: where it keeps what it was told. Only one agent at a time may have it.
    :param more: gives further kinds of questions, and who answers them.
    :param command: what runs a part, for tests.
    :raises ValueError: when a host can't be called so.
    :raises ImportError: when Zenoh is not installed.
    :raises HostsError: when another agent has the directory, or a file of the hub's can't be read.
    """

    def __init__(
        self,
        name: str,
        labels: Mapping[str, str],
        hub: Hub,
        store: Store,
        logger: logging.Logger,
        *,
        more: Callable[[Agent], Mapping[str, Handler]] = lambda agent: {},
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.name = check_host_name(name)
        self._labels, self._hub, self._store, self._logger, self._command = dict(labels), hub, store, logger, command
        self._life = f"{time.time_ns()}-{secrets.token_hex(4)}"
        self._began = time.time()
        self._over = threading.Event()
        self._refusal = ""
        self._growing = threading.RLock()  # one change of what is kept at a time
        self._keepers: dict[str, Keeper] = {}
        self._declared: list[Any] = []
        self._answering: Answering | None = None
        self._handlers: dict[str, Handler] = {
            "about": lambda question: (self.about(), b""),
            "prepare": lambda question: (self._prepare(question), b""),
            "apply": lambda question: (self._apply(question), b""),
            "revert": lambda question: (self._revert(question), b""),
            "remove": lambda question: (self._remove(question), b""),
            **more(self),
        }
        self._lock = self._locked()
        kept, unreadable = store.load()
        for line in unreadable:
            logger.error("%s", line)
        for its in kept:
            settled = self._settled(its) if its.is_trial else its
            if settled is not None:
                self._keepers[its.pipe] = self._keeper(settled)
        for keeper in self._keepers.values():
            keeper.begin()
        self._link = Link(hub, self._connected, logger)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settled(self, trial: Kept) -> Kept | None:
        """What is kept of a pipe that an agent before this one was bringing somewhere when it died: what there was before."""
        before = trial.put_back()
        self._logger.warning(
            "pipe %s was being changed when the agent before died: it %s",
            trial.pipe,
            "is ended" if before is None else "goes back",
        )
        if before is None or before.has_ended:
            self._keeper(trial).end_left()
        if before is None:
            self._store.forget(trial.pipe)
        else:
            self._store.save(before)
        return before

    # ---- its end ---------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until `stop()`.

        :raises HostsError: when the hub knows another agent of this name.
        """
        self._over.wait()
        if self._refusal:
            raise HostsError(self._refusal)

    def stop(self) -> None:
        """Ends `wait()`. A signal's handler may call it."""
        self._over.set()

    def close(self, *, and_pipes: bool = False) -> None:
        """Disconnects.

        :param and_pipes: whether the pipes end, too. Else they go on.
        """
        for declared in reversed(self._declared):
            with suppress(Exception):  # the session has ended
                declared.undeclare()
        self._link.close()
        if self._answering is not None:
            self._answering.close(time.monotonic() + CLOSING_S)
        keepers = list(self._keepers.values())
        if and_pipes:
            with ThreadPoolExecutor(max(len(keepers), 1)) as pool:
                list(pool.map(Keeper.end, keepers))
        for keeper in keepers:
            keeper.leave()
        os.close(self._lock)

    def _locked(self) -> int:
        path = self._store.directory / "agent.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise HostsError(
                f"an agent with the directory {self._store.directory} runs already; give this one another by --state"
            ) from None
        return lock

    # ---- on the hub ------------------------------------------------------------------------------

    def _connected(self, session: Any) -> None:
        zenoh = load_zenoh()
        if self._is_double(session, DOUBLE_S, is_new=True):
            return
        self._declared.append(session.liveliness().declare_token(key_of_token(self.name, self._life)))
        if self._is_double(session, 0):  # both came at the same moment: the one that began first stays
            return
        key = key_of_questions(EVERY, self.name)
        queryable = session.declare_queryable(key, zenoh.handlers.FifoChannel(QUEUED))
        self._declared.append(queryable)
        self._logger.info("host %s is there", self.name)
        self._answering = Answering(queryable.handler, self._answer, self._refuse_to_answer)
        self._watch(session)

    def _watch(self, session: Any) -> None:
        """Ends this agent where one of its name that began earlier comes back: a cut link has hidden it."""
        zenoh = load_zenoh()
        tokens = session.liveliness().declare_subscriber(
            key_of_token(self.name, EVERY), zenoh.handlers.FifoChannel(QUEUED), history=True
        )
        self._declared.append(tokens)
        others: set[str] = set()
        with suppress(zenoh.ZError):  # at the end
            while not self._over.is_set():
                sample = tokens.handler.try_recv() if others else tokens.handler.recv()
                if sample is None:
                    # a slow hub may say that nobody is there: it is asked until one is found, or all are gone
                    self._is_double(session, DOUBLE_S)
                    self._over.wait(0.2)
                elif (life := str(sample.key_expr).rpartition("/")[2]) != self._life:
                    (others.add if sample.kind == zenoh.SampleKind.PUT else others.discard)(life)

    def _is_double(self, session: Any, patience: float, *, is_new: bool = False) -> bool:
        """Whether another agent of this name is alive; then this one ends, if it is the newer one."""
        deadline = time.monotonic() + patience
        while True:
            others = self._others(session)
            if not others or self._over.wait(min(max(deadline - time.monotonic(), 0), 0.2)):
                return False
            if time.monotonic() >= deadline:
                break
        if is_new or min(others) < self._life:
            self._refusal = f"a host called {self.name!r} is at the hub already; give this one another name"
            self._over.set()
            return True
        return False

    def _others(self, session: Any) -> list[str]:
        tokens = session.liveliness().get(key_of_token(self.name, EVERY), timeout=LOOK_S)
        lives = [str(reply.ok.key_expr).rpartition("/")[2] for reply in tokens if reply.ok is not None]
        return [life for life in lives if life != self._life]

    def _answer(self, query: Any) -> None:
        with query:
            head, body = answered(self._handlers, b"" if query.payload is None else query.payload.to_bytes())
            try:
                query.reply(query.key_expr, body, attachment=head)
            except Exception as error:  # the one who asked is gone
                self._logger.debug("not answered: %s", error)

    def _refuse_to_answer(self, query: Any, why: str) -> None:
        with query, suppress(Exception):  # the one who asks may be gone
            query.reply(query.key_expr, b"", attachment=json.dumps({"error": why}).encode())

    # ---- what it answers -------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What it is, and what it runs."""
        return {
            "host": self.name,
            "labels": self._labels,
            "version": version(),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "since": self._began,
            "pipes": {name: keeper.about() for name, keeper in sorted(self._keepers.items())},
        }

    def pipe_id(self, question: Question) -> str:
        """The pipe that a question is about, by what it can be attached to with.

        :raises RemoteRefusal: when it names none that runs here.
        """
        keeper = self._keepers.get(str(question.get("pipe")))
        if keeper is None:
            raise RemoteRefusal(
                f"it runs no part of a pipe {question.get('pipe')!r}; those that it runs: {', '.join(self._keepers) or 'none'}"
            )
        return keeper.pipe_id

    def pipe_ids(self) -> set[str]:
        """All pipes that it runs."""
        return {keeper.pipe_id for keeper in list(self._keepers.values())}

    def _prepare(self, question: Question) -> dict[str, Any]:
        """What `apply` would do, and the code that is here.

        :raises PipertError: when it can't be.
        """
        if question["version"] != version():
            raise RemoteRefusal(
                f"it has pipert_shm {version()}, and the file comes from {question['version']}: install the same on both"
            )
        told = _told_by(question)
        keeper = self._keepers.get(question["pipe"])
        if keeper is not None and keeper.state == "running":
            changes = keeper.differences(told)
        else:
            changes = [f"+ flow {flow!r}: {', '.join(routines)}" for flow, routines in question["flows"].items()]
            if question["check"]:
                (keeper or self._keeper(Kept(question["pipe"], told))).check(told.text, told.remotes)
        return {"changes": changes, "code": sources_of(question["modules"], os.getcwd())}

    def _apply(self, question: Question, *, for_good: bool = False) -> list[str]:
        """Brings a pipe to what it is told, or leaves it as it was; what was done, a line each.

        :param for_good: whether it is brought there in any case: what was applied is put back.
        :raises PipertError: when that can't be.
        """
        told, pipe = _told_by(question), str(question["pipe"])
        with self._growing:
            keeper = self._keepers.get(pipe)
            if keeper is not None and keeper.state in ("running", "ended") and keeper.kept.now == told:
                return []  # the answer to the same question was lost
            self._check_replaced(question, keeper)
            if keeper is not None and keeper.state == "running":
                return keeper.change(told, for_good=for_good)
            if keeper is not None:
                keeper.end()
            fresh = self._keeper(Kept(pipe, told) if keeper is None else keeper.kept.changed(told))
            try:
                self._store.save(fresh.kept if for_good else fresh.kept.tried())
                self._keepers[pipe] = fresh
                fresh.start()
                self._settle(fresh)
            except BaseException:
                self._put_back(keeper, fresh)
                raise
            return [f"+ pipe {fresh.name}"]

    @staticmethod
    def _check_replaced(question: Question, keeper: Keeper | None) -> None:
        """:raises RemoteRefusal: when it does not run any more what it ran when the one who asks has looked."""
        now = None if keeper is None else keeper.kept.now.revision
        if "replaces" in question and now not in (question["replaces"], question["revision"]):
            raise RemoteRefusal("another file was applied to this pipe at the same time: say it again")

    @staticmethod
    def _settle(fresh: Keeper) -> None:
        """Keeps for good what runs, or ends it."""
        try:
            fresh.settle()
        except BaseException:
            fresh.end()
            raise

    def _put_back(self, before: Keeper | None, fresh: Keeper) -> None:
        """Makes what could not be started as it was before."""
        if before is None:
            self._store.forget(fresh.kept.pipe)
            self._keepers.pop(fresh.kept.pipe, None)
            return
        again = self._keeper(before.kept)
        self._store.save(again.kept)
        self._keepers[again.kept.pipe] = again
        again.begin()

    def _revert(self, question: Question) -> list[str]:
        """Undoes an `apply`, if that is the last one that this pipe has seen.

        :raises PipertError: when it can't be undone.
        """
        pipe = str(question["pipe"])
        with self._growing:
            keeper = self._keepers.get(pipe)
            if keeper is None or keeper.kept.now.revision != question["revision"]:
                return []  # it did not come as far as that
            before = keeper.kept.before
            if before is None:
                return self._remove(question)
            if keeper.kept.before_had_ended:
                return self._put_back_to_end(keeper)
            return self._apply({"pipe": pipe, **asdict(before)}, for_good=True)

    def _put_back_to_end(self, keeper: Keeper) -> list[str]:
        """Puts back an `apply` to a pipe that had come to its end before: it is at its end again, and not started anew."""
        before = keeper.kept.put_back()
        assert before is not None
        keeper.end()
        self._store.save(before)
        self._keepers[before.pipe] = self._keeper(before)
        return [f"- pipe {keeper.name}, which had come to its end before"]

    def _remove(self, question: Question) -> list[str]:
        """Ends a pipe, and forgets it."""
        with self._growing:
            keeper = self._keepers.get(str(question["pipe"]))
            if keeper is None:
                return []
            keeper.end()
            self._store.forget(keeper.kept.pipe)
            del self._keepers[keeper.kept.pipe]
            return [f"- pipe {keeper.name}"]

    def _keeper(self, kept: Kept) -> Keeper:
        return Keeper(kept, self._store, self.name, self._hub, self._logger, self._command)


def _told_by(question: Question) -> Told:
    remotes = tuple(map(str, question["remotes"]))
    return Told(str(question["revision"]), str(question["text"]), remotes, str(question["by"]))
