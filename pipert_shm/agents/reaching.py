"""How programs and the command line reach a hub: by options, by a text, or by the environment variable PIPERT_HUB."""

from __future__ import annotations

import os
from pathlib import Path

from pipert_shm.agents.names import HUB_VARIABLE
from pipert_shm.agents.splitting import hub_in
from pipert_shm.errors import HostsError
from pipert_shm.hosts.session import Hub
from pipert_shm.pipeline_file.reader import YamlFile


def hub_of(
    connect: str | None = None,
    *,
    listen: str | None = None,
    ca: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    host: str | None = None,
) -> Hub:
    """What options say.

    :raises HostsError: when they don't fit together.
    """
    try:
        return Hub(connect, listen, ca, certificate, key, host)
    except ValueError as error:
        raise HostsError(str(error)) from None


def hub_from(source: str | None = None) -> Hub:
    """The hub that a text names: an address (`tcp/HOST:PORT`), or a pipeline's file whose section `hosts` says it.

    :param source: the text; by default the environment variable PIPERT_HUB.
    :raises HostsError: when there is none, or it does not fit.
    :raises ConfigError: when the file has faults.
    """
    source = source or os.environ.get(HUB_VARIABLE)
    if not source:
        raise HostsError(f"say which hub: tcp/HOST:PORT, or FILE.yaml with a section `hosts`, by --hub, or in {HUB_VARIABLE}")
    if source.startswith(("tcp/", "tls/")):
        return hub_of(source)
    return hub_in(YamlFile(Path(source)))
