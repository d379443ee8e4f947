"""Questions to agents, and their answers. An answer is a value, or an error; some have bytes with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pipert_shm.agents.link import close_in_time, open_now
from pipert_shm.agents.names import EVERY, host_in, key_of_questions, key_of_token
from pipert_shm.errors import ConfigError, RemoteRefusal, describe
from pipert_shm.hosts.access import NOBODY
from pipert_shm.hosts.session import Hub, load_zenoh

LOOK_S = 3.0  # that agents have to say what they are
PATIENCE_S = 30.0  # that the answer to a question may take by default
AGAIN, AGAIN_S = 4, 1.0  # how often a host that is silent is asked again, and after how many seconds
MOST = 20_000  # answers to one question

Question = dict[str, Any]
Handler = Callable[[Question], "tuple[Any, bytes]"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host said.

    Attributes:
        error: why not; empty if all went well.
        faults: of the file that it was given: field and text.
    """

    value: Any = None
    body: bytes = b""
    error: str = ""
    faults: tuple[tuple[str, str], ...] = field(default=())

    @staticmethod
    def none() -> Answer:
        """Of a host that did not answer."""
        return Answer(error="it did not answer: the link is cut, or the host or its agent is down")


class Asker:
    """Asks agents over a hub. A context manager. Any thread may ask. Not for a process that forks flows afterwards.

    :raises HostsError: when the hub can't be reached.
    """

    def __init__(self, hub: Hub) -> None:
        self._zenoh = load_zenoh()
        identity = hub.identify()
        self._name = NOBODY if identity is None else identity.host
        self._session = open_now(hub)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Disconnects."""
        close_in_time(self._session)

    def hosts(self) -> dict[str, dict[str, Any]]:
        """What each agent that can be reached says of itself, by host."""
        tokens = self._session.liveliness().get(key_of_token(EVERY, EVERY), timeout=LOOK_S)
        hosts = sorted({host_in(str(reply.ok.key_expr)) for reply in tokens if reply.ok is not None})
        found = self.ask_all({host: {"kind": "about"} for host in hosts}, LOOK_S)
        return {host: answer.value for host, answer in found.items() if not answer.error}

    def ask(self, host: str, kind: str, *, patience: float = PATIENCE_S, **question: Any) -> Answer:
        """Asks one host.

        :raises RemoteRefusal: when it does not answer, or refuses.
        """
        answer = self.ask_all({host: {"kind": kind, **question}}, patience)[host]
        if answer.error:
            raise RemoteRefusal(f"host {host}: {answer.error}")
        return answer

    def ask_all(self, questions: Mapping[str, Question], patience: float = PATIENCE_S) -> dict[str, Answer]:
        """Asks each host its own question, all at the same time.

        :param patience: seconds that they have.
        """
        running = {host: self._put(host, question, patience) for host, question in questions.items()}
        return {host: _collected(replies) for host, replies in running.items()}

    def ask_again(self, questions: Mapping[str, Question], patience: float) -> dict[str, Answer]:
        """The same for questions that may be asked twice: a host whose link was cut for a moment is asked again."""
        answers = self.ask_all(questions, patience)
        for _ in range(AGAIN):
            silent = {host: questions[host] for host, answer in answers.items() if answer == Answer.none()}
            if not silent:
                break
            time.sleep(AGAIN_S)
            answers |= self.ask_all(silent, patience)
        return answers

    def begin(self, host: str, question: Question, told: Callable[[Answer], object], patience: float = PATIENCE_S) -> None:
        """Asks one host, and does not wait.

        :param told: is called with the answer, once, on a thread of Zenoh's.
        """
        answers = [Answer.none()]

        def note(reply: Any) -> None:
            if reply.ok is not None:
                answers.append(_read(reply.ok))

        self._put(host, question, patience, self._zenoh.handlers.Callback(note, lambda: told(answers[-1])))

    def _put(self, host: str, question: Question, patience: float, handler: Any = None) -> Any:
        return self._session.get(
            key_of_questions(self._name, host),
            handler or self._zenoh.handlers.FifoChannel(MOST),
            payload=json.dumps(question).encode(),
            target=self._zenoh.QueryTarget.ALL,
            consolidation=self._zenoh.ConsolidationMode.NONE,
            timeout=patience,
        )


def _collected(replies: Any) -> Answer:
    answers = [_read(reply.ok) for reply in replies if reply.ok is not None]
    return answers[-1] if answers else Answer.none()


def _read(sample: Any) -> Answer:
    head = json.loads(sample.attachment.to_bytes())
    faults = tuple((str(where), str(text)) for where, text in head.get("faults", ()))
    return Answer(head.get("value"), sample.payload.to_bytes(), head.get("error", ""), faults)


def answered(handlers: Mapping[str, Handler], payload: bytes) -> tuple[bytes, bytes]:
    """Answers a question: head and body of the reply. Whatever fails is told to the one who asked."""
    head: dict[str, Any]
    body = b""
    try:
        question = json.loads(payload)
        handler = handlers.get(question["kind"])
        if handler is None:
            raise RemoteRefusal(f"it answers no questions of the kind {question['kind']!r}; is it of another version?")
        value, body = handler(question)
        head = {"value": value}
    except ConfigError as error:
        head = {"error": str(error), "faults": [[fault.field, fault.message] for fault in error.faults]}
    except Exception as error:  # of what the question caused: anything
        head = {"error": str(error) if isinstance(error, RemoteRefusal) else describe(error)}
    return json.dumps(head).encode(), body
