"""Checks of settings. Each setting has one check, and so one error text, in calls, events and requests."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, Literal

from pipert_shm.errors import shown, suggestion

Policy = Literal["drop_oldest", "drop_newest", "block"]
POLICIES: tuple[Policy, ...] = ("drop_oldest", "drop_newest", "block")
LAST_PORT = 65_535
LARGEST_CAPACITY = 1 << 16
MOST_UNDER_WAY = 64  # messages between two hosts
LEAST_BIT_RATE = 10_000  # of a film between two hosts, bits a second
FILM_CODECS = ("h264", "h265", "auto")  # which have a bit rate
LONGEST_WAIT = 86_400.0  # seconds
SLOWEST_FPS = 1 / LONGEST_WAIT
FASTEST_FPS = 1e6


def is_number(value: Any) -> bool:
    """Whether the value is a real number; True, False and nan are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(value == value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether the value is a whole number and at least `least`; True is not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_queue(policy: Any, capacity: Any, timeout: Any) -> None:
    """Checks a queue's settings. One that is None is not given.

    :raises ValueError: when one of them is of a wrong type or out of range.
    """
    if policy is not None:
        check_choice("policy", policy, POLICIES)
    if capacity is not None and not (is_count(capacity) and capacity <= LARGEST_CAPACITY):
        raise ValueError(f"capacity must be a whole number from 1 to {LARGEST_CAPACITY} messages, not {shown(capacity)}")
    if timeout is not None:
        check_seconds("timeout", timeout, none="wait for ever")


def check_seconds(what: str, value: Any, *, positive: bool = False, none: str = "") -> None:
    """Checks a duration.

    :param positive: whether 0 is refused, too.
    :param none: what None means, for the error's text; empty where None can't be given.
    :raises ValueError: when it is not a number, or out of range.
    """
    if is_number(value) and 0 <= value <= LONGEST_WAIT and not (positive and value == 0):
        return
    least = "more than 0" if positive else "from 0"
    hint = f" (None: {none})" if none else ""
    raise ValueError(f"{what} must be a number of seconds, {least} to {LONGEST_WAIT:,.0f}{hint}, not {shown(value)}")


def check_choice(what: str, value: Any, choices: Collection[str]) -> None:
    """:raises ValueError: when the value is not one of the choices."""
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"unknown {what} {shown(value)}; there are: {', '.join(choices)}{suggestion(value, choices)}")


def check_flag(what: str, value: Any) -> None:
    """:raises TypeError: when the value is not True or False, or 1 or 0, which equal them."""
    if not (isinstance(value, Integral) or type(value).__name__ in ("bool", "bool_")) or value not in (0, 1):
        raise TypeError(f"{what} must be True or False, not {shown(value)}")


def check_port(port: Any) -> None:
    """:raises ValueError: when it is not the number of a TCP port; 0 means any free one."""
    if not (is_count(port, 0) and port <= LAST_PORT):
        raise ValueError(f"port must be a whole number from 0 (a free one) to {LAST_PORT}, not {shown(port)}")


def check_count(what: str, value: Any, least: int = 1) -> None:
    """:raises ValueError: when the value is not a whole number of at least `least`."""
    if not is_count(value, least):
        raise ValueError(f"{what} must be a whole number of at least {least}, not {shown(value)}")


def checked_fps(fps: Any) -> float:
    """The rate as a float.

    :raises ValueError: when it is not a number, or out of range.
    """
    if is_number(fps) and (fps == 0 or SLOWEST_FPS <= fps <= FASTEST_FPS):
        return float(fps)
    raise ValueError(
        f"fps must be 0 for no limit, or a number from 1/{LONGEST_WAIT:,.0f} (one call a day) to {FASTEST_FPS:,.0f}, "
        f"not {shown(fps)}"
    )
