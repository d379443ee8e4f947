"""Pipes of other hosts on the command line: `PIPE@HOST`, and `PIPE@*` for all hosts that run a part of it.

The environment variable PIPERT_HUB says how the hub is reached: its address, or a file with a section `hosts`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipert_shm.errors import PipertError, RemoteRefusal
from pipert_shm.events import KILL_EVENT_NAME

if TYPE_CHECKING:
    from pipert_shm.agents.asking import Answer, Asker

SPARE_S = 10.0  # that an answer may take beyond the time that is looked


def far(name: str) -> tuple[str, str] | None:
    """Pipe and host, where a pipe of another host is meant; None where one of this host is called so, or no host is named."""
    if "@" not in name:
        return None
    from pipert_shm.agents.names import divided
    from pipert_shm.shm.finding import running

    return None if any(pipe.name == name for pipe in running()) else divided(name)


def ask(pipe: str, host: str, kind: str, patience: float = 60.0, **question: Any) -> dict[str, Answer]:
    """Asks the host, or all that run a part of the pipe; the answers by host.

    :raises HostsError: when the hub can't be reached.
    :raises RemoteRefusal: when no host runs it, or one refuses.
    """
    from pipert_shm.agents.asking import Asker
    from pipert_shm.agents.reaching import hub_from

    with Asker(hub_from()) as asker:
        hosts = _hosts(asker, pipe, host)
        answers = asker.ask_all({name: {"kind": kind, "pipe": pipe, **question} for name in hosts}, patience)
    refused = [f"host {name}: {answer.error}" for name, answer in answers.items() if answer.error]
    if refused:
        raise RemoteRefusal("; ".join(refused))
    return answers


def _hosts(asker: Asker, pipe: str, host: str) -> list[str]:
    from pipert_shm.agents.names import EVERY

    about = asker.hosts()
    running = [name for name, its in about.items() if pipe in its["pipes"]]
    if host != EVERY:
        if host not in about:
            raise RemoteRefusal(f"host {host!r} can't be reached; those that can: {', '.join(about) or 'none'}")
        return [host]
    if not running:
        raise RemoteRefusal(f"no host runs a part of pipe {pipe!r}; those that can be reached: {', '.join(about) or 'none'}")
    return running


def one(pipe: str, host: str, kind: str, patience: float = 60.0, **question: Any) -> Answer:
    """Asks one host.

    :raises RemoteRefusal: when `*` stands for several, and as `ask` does.
    """
    answers = ask(pipe, host, kind, patience, **question)
    if len(answers) != 1:
        raise RemoteRefusal(f"name one host: {', '.join(f'{pipe}@{name}' for name in answers)}")
    return next(iter(answers.values()))


def notify(pipe: str, host: str, event: str, routine: str | None, arguments: dict[str, Any] | None) -> dict[str, str]:
    """Notifies an event; what came of it, by host. A pipe that is killed is forgotten by its agent.

    :raises RemoteRefusal: as `ask` does.
    """
    if event == KILL_EVENT_NAME and routine is None:
        ended = ask(pipe, host, "remove", 200.0)
        return {name: "the pipe has ended" if answer.value else "there was none" for name, answer in ended.items()}
    answers = ask(pipe, host, "notify", event=event, routine=routine, arguments=arguments)
    return {name: answer.value["outcome"] for name, answer in answers.items()}


class FarTop:
    """What the pipes of other hosts do, renewed all the time. A context manager.

    :param wanted: a name or a part of one, or `PIPE@HOST`; None for all.
    :param seconds: over which rates are taken.
    """

    def __init__(self, wanted: str | None, seconds: float) -> None:
        self._wanted, self._seconds = wanted, seconds
        self._pipes: list[dict[str, Any]] = []
        self._fresh = threading.Event()
        self._over = False
        self._problem: PipertError | None = None
        self._thread = threading.Thread(target=self._look, name="far-top", daemon=True)

    def __enter__(self) -> FarTop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()  # the end of the interpreter must not find it in Zenoh

    def pipes(self, *, wait: bool = False) -> list[dict[str, Any]]:
        """The newest numbers, as `compare` gives them.

        :param wait: whether to wait for the first ones.
        :raises PipertError: when the hub can't be reached.
        """
        if wait:
            self._fresh.wait(self._seconds + SPARE_S)
        if self._problem is not None:
            raise self._problem
        return self._pipes

    def _look(self) -> None:
        from pipert_shm.agents.asking import Asker
        from pipert_shm.agents.reaching import hub_from

        try:
            with Asker(hub_from()) as asker:
                while not self._over:
                    self._pipes = [pipe for pipe in asker_top(asker, self._seconds) if self._is_wanted(pipe["name"])]
                    self._fresh.set()
        except PipertError as error:
            self._problem = error
            self._fresh.set()

    def _is_wanted(self, name: str) -> bool:
        wanted = self._wanted
        return wanted is None or wanted == name or wanted.removesuffix("*").casefold() in name.casefold()


def asker_top(asker: Asker, seconds: float) -> list[dict[str, Any]]:
    """What the pipes of all hosts do within some seconds."""
    questions = {host: {"kind": "top", "seconds": seconds} for host in asker.hosts()}
    answers = asker.ask_all(questions, seconds + SPARE_S)
    return [pipe for answer in answers.values() if not answer.error for pipe in answer.value["pipes"]]


@contextmanager
def top_elsewhere(wanted: str | None, seconds: float) -> Iterator[Callable[..., list[dict[str, Any]]] | None]:
    """Gives what tells of the pipes of other hosts; None where no hub is named."""
    from pipert_shm.agents.names import HUB_VARIABLE

    if not os.environ.get(HUB_VARIABLE):
        yield None
        return
    with FarTop(wanted, seconds) as looking:
        yield looking.pipes
