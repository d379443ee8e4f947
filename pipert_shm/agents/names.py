"""Names of hosts and of pipes on them, and the keys under which agents are found and asked."""

from __future__ import annotations

import importlib
import re

ROOT = "pipert_shm/hosts"
EVERY = "*"  # in place of a host: all of them
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62})")


def version() -> str:
    """The version of this package."""
    return str(importlib.import_module("pipert_shm").__version__)  # by its name, since that stands above this module


def check_host(name: str) -> str:
    """The name of a host.

    :raises ValueError: when a host can't be called so. It is part of keys, certificates and file names.

    >>> check_host("edge-1")
    'edge-1'
    >>> check_host("edge/1")
    Traceback (most recent call last):
    ValueError: a host can't be called 'edge/1': it may have 63 letters, digits, '.', '_' and '-', a letter or digit first
    """
    if not _HOST.fullmatch(name):
        raise ValueError(
            f"a host can't be called {name!r}: it may have 63 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


def key_of_questions(host: str) -> str:
    """The key under which an agent is asked. `*` for all."""
    return f"{ROOT}/{host}/ask"


def key_of_token(host: str, life: str) -> str:
    """The key of the liveliness token of an agent.

    :param life: what tells this process from others; `*` for all.
    """
    return f"{ROOT}/{host}/alive/{life}"


def host_in(key: str) -> str:
    """The host that such a key is of."""
    return key.removeprefix(f"{ROOT}/").partition("/")[0]


def pipe_on(pipe: str, host: str) -> str:
    """The name of a pipe's part on a host, by which programs of that host attach to it, too.

    >>> pipe_on("yard", "edge-1")
    'yard@edge-1'
    """
    return f"{pipe}@{host}"


def divided(name: str) -> tuple[str, str] | None:
    """Pipe and host in `PIPE@HOST`; None where no host is named.

    >>> divided("yard@edge-1")
    ('yard', 'edge-1')
    >>> divided("yard")
    """
    pipe, at, host = name.rpartition("@")
    return (pipe, host) if at and pipe and (host == EVERY or _HOST.fullmatch(host)) else None
