"""What agents answer for the command line of other hosts: control, numbers, traces and pictures of their pipes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipert_shm.agents import looked_at
from pipert_shm.agents.agent import Agent
from pipert_shm.agents.asking import Handler, Question
from pipert_shm.cli.by_name import notify, statistics_of
from pipert_shm.errors import RemoteRefusal

LONGEST_S = 60.0  # of a look or a trace
IDLE_S = 10.0  # after which nobody looks at a routine any more


def handlers(agent: Agent) -> Mapping[str, Handler]:
    """Who answers which kind of question."""

    def on_notify(question: Question) -> tuple[Any, bytes]:
        whom = question["routine"], question["arguments"], question.get("flow_routines")
        return notify(agent.pipe_id(question), question["event"], *whom), b""

    def on_statistics(question: Question) -> tuple[Any, bytes]:
        return statistics_of(agent.pipe_id(question)), b""

    def on_top(question: Question) -> tuple[Any, bytes]:
        return _top(agent, _seconds(question)), b""

    def on_why(question: Question) -> tuple[Any, bytes]:
        from pipert_shm.cli.why import examine

        return examine(agent.pipe_id(question), _seconds(question)), b""

    def on_trace(question: Question) -> tuple[Any, bytes]:
        from pipert_shm.cli.trace import trace_by_name

        content, report = trace_by_name(agent.pipe_id(question), _seconds(question))
        return report, content

    lookers = _Lookers(agent)
    return {
        **looked_at.handlers(agent),
        "notify": on_notify,
        "statistics": on_statistics,
        "top": on_top,
        "why": on_why,
        "trace": on_trace,
        "picture": lookers.answer,
    }


def _seconds(question: Question) -> float:
    seconds = float(question["seconds"])
    if not 0 < seconds <= LONGEST_S:
        raise RemoteRefusal(f"it looks for {LONGEST_S:.0f} s at most, not for {seconds:g}")
    return seconds


def _top(agent: Agent, seconds: float) -> dict[str, Any]:
    """What `pipert-shm top` shows of the agent's pipes."""
    from pipert_shm.cli.top import Look, compare, look

    def ours() -> dict[str, Look]:
        known = agent.pipe_ids()
        return {pipe_id: its for pipe_id, its in look().items() if pipe_id in known}

    before = ours()
    time.sleep(seconds)
    return compare(ours(), before)


# ---- pictures ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Looker:
    """A tap of one routine, for as long as somebody asks for its pictures."""

    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    views: Any = None
    timer: threading.Timer | None = None


class _Lookers:
    """The routines that somebody of another host looks at."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._lock = threading.Lock()
        self._lookers: dict[tuple[str, str], _Looker] = {}

    def answer(self, question: Question) -> tuple[Any, bytes]:
        """The next picture of a routine: its name, and a JPEG; none where none came, and `ended` at the end.

        :raises PipertError: when it can't be looked at.
        """
        from pipert_shm.cli.view import Pictures

        key = self._agent.pipe_id(question), str(question["routine"])
        with self._lock:
            looker = self._lookers.setdefault(key, _Looker())
        with looker.one_at_a_time:
            if looker.timer is not None:
                looker.timer.cancel()
            if looker.views is None:
                looker.views = Pictures(*key)
            try:
                body = looker.views.next_encoded()
            except StopIteration:
                self._end(key)
                return {"name": looker.views.name, "ended": True}, b""
            except BaseException:
                self._end(key)
                raise
            looker.timer = threading.Timer(IDLE_S, self._end, (key,))
            looker.timer.daemon = True
            looker.timer.start()
            return {"name": looker.views.name, "ended": False}, body

    def _end(self, key: tuple[str, str]) -> None:
        with self._lock:
            looker = self._lookers.pop(key, None)
        if looker is not None and looker.views is not None:
            looker.views.close()
