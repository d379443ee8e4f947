"""Traces for attached processes: the process that built the pipe makes them, and they fetch the file piece by piece."""

from __future__ import annotations

import itertools
import json
import threading
import weakref
from collections.abc import Callable
from typing import Any

from pipert_shm.errors import PipeStateError
from pipert_shm.limits import check_seconds
from pipert_shm.parent.session import Session
from pipert_shm.trace.recording import recording

KEPT = 4  # traces that were not fetched
PIECE = 4 << 20  # bytes: a message takes no more than eight
Ask = Callable[[bytes], bytes]


class Traces:
    """Answers their questions, of the kind `parent.relays.TRACE`.

    Traces wait for each other. Each is kept until it was fetched whole, but no more than the last few.

    A question is `{"seconds": 5}`, and the answer `{"number": 1, "size": …, "report": …}`; or it is
    `{"number": 1, "from": 0}`, and the answer is a piece of that file.
    """

    def __init__(self, session: weakref.ref[Session]) -> None:
        self._session = session
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._kept: dict[int, bytes] = {}

    def answer(self, body: bytes) -> bytes:
        """The answer to one question.

        :raises ValueError: when it is none of these.
        :raises ImportError, PipeStateError: see `recording`.
        """
        asked: Any = json.loads(body)
        if "seconds" in asked:
            return self._trace(asked["seconds"])
        with self._lock:
            content = self._kept.get(asked["number"])
            if content is None:
                raise PipeStateError("that trace is not there any more: too many others were made meanwhile")
            piece = content[asked["from"] :][:PIECE]
            if asked["from"] + len(piece) >= len(content):
                del self._kept[asked["number"]]
            return piece

    def _trace(self, seconds: float) -> bytes:
        check_seconds("seconds", seconds, positive=True)
        session = self._session()
        if session is None or session.gone.is_set():
            raise PipeStateError("the pipe has ended")
        with recording(session) as (report, content):
            session.gone.wait(seconds)
        del session
        with self._lock:
            number = next(self._numbers)
            self._kept[number] = content[0]
            for old in list(self._kept)[:-KEPT]:
                del self._kept[old]
            told = {"number": number, "size": len(content[0]), "report": str(report)}
        return json.dumps(told).encode()


def fetch(ask: Ask, seconds: float) -> tuple[bytes, str]:
    """A trace of the next seconds: the file's content, and what is in it.

    :param ask: asks such a question.
    """
    told: Any = json.loads(ask(json.dumps({"seconds": seconds}).encode()))
    content = bytearray()
    while len(content) < told["size"]:
        piece = ask(json.dumps({"number": told["number"], "from": len(content)}).encode())
        if not piece:
            raise ValueError("the trace breaks off: another one was made meanwhile")
        content += piece
    return bytes(content), told["report"]
