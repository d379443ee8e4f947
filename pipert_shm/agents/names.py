"""Names of hosts and of pipes on them, and the keys under which agents are found and asked."""

from __future__ import annotations

import importlib

from pipert_shm.hosts.access import ALL, is_host_name, key_of

HUB_VARIABLE = "PIPERT_HUB"  # of the environment: how the command line reaches the hub
EVERY = "*"  # in place of a host: all of them


def version() -> str:
    """The version of this package."""
    return str(importlib.import_module("pipert_shm").__version__)  # by its name, since that stands above this module


def key_of_questions(asker: str, host: str) -> str:
    """The key under which a host asks an agent. `*` for any asker."""
    return key_of(asker, host, "ask")


def key_of_token(host: str, life: str) -> str:
    """The key of the liveliness token of an agent. `*` for any host.

    :param life: what tells this process from others; `*` for all.
    """
    return key_of(host, ALL, "alive", life)


def host_in(key: str) -> str:
    """The host whose token it is.

    >>> host_in(key_of_token("edge-1", "7"))
    'edge-1'
    """
    return key.split("/")[1]


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
    return (pipe, host) if at and pipe and (host == EVERY or is_host_name(host)) else None
