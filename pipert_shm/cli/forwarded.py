"""What agents answer for the command line of other hosts: control, numbers, traces and pictures of their pipes."""

from __future__ import annotations

import time
from typing import Any

from pipert_shm.agents.agent import name_of_pipe
from pipert_shm.agents.asking import Handler, Question
from pipert_shm.agents.names import pipe_on
from pipert_shm.cli.by_name import notify, statistics_of
from pipert_shm.errors import RemoteRefusal, UnknownTarget

LONGEST_S = 60.0  # of a look or a trace


def handlers(host: str) -> dict[str, Handler]:
    """Who answers which kind of question on a host."""

    def on_notify(question: Question) -> tuple[Any, bytes]:
        return notify(name_of_pipe(question, host), question["event"], question["routine"], question["arguments"]), b""

    def on_statistics(question: Question) -> tuple[Any, bytes]:
        return statistics_of(name_of_pipe(question, host)), b""

    def on_top(question: Question) -> tuple[Any, bytes]:
        return _top(host, question.get("pipe"), _seconds(question)), b""

    def on_why(question: Question) -> tuple[Any, bytes]:
        from pipert_shm.cli.why import examine

        return examine(name_of_pipe(question, host), _seconds(question)), b""

    def on_trace(question: Question) -> tuple[Any, bytes]:
        from pipert_shm.cli.trace import trace_by_name

        content, report = trace_by_name(name_of_pipe(question, host), _seconds(question))
        return report, content

    return {"notify": on_notify, "statistics": on_statistics, "top": on_top, "why": on_why, "trace": on_trace}


def _seconds(question: Question) -> float:
    seconds = float(question["seconds"])
    if not 0 < seconds <= LONGEST_S:
        raise RemoteRefusal(f"it looks for {LONGEST_S:.0f} s at most, not for {seconds:g}")
    return seconds


def _top(host: str, pipe: str | None, seconds: float) -> dict[str, Any]:
    """What `pipert-shm top` shows of the agent's pipes on this host."""
    from pipert_shm.cli.top import compare, look

    wanted = None if pipe is None else pipe_on(pipe, host)

    def ours() -> Any:
        return {pipe_id: its for pipe_id, its in look().items() if its.name.endswith(f"@{host}") and wanted in (None, its.name)}

    before = ours()
    if wanted is not None and not before:
        raise UnknownTarget("pipe", wanted, [its.name for its in look().values()])
    time.sleep(seconds)
    return compare(ours(), before)
