"""The threads on which an agent answers: what it says of itself waits for no other answer, and nothing grows without end."""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Any

import pytest

from pipert_shm.agents.answering import AT_ONCE, QUEUED, Answering
from pipert_shm.hosts.session import load_zenoh
from waiting import eventually


class Question:
    """A question, as Zenoh gives it."""

    def __init__(self, kind: str) -> None:
        self.kind, self.payload = kind, self

    def to_bytes(self) -> bytes:
        return json.dumps({"kind": self.kind}).encode()


class Asked:
    """Zenoh's channel of questions."""

    def __init__(self) -> None:
        self._questions: queue.Queue[Question | None] = queue.Queue()
        self.put = self._questions.put

    def recv(self) -> Question:
        question = self._questions.get()
        if question is None:
            raise load_zenoh().ZError("closed")
        return question


def test_what_it_says_of_itself_waits_for_no_other_answer() -> None:
    asked, may_end, begun, told, refused = Asked(), threading.Event(), [], [], []

    def answer(question: Any) -> None:
        if question.kind == "trace":
            begun.append(question)
            may_end.wait(30)
        told.append(question.kind)

    answering = Answering(asked, answer, lambda question, why: refused.append(why))
    for count in (AT_ONCE, QUEUED + 3):
        for _ in range(count):
            asked.put(Question("trace"))
        eventually(lambda: len(begun) == AT_ONCE, "all threads at work")
    asked.put(Question("about"))
    eventually(lambda: told == ["about"], "what it says of itself")
    assert refused == [f"{AT_ONCE + QUEUED} questions are there already: ask again later"] * 3
    may_end.set()
    eventually(lambda: told.count("trace") == AT_ONCE + QUEUED, "all others")
    asked.put(None)
    answering.close(time.monotonic() + 10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("answer-")]


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"\xff"])
def test_a_question_that_is_none_is_answered_like_any_other(payload: bytes) -> None:
    asked = Asked()
    told: list[Any] = []
    question = Question("")
    question.to_bytes = lambda: payload  # type: ignore[method-assign]
    answering = Answering(asked, told.append, lambda question, why: None)
    asked.put(question)
    eventually(lambda: told == [question], "its answer")
    asked.put(None)
    answering.close(time.monotonic() + 10)


def test_a_question_that_is_none_does_not_make_it_deaf() -> None:
    class Nested(Question):
        def to_bytes(self) -> bytes:
            return b"[" * 200_000

    class Broken(Question):
        @property
        def is_told(self) -> bool:
            raise load_zenoh().ZError("the one who asked is gone")

    asked, told = Asked(), []

    def answer(question: Any) -> None:
        if isinstance(question, Broken):
            assert question.is_told
        told.append(question.kind)

    answering = Answering(asked, answer, lambda question, why: None)
    for question in (Nested("nested"), Broken("about"), Question("about")):
        asked.put(question)
    eventually(lambda: sorted(told) == ["about", "nested"], "the last question, and the one that is none")
    asked.put(None)
    answering.close(time.monotonic() + 10)
