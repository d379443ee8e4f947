"""A pipeline's file for several hosts becomes a file for each of them. It computes, and asks nobody.

Each part is an ordinary pipeline. Where a wire crosses hosts, its source is wired to a `RemoteSender` on its own host, and on
the other host a `RemoteReceiver` is wired to the destinations. Both are in flows of their own, so the flows of the file are
what they would be on one host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from pipert_shm.agents.names import pipe_on
from pipert_shm.agents.placing import Shares, numbers_of
from pipert_shm.errors import ConfigError, Fault
from pipert_shm.hosts.session import Hub
from pipert_shm.limits import FILM_CODECS, Policy
from pipert_shm.pipeline_file.loading import ACROSS_HOSTS, PipelineFile
from pipert_shm.pipeline_file.objects import told_of_setting
from pipert_shm.pipeline_file.reader import Where, YamlFile, listed
from pipert_shm.pipeline_file.schema import HostsSettings, WireSettings

SENDER, RECEIVER, SHARE, SHARED_SENDER = (
    f"pipert_shm.hosts.{name}" for name in ("RemoteSender", "RemoteReceiver", "Share", "SharedSender")
)
ACROSS: tuple[Policy, ...] = ("drop_oldest", "block")  # policies that a wire between hosts may have
_OF_WIRES = ("policy", "capacity", "timeout", "max_age", "data_transmitter")
Group = tuple[str, str, list[str]]  # a host; a flow, if its replicas are spread over several hosts; its routines
_PART = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


@dataclass(slots=True)
class Part:
    """What runs on one host.

    Attributes:
        host: its name.
        data: the pipeline, as a file has it.
        remotes: the routines that send to other hosts or receive from them. They lack the way to the hub, which differs.
        wires: of each wire, the number that it has in the whole file.
    """

    host: str
    data: dict[str, Any]
    remotes: list[str] = field(default_factory=list)
    wires: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The pipeline as a text."""
        return written(self.data)

    def place_of(self, name: str) -> Where:
        """The field of the whole file that a field of the part comes from.

        :param name: as a fault has it, such as `wires[0].policy`.
        """
        parts: list[str | int] = [int(number) if number else word for word, number in _PART.findall(name)]
        if len(parts) > 1 and parts[0] == "wires" and isinstance(parts[1], int):
            return ("wires", self.wires[parts[1]], *parts[2:]) if parts[1] < len(self.wires) else ("wires",)
        elif len(parts) > 1 and parts[0] in ("routines", "flows") and isinstance(parts[1], str) and "@" in parts[1]:
            return ("wires",)  # what was put in for one
        return tuple(parts)


