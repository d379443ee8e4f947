"""The threads on which an agent answers. What it says of itself waits for no other answer."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipert_shm.hosts.session import load_zenoh

AT_ONCE = 96  # questions that are answered side by side; up to 64 of them wait for taps
QUEUED = 256  # that wait for a thread
ABOUT = "about"  # the kind of question that is answered on the thread that hears it


class Answering:
    """Hears questions on one thread, and answers them on others, as many as it takes.

    They are daemons, since an answer may take minutes, which the end does not wait for.

    :param asked: Zenoh's handler, which gives the questions.
    :param answer: answers one; any thread.
    :param refuse: answers one that finds no place.
    """

    def __init__(self, asked: Any, answer: Callable[[Any], None], refuse: Callable[[Any, str], None]) -> None:
        self._asked, self._answer, self._refuse = asked, answer, refuse
        self._waiting: queue.Queue[Any] = queue.Queue(QUEUED)
        self._counting = threading.Lock()
        self._free = 0  # threads that wait for a question, minus questions that wait for a thread
        self._threads: list[threading.Thread] = []
        self._start("answer-hear", self._hear)

    def close(self, deadline: float) -> None:
        """Ends the threads that have no answer in hand, when Zenoh gives no more questions.

        :param deadline: until when it waits for them (`time.monotonic`): one that is in Zenoh at the end of the process would
            abort it.
        """
        for _ in self._threads:
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _start(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _hear(self) -> None:
        while (query := self._next()) is not None:
            with suppress(Exception):  # whatever a question does, the next one is heard
                if _kind_of(query) == ABOUT:
                    self._answer(query)
                else:
                    self._hand_over(query)

    def _next(self) -> Any:
        with suppress(load_zenoh().ZError):  # at the end the channel is closed
            return self._asked.recv()
        return None

    def _hand_over(self, query: Any) -> None:
        with self._counting:
            if not self._free > 0 and len(self._threads) <= AT_ONCE:
                with suppress(RuntimeError):  # the system has no room for a thread: one that is there answers
                    self._start(f"answer-{len(self._threads)}", self._work)
                    self._free += 1
            try:
                self._waiting.put_nowait(query)
            except queue.Full:
                self._refuse(query, f"{AT_ONCE + QUEUED} questions are there already: ask again later")
            else:
                self._free -= 1

    def _work(self) -> None:
        while (query := self._waiting.get()) is not None:
            self._answer(query)
            with self._counting:
                self._free += 1


def _kind_of(query: Any) -> str:
    try:
        return str(json.loads(query.payload.to_bytes())["kind"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # who answers it says what is wrong
        return ""
