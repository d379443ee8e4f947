"""A routine whose every hook does what a board says, once: raises, hangs, exits, forks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from pipert_shm import DataTransmitter, DestinationRoutine, EndOfStream, MiddleRoutine, SourceRoutine, events
from waiting import Board

DID, PINGED, TWICE, END, STRANGE = range(30, 35)
"""Cells: misdeeds done; what the last ping said; messages that came twice; whether to end; filters run in the wrong process."""
FIRST_HOOK = 0  # cell of the first hook: what it is asked to do, written by who plans
FIRST_MET = 40  # cell of the first hook: what it was asked to do when it last did it, written by who acts


class NoText(Exception):
    """It can't even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def _raise(error: BaseException) -> None:
    raise error


def _fork(then: Callable[[], object]) -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    else:
        then()


MISDEEDS: dict[str, Callable[[], object]] = {
    "raises": lambda: _raise(ValueError("on purpose")),
    "SystemExit": lambda: _raise(SystemExit(3)),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "no text": lambda: _raise(NoText()),
    "forks, and the child returns": lambda: _fork(lambda: None),
    "forks, and the child raises": lambda: _fork(lambda: _raise(ValueError("by the child, on purpose"))),
    "exits": lambda: os._exit(3),
    "hangs": lambda: time.sleep(1000),
    "nonsense": lambda: iter(lambda: 0, 1),
}
RAISING = ("raises", "SystemExit", "KeyboardInterrupt", "no text")
FORKING = ("forks, and the child returns", "forks, and the child raises")
HOOKS = (
    "main_logic", "setup", "cleanup", "custom handler", "start handler", "stop handler", "payload __reduce__",
    "payload __setstate__", "payload __del__", "transmit", "receive", "extra __reduce__", "extra __setstate__",
    "message __str__", "parameter __reduce__", "parameter __setstate__", "kill handler", "log handler", "log filter",
    "log formatter", "flow filter",
)  # fmt: skip


class Will:
    """What is to be done where; everyone shares it."""

    def __init__(self) -> None:
        self.board = Board(64)
        self.plans = 0

    def plan(self, hook: str, misdeed: str) -> None:
        self.plans += 1  # so it differs from what was last asked
        self.board[FIRST_HOOK + HOOKS.index(hook)] = self.plans * 100 + list(MISDEEDS).index(misdeed)

    def forget(self) -> None:
        for cell in range(64):
            self.board[cell] = 0

    def act(self, hook: str) -> Any:
        asked, met = self.board[FIRST_HOOK + HOOKS.index(hook)], FIRST_MET + HOOKS.index(hook)
        if asked != self.board[met]:
            self.board[met] = asked
            self.board.add(DID)
            return list(MISDEEDS.values())[asked % 100]()
        return None

    @property
    def done(self) -> int:
        return self.board[DID]


WILL = Will()


class Payload:
    """Acts when it is packed, unpacked, and let go of."""

    is_received = False

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        WILL.act("payload __reduce__")
        return Payload, (), self.number

    def __setstate__(self, number: int) -> None:
        self.is_received = True
        WILL.act("payload __setstate__")
        self.number = number

    def __del__(self) -> None:
        if not self.is_received:  # the sender's: else both might act at once
            WILL.act("payload __del__")


class Extra:
    """A field of a log record, or an event's parameter."""

    def __init__(self, kind: str = "extra") -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        WILL.act(f"{self.kind} __reduce__")
        return Extra, (self.kind,), self.kind

    def __setstate__(self, kind: str) -> None:
        WILL.act(f"{self.kind} __setstate__")


class Text:
    """What is logged."""

    def __str__(self) -> str:
        WILL.act("message __str__")
        return "logged"


class Acting(DataTransmitter):
    def transmit(self) -> Callable[[Any], Any]:
        def send(data: Any) -> Any:
            return WILL.act("transmit") or data

        return send

    def receive(self) -> Callable[[Any], Any]:
        def take(data: Any) -> Any:
            return WILL.act("receive") or data

        return take


class Numbers(SourceRoutine):
    def main_logic(self) -> int:
        if WILL.board[END]:
            raise EndOfStream
        return self.meta.sequence


class Acts(MiddleRoutine):
    """The one that misbehaves."""

    def setup(self) -> None:
        WILL.act("setup")

    def main_logic(self, data: int) -> Any:
        return WILL.act("main_logic") or Payload(data)

    def cleanup(self) -> None:
        WILL.act("cleanup")

    @events("start")
    def at_start(self) -> None:
        WILL.act("start handler")

    @events("stop")
    def at_stop(self) -> None:
        WILL.act("stop handler")

    @events("kill")
    def at_kill(self) -> None:
        WILL.act("kill handler")

    @events("custom")
    def at_custom(self, number: int, parameter: Any = None) -> None:
        WILL.act("custom handler")
        WILL.board[PINGED] = number or WILL.board[PINGED]

    @events("say")
    def say(self) -> None:
        self._logger.error("%s", Text(), extra={"own": Extra()})

    @events("tell")
    def tell(self) -> None:
        self.notify_event("custom", specific_routine="acts", number=0, parameter=Extra("parameter"))


class Takes(DestinationRoutine):
    last = -1

    def main_logic(self, data: Any) -> None:
        number = data.number if isinstance(data, Payload) else self.last + 1
        if number <= self.last:
            WILL.board.add(TWICE)
        self.last = number
