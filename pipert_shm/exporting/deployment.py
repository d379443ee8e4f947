"""What has to run for a pipeline's file on several hosts: a hub, an agent for each host, and who applies the file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipert_shm.agents.placing import Shares, place
from pipert_shm.agents.splitting import Part, reachable, split, written
from pipert_shm.errors import ConfigError
from pipert_shm.graph.needs import needs_of
from pipert_shm.hosts.access import is_host_name
from pipert_shm.hosts.authority import Authority
from pipert_shm.hosts.session import Hub
from pipert_shm.launcher.footprint import control_bytes
from pipert_shm.pipeline_file.loading import ACROSS_HOSTS, PipelineFile
from pipert_shm.pipeline_file.text import yaml_of
from pipert_shm.shm.needs import Needs, Ring

SPARE_S = 10  # that a service has to end, beyond the grace period of its pipe
PROCESSES = 512 << 20  # bytes of memory that the processes of a host take at least
HUB = "hub"  # its folder of files
INVITATION = "/run/pipert"  # where a host finds its invitation


@dataclass(frozen=True, slots=True)
class Host:
    """A host that an agent runs on.

    Attributes:
        shm: bytes that its /dev/shm needs.
        memory: bytes of memory that it needs at least; what lies in /dev/shm counts, too.
    """

    name: str
    labels: Mapping[str, str]
    shm: int

    @property
    def memory(self) -> int:
        """Bytes of memory."""
        return self.shm + PROCESSES


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is to run.

    Attributes:
        name: of the pipe.
        text: the pipeline's file, with the invitation of the host that it is applied from.
        hub: name of the hub, as hosts reach it; port: its port.
        hosts: those with an agent.
        applier: the host that the file is applied from, and the flows without `host:` run on.
        runs_here: whether there are such flows.
        stop: seconds that each of them has to end.
        files: of the hub and of each host, by their paths: `hub/…`, `NAME/…`. None without TLS.
        assumed: routines whose frames' size could only be assumed.
    """

    name: str
    text: str
    hub: str
    port: int
    hosts: tuple[Host, ...]
    applier: Host
    runs_here: bool
    stop: int
    files: Mapping[str, bytes]
    assumed: tuple[str, ...]

    @property
    def has_tls(self) -> bool:
        """Whether hosts are known by certificates."""
        return bool(self.files)

    def files_of(self, host: str) -> dict[str, bytes]:
        """The files of the hub (`hub`) or of a host, by their names."""
        return {path.partition("/")[2]: data for path, data in self.files.items() if path.partition("/")[0] == host}

    def hub_command(self, folder: str = INVITATION) -> list[str]:
        """Arguments of `pipert-shm` for the hub."""
        return ["hub", "--dir", folder] if self.has_tls else ["hub", "--listen", f"tcp/0.0.0.0:{self.port}"]

    def agent_command(self, host: Host, invitation: str = INVITATION) -> list[str]:
        """Arguments of `pipert-shm` for an agent."""
        labels = [word for key, value in host.labels.items() for word in ("--label", f"{key}={value}")]
        way = [invitation] if self.has_tls else ["--name", host.name, "--hub", f"tcp/{self.hub}:{self.port}"]
        return ["agent", *way, *labels]


def deployment_of(path: Path, authority: Path | None, invitation: str = INVITATION) -> Deployment:
    """Works out what has to run for a pipeline's file with a section `hosts`. Files and cameras that it reads are looked at.

    :param authority: folder of `pipert-shm hub init`. Hosts of the file that were not invited yet are.
    :param invitation: folder in which a host has its invitation; `{}` stands for the host.
    :raises ConfigError: when the file has faults, or is for one host.
    :raises HostsError: when the hub is reached by TLS, and there is no authority.
    """
    file = PipelineFile(path)
    settings = file.settings.hosts
    if settings is None:
        raise ConfigError([file.fault((), "it has no section `hosts`: it is for one machine; see examples/deploy")])
    kind, name, port = _hub_of(file, settings.hub)
    hosts = _hosts_of(file)
    here = settings.name or file.pipe_name
    if HUB in hosts:
        raise ConfigError([file.fault(("flows",), f"no host can be called {HUB!r} here, as the hub is")])
    if here in (HUB, *hosts) or not is_host_name(here):
        raise ConfigError([file.fault(("hosts",), "say hosts.name: what the host is called that the file is applied from")])
    placement = {flow: place(its.host, its.replicas, hosts, here, file.pipe_name) for flow, its in file.settings.flows.items()}
    parts = split(file, placement, here)
    needs = _Needs(file, placement)
    sized = {host: needs.of(parts[host]) if host in parts else Needs((), 0) for host in (*hosts, here)}
    files = _files(file, Authority(authority or Path("pipert-hub")), [*hosts, here], here) if kind == "tls" else {}
    data = {**file.data, "hosts": {"hub": settings.hub, "name": here}}
    if files:
        folder = invitation.format(here)
        names = {"ca": "ca.pem", "certificate": "certificate.pem", "key": "key.pem"}
        data["hosts"] |= {setting: f"{folder}/{name}" for setting, name in names.items()}
    data["pipe"] = {**data.get("pipe", {}), "name": file.pipe_name}
    assumed = {ring.routine for its in sized.values() for ring in its.rings if ring.sure == "assumed"}
    return Deployment(
        name=file.pipe_name,
        text=yaml_of(data),
        hub=name,
        port=port,
        hosts=tuple(Host(host, labels, sized[host].shm_size) for host, labels in hosts.items()),
        applier=Host(here, {}, sized[here].shm_size),
        runs_here=here in parts,
        stop=math.ceil(file.settings.pipe.grace_period) + SPARE_S,
        files=files,
        assumed=tuple(sorted(assumed)),
    )