def written(data: Any) -> str:
    """A text that reads as these values."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = False, 120
    text = StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def reachable(text: str, remotes: list[str], hub: Hub) -> str:
    """The text of a part, with the way to the hub in each routine that needs it."""
    data = YAML(typ="safe", pure=True).load(text)
    way = {"connect": hub.connect, "ca": hub.ca, "certificate": hub.certificate, "key_file": hub.key}
    for name in remotes:
        data["routines"][name]["parameters"] |= {key: value for key, value in way.items() if value is not None}
    return written(data)


def hub_in(file: YamlFile) -> Hub:
    """The way to the hub that a file's section `hosts` says. The rest of the file is not looked at.

    :raises ConfigError: when it has no such section, or that does not fit.
    """
    section = file.data.get("hosts") if isinstance(file.data, dict) else None
    if section is None:
        raise ConfigError([file.fault((), "it has no section `hosts`, which says how to reach the hub")])
    try:
        settings = HostsSettings.model_validate(section)
    except ValidationError as error:
        known = list(HostsSettings.model_fields)
        raise ConfigError(
            [
                file.fault(("hosts", *(part for part in fault["loc"])), told_of_setting(dict(fault), known))
                for fault in error.errors()
            ]
        ) from None
    return hub_by(settings, lambda where, text: file.fault(where, text))


def hub_by(settings: HostsSettings, fault: Any) -> Hub:
    """The way to the hub by the settings.

    :param fault: makes a fault of a field and a text.
    :raises ConfigError: when they don't fit together.
    """
    try:
        return Hub(settings.hub, None, settings.ca, settings.certificate, settings.key)
    except ValueError as error:
        raise ConfigError([fault(("hosts",), str(error))]) from None


def split(file: PipelineFile, placement: Mapping[str, Shares], here: str) -> dict[str, Part]:
    """The parts of a file, by host.

    :param placement: where each flow runs, as `place` says it.
    :param here: the host whose part is an ordinary pipe of the file's own name. The others' are called `PIPE@HOST`.
    :raises ConfigError: when a wire can't cross hosts as it is, or names collide. It lists every fault.
    """
    splitter = _Splitter(file, placement, here)
    splitter.place_flows()
    for number in range(len(file.settings.wires)):
        splitter.place_wire(number)
    if splitter.faults:
        raise ConfigError(sorted(splitter.faults, key=lambda fault: fault.line))
    return splitter.parts


def _key_of(*names: str) -> str:
    """The key of a wire. No two lists of names have the same, so a dot in a name is another character there.

    >>> _key_of("edge-1", "yard", "camera", "gpu", "detector"), _key_of("a", "b.c"), _key_of("a.b", "c")
    ('edge-1.yard.camera.gpu.detector', 'a.b%2Ec', 'a%2Eb.c')
    """
    return ".".join(name.replace("%", "%25").replace(".", "%2E") for name in names)


class _Splitter:
    """One division of a file."""

    def __init__(self, file: PipelineFile, placement: Mapping[str, Shares], here: str) -> None:
        self._file, self._placement, self._here = file, placement, here
        self._settings = file.settings
        self._flow_of = {routine: name for name, flow in file.settings.flows.items() for routine in flow.routines}
        self.faults: list[Fault] = []
        hosts = sorted({host for shares in placement.values() for host in shares})
        self.parts = {host: Part(host, self._frame(host)) for host in hosts}

    def _fault(self, where: Where, message: str) -> None:
        self.faults.append(self._file.fault(where, message))

    def _frame(self, host: str) -> dict[str, Any]:
        """A part without routines, flows and wires."""
        data, pipe = self._file.data, self._file.pipe_name
        name = pipe if host == self._here else pipe_on(pipe, host)
        frame: dict[str, Any] = {"pipe": {**data.get("pipe", {}), "name": name}}
        if "logging" in data:
            frame["logging"] = dict(data["logging"])
            if "levels" in frame["logging"]:
                levels = frame["logging"]["levels"].items()
                frame["logging"]["levels"] = {
                    name + logger[len(pipe) :] if logger.split(".")[0] == pipe else logger: level for logger, level in levels
                }
        if "api" in data and host == self._here:
            frame["api"] = data["api"]
        return {**frame, "routines": {}, "flows": {}, "wires": []}

    # ---- flows -----------------------------------------------------------------------------------

    def place_flows(self) -> None:
        """Puts each flow where it belongs."""
        for name, settings in self._settings.flows.items():
            shares = self._placement[name]
            if len(shares) > 1 and settings.ordered:
                self._fault(
                    ("flows", name, "ordered"),
                    f"replicas on several hosts ({', '.join(shares)}) can't be ordered; name one host",
                )
            raw = {key: value for key, value in self._file.data["flows"][name].items() if key != "host"}
            for host, count in shares.items():
                part = self.parts[host].data
                part["flows"][name] = {**raw, "replicas": count} if settings.replicas > 1 else raw
                part["routines"] |= {routine: self._file.data["routines"][routine] for routine in settings.routines}

    def _add(self, host: str, number: int, name: str, *routines: tuple[str, str, dict[str, Any]]) -> None:
        """Puts routines into a flow of their own.

        :param number: of the wire that they are for.
        :param routines: name, class and parameters of each. They are wired to each other.
        """
        part = self.parts[host].data
        for routine, kind, parameters in routines:
            if routine in self._settings.routines or routine in part["routines"]:
                self._fault(
                    ("wires", number), f"a routine that it needs between hosts is called {routine!r}, as another one is"
                )
            part["routines"][routine] = {"class": kind, "parameters": parameters}
        if name in self._settings.flows:
            self._fault(("wires", number), f"a flow that it needs between hosts is called {name!r}, as another one is")
        part["flows"][name] = {"routines": [routine for routine, _, _ in routines], "auto_wire": len(routines) > 1}

    # ---- wires -----------------------------------------------------------------------------------

    def place_wire(self, number: int) -> None:
        """Makes what a wire of the file takes: wires within hosts, and ends of wires between them."""
        wire = self._settings.wires[number]
        crosses = False
        for host in self._placement[self._flow_of[wire.source]]:
            near: list[str] = []
            groups = list(self._groups(wire, host))
            spread = self._spread(groups, host)
            for flow, group in spread.items():
                crosses = True
                self._cross_shared(number, host, {there: names for there, its, names in group if its == flow})
            for there, flow, destinations in [one for one in groups if one[1] not in spread]:
                share = self._share(flow, there)
                if there != host:
                    crosses = True
                    self._cross(number, host, there, destinations, share)
                elif share:
                    name = f"{wire.source}-to-{destinations[0]}@{host}"
                    self._add(host, number, name, (name, SHARE, share))
                    self._wire(host, number, wire.source, [name])
                    self._wire(host, number, name, destinations)
                else:
                    near += destinations
            if near:
                self._wire(host, number, wire.source, near)
        if crosses:
            self._check(number, wire)

    def _groups(self, wire: WireSettings, host: str) -> Iterator[Group]:
        """To which hosts a wire goes: each with the destinations, and their flow if its replicas are spread."""
        groups: dict[tuple[str, str], list[str]] = {}
        own = self._flow_of[wire.source]
        for destination in wire.destinations:
            flow = self._flow_of[destination]
            if flow == own:  # within one process
                groups.setdefault((host, ""), []).append(destination)
                continue
            shares = self._placement[flow]
            for there in shares:
                groups.setdefault((there, flow if len(shares) > 1 else ""), []).append(destination)
        for (there, flow), destinations in groups.items():
            yield there, flow, destinations

    @staticmethod
    def _spread(groups: list[Group], host: str) -> dict[str, list[Group]]:
        """The flows whose replicas are spread over other hosts only: each message goes to the one that has least to do.

        Where this host has some, too, it gets its share by number, since it gives no credit.
        """
        near = {flow for there, flow, _ in groups if there == host}
        return {flow: [one for one in groups if one[1] == flow] for _, flow, _ in groups if flow and flow not in near}

    def _share(self, flow: str, host: str) -> dict[str, Any]:
        """The parameters of the `Share` before a host's replicas; none where all messages go there."""
        if not flow:
            return {}
        numbers = numbers_of(self._placement[flow])
        return {"of": sum(map(len, numbers.values())), "numbers": numbers[host]}

    def _wire(self, host: str, number: int, source: str, destinations: list[str]) -> None:
        raw = self._file.data["wires"][number]
        options = {key: raw[key] for key in _OF_WIRES if key in raw}
        part = self.parts[host]
        part.data["wires"].append({"source": source, "destinations": destinations, **options})
        part.wires.append(number)

    def _cross_shared(self, number: int, host: str, groups: dict[str, list[str]]) -> None:
        """Makes the ends of a wire to several hosts, each message of which goes to one of them."""
        first = next(iter(groups.values()))[0]
        source = self._settings.wires[number].source
        name = f"{source}-to-{first}@{'+'.join(groups)}"
        ends = []
        for there, destinations in groups.items():
            sending = self._receive(number, host, there, destinations)
            ends.append({"key": sending.pop("key"), "peer": sending.pop("peer")})
        self._add(host, number, name, (name, SHARED_SENDER, {**sending, "ends": ends}))
        self.parts[host].data["flows"][name]["replicas"] = len(ends)
        self._wire(host, number, source, [name])
        self.parts[host].remotes.append(name)

    def _cross(self, number: int, host: str, there: str, destinations: list[str], share: dict[str, Any]) -> None:
        """Makes both ends of a wire between two hosts."""
        wire, first = self._settings.wires[number], destinations[0]
        sending = self._receive(number, host, there, destinations)
        sender = f"{wire.source}-to-{first}@{there}"
        if share:
            shared = f"{sender}-share"
            self._add(host, number, sender, (shared, SHARE, share), (sender, SENDER, sending))
            self._wire(host, number, wire.source, [shared])
        else:
            self._add(host, number, sender, (sender, SENDER, sending))
            self._wire(host, number, wire.source, [sender])
        self.parts[host].remotes.append(sender)

    def _receive(self, number: int, host: str, there: str, destinations: list[str]) -> dict[str, Any]:
        """Makes the receiving end of a wire between two hosts; the parameters of the sending one."""
        wire, first = self._settings.wires[number], destinations[0]
        key = _key_of(host, self._file.pipe_name, wire.source, there, first)
        ends = {"key": key} | ({} if wire.max_age is None else {"max_age": wire.max_age})
        sending: dict[str, Any] = {**ends, "host": host, "peer": there, "policy": self._policy(wire)}
        sending |= {name: value for name in ACROSS_HOSTS if (value := getattr(wire, name)) is not None}
        receiver = f"{first}-from-{wire.source}@{host}"
        self._add(there, number, receiver, (receiver, RECEIVER, {**ends, "host": there, "peer": host}))
        self._wire(there, number, receiver, destinations)
        self.parts[there].remotes.append(receiver)
        return sending

    def _policy(self, wire: WireSettings) -> str:
        return wire.policy or self._settings.pipe.policy or "drop_oldest"

    def _check(self, number: int, wire: WireSettings) -> None:
        """Notes what can't be said of a wire between hosts."""
        policy = self._policy(wire)
        if policy not in ACROSS:
            self._fault(("wires", number, "policy"), f"between hosts it is drop_oldest or block, not {policy}")
        if wire.codec is None:
            return
        from pipert_shm.hosts.payloads import CODECS  # with OpenCV

        if wire.codec not in CODECS:
            self._fault(
                ("wires", number, "codec"), f"there is no codec {wire.codec!r}; {listed('there are', CODECS, wire.codec)}"
            )
        if wire.bit_rate is not None and (wire.codec or "none") not in FILM_CODECS:
            of = f"is for codec {', '.join(FILM_CODECS)}; this wire's is {wire.codec or 'none'}"
            self._fault(("wires", number, "bit_rate"), of)
