"""Which flow runs on which hosts. It computes, and asks nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

Labels = Mapping[str, str]
Shares = dict[str, int]  # how many replicas of a flow run on each host


def place(wanted: str | Labels | None, replicas: int, hosts: Mapping[str, Labels], here: str, pipe: str) -> Shares:
    """Where a flow runs, and how many of its replicas.

    The same labels choose the same hosts for all flows of a pipe, so that frames between them stay on one host. Another pipe
    may get other hosts. Replicas are spread over those that have the labels. Which host is chosen hangs on the names alone, not
    on the order in which hosts appear, and it changes for few flows when a host comes or goes (rendezvous hashing).

    :param wanted: a host's name, or the labels that it has to have; None: here.
    :param hosts: the labels of the hosts that are known.
    :raises LookupError: when no host has the labels.

    >>> hosts = {"a": {"gpu": "true"}, "b": {"gpu": "true"}, "c": {}}
    >>> place("c", 2, hosts, "me", "yard"), place(None, 1, hosts, "me", "yard")
    ({'c': 2}, {'me': 1})
    >>> sorted(place({"gpu": "true"}, 3, hosts, "me", "yard").values())
    [1, 2]
    """
    if wanted is None:
        return {here: replicas}
    if isinstance(wanted, str):
        return {wanted: replicas}
    fitting = [name for name, labels in hosts.items() if wanted.items() <= labels.items()]
    if not fitting:
        raise LookupError(f"no host that can be reached has the labels {_told(wanted)}; there are: {_all_told(hosts)}")
    ranked = sorted(fitting, key=lambda name: _weight(pipe, wanted, name), reverse=True)[:replicas]
    return {name: replicas // len(ranked) + (number < replicas % len(ranked)) for number, name in enumerate(ranked)}


def numbers_of(shares: Shares) -> dict[str, list[int]]:
    """The numbers of the replicas on each host, counted over all of them.

    >>> numbers_of({"a": 2, "b": 1})
    {'a': [0, 1], 'b': [2]}
    """
    numbers, first = {}, 0
    for host, count in shares.items():
        numbers[host] = list(range(first, first + count))
        first += count
    return numbers


def _weight(pipe: str, wanted: Labels, host: str) -> bytes:
    words = [pipe, *(f"{key}={value}" for key, value in sorted(wanted.items())), host]
    return hashlib.sha256("\0".join(words).encode()).digest()


def _told(labels: Labels) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items()) or "no labels"


def _all_told(hosts: Mapping[str, Labels]) -> str:
    told: Iterable[str] = (f"{name} ({_told(labels)})" for name, labels in sorted(hosts.items()))
    return "; ".join(told) or "none"