def _hub_of(file: PipelineFile, address: str) -> tuple[str, str, int]:
    found = re.fullmatch(r"(tcp|tls)/(.+):(\d+)", address)
    kind, name, port = found.groups() if found else ("", "", "0")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) or not re.search("[a-z]", name) or name == "localhost":
        raise ConfigError([file.fault(("hosts", "hub"), "it is tls/NAME:PORT, a name that all hosts know it by")])
    return kind, name, int(port)


def _hosts_of(file: PipelineFile) -> dict[str, dict[str, str]]:
    """The hosts that need an agent, with their labels. For labels as many as a flow has replicas."""
    hosts: dict[str, dict[str, str]] = {}
    for flow in file.settings.flows.values():
        if isinstance(flow.host, str):
            hosts[flow.host] = {}
        elif flow.host is not None:
            words = "-".join(re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-") for key in sorted(flow.host))
            hosts |= {f"{words}-{number}": dict(flow.host) for number in range(1, flow.replicas + 1)}
    return dict(sorted(hosts.items()))


# ---- memory --------------------------------------------------------------------------------------


class _Needs:
    """How much of /dev/shm parts of a file take. A frame is as large on every host, so the whole file is looked at first."""

    def __init__(self, file: PipelineFile, placement: Mapping[str, Shares]) -> None:
        self._file = file
        data = {key: value for key, value in file.data.items() if key != "hosts"}
        data["flows"] = {name: _without(its, "host") for name, its in data["flows"].items()}
        data["wires"] = [_without(its, *ACROSS_HOSTS) for its in data["wires"]]
        self._whole = {ring.routine: ring for ring in _needs(file.path, written(data)).rings if ring.holds == "frames"}

    def of(self, part: Part) -> Needs:
        text = reachable(part.text, part.remotes, Hub(connect="tcp/hub:1"))
        needs = _needs(self._file.path, text, look=False)
        wires = zip(part.data["wires"], part.wires, strict=True)
        sources = {wire["source"]: self._file.settings.wires[number].source for wire, number in wires}
        return needs.replaced(rings=tuple(self._sized(ring, sources) for ring in needs.rings))

    def _sized(self, ring: Ring, sources: Mapping[str, str]) -> Ring:
        """:param sources: what senders of wires are in the whole file, such as the camera in place of a receiver."""
        whole = self._whole.get(sources.get(ring.routine, ring.routine)) if ring.holds == "frames" else None
        return ring if whole is None else replace(ring, slot_bytes=whole.slot_bytes, sure=whole.sure)


def _needs(path: Path, text: str, *, look: bool = True) -> Needs:
    pipe = PipelineFile(path, text).make_pipe()
    plan = pipe._plan()
    return needs_of(plan, control_bytes(plan, pipe.name), look=look)


def _without(settings: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


# ---- certificates --------------------------------------------------------------------------------


def _files(file: PipelineFile, authority: Authority, hosts: list[str], operator: str) -> dict[str, bytes]:
    """The files of the hub, without the key of the authority, and those of each host, who is invited where it was not."""
    settings = file.settings.hosts
    assert settings is not None
    if authority.hub != settings.hub:
        raise ConfigError([file.fault(("hosts", "hub"), f"the authority in {authority.folder} is of the hub {authority.hub}")])
    files: dict[str, bytes] = {}
    for host in hosts:
        folder = authority.folder_of(host)
        if not folder.exists():
            authority.invite(host, is_operator=host == operator)
        elif host == operator and not any(one.name == host and one.is_operator for one in authority.hosts):
            text = (
                f"the file is applied from {host!r}, which is no operator: `pipert-shm hub invite {host} --operator --replace`"
            )
            raise ConfigError([file.fault(("hosts",), text)])
        files |= {f"{host}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
    names = ("ca.pem", "hub.pem", "hub.key", authority.hosts_file.name)
    return files | {f"hub/{name}": (authority.folder / name).read_bytes() for name in names}
