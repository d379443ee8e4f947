"""Brings what a file says to all hosts, or to none."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipert_shm.agents.asking import Answer, Asker
from pipert_shm.agents.code import ABSENT, differing, modules_in, sources_of
from pipert_shm.agents.names import version
from pipert_shm.agents.placing import Shares, place
from pipert_shm.agents.splitting import Part, hub_by, reachable, split
from pipert_shm.errors import ConfigError, Fault, HostsError
from pipert_shm.hosts.access import check_host_name
from pipert_shm.hosts.session import Hub
from pipert_shm.pipeline_file.loading import PipelineFile
from pipert_shm.pipeline_file.schema import HostsSettings

PREPARE_S = 330.0  # that a host may take to check its part
APPLY_S = 630.0  # that it may take to bring its pipe there, or back


@dataclass(slots=True)
class Rollout:
    """What was done at other hosts, or would be.

    Attributes:
        here: the part of the host where it was said; None if no flow runs there.
        changes: what each host has done or would do, a line each.
        missing: hosts that could not be reached, and have to be told later.
        leaving: hosts that the file no longer names. `finish` ends their parts.
        done: the revision that each host has now got.
    """

    pipe: str
    here: Part | None = None
    changes: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)


def name_of_here(settings: HostsSettings) -> str:
    """What this host is called: by its certificate, else by its settings, else by its own name.

    :raises ValueError: when a host can't be called so.
    :raises HostsError: when the certificate does not fit, or is another host's.
    """
    identity = Hub(settings.hub, None, settings.ca, settings.certificate, settings.key, settings.name).identify()
    if identity is not None:
        return identity.host
    return check_host_name(settings.name or socket.gethostname())


def roll_out(
    file: PipelineFile,
    asker: Asker,
    *,
    dry_run: bool = False,
    reachable_only: bool = False,
    take_over: bool = False,
    made_by: str | None = None,
    check_here: Callable[[Rollout], object] = lambda rollout: None,
) -> Rollout:
    """Has each host apply its part. If one fails, all are put back.

    Hosts whose agents run a part of this pipe, and that the file no longer names, go on until `finish`.

    :param dry_run: only look what would change.
    :param reachable_only: leave out hosts that can't be reached. By default nothing is done then.
    :param take_over: whether hosts may run parts of another file whose pipe has this name; this one takes its place.
    :param made_by: the path of the program that the file stands for; by default that of the file.
    :param check_here: is called when all hosts could apply their parts, and none has; what it raises ends it.
    :raises ConfigError: when the file has faults, a host can't be reached, its version or code differs, or it refuses. It lists
        all of that. Nothing was changed, or all was put back; where a host could not be put back, it says so.
    """
    about = asker.hosts()
    here = _here(file)
    placement = _placed(file, about, here)
    parts = split(file, placement, here)
    result = Rollout(file.pipe_name, parts.pop(here, None))
    result.missing = sorted(parts.keys() - about.keys())
    if not reachable_only:
        _refuse(_unreachable(file, placement, result.missing, about))
    for host in result.missing:
        del parts[host]
    by = f"{here}:{made_by or file.real_path}"
    if not take_over:
        _refuse(_of_others(file, about, by))
    told = {"pipe": file.pipe_name, "revision": secrets.token_hex(8), "by": by}
    result.leaving = sorted(host for host, its in about.items() if file.pipe_name in its["pipes"] and host not in parts)
    result.changes = _prepared(file, asker, parts, result.here, told, check=dry_run)
    result.changes |= {host: [f"- pipe {about[host]['pipes'][file.pipe_name]['name']}"] for host in result.leaving}
    check_here(result)
    if not dry_run:
        replaced = {host: about[host]["pipes"].get(file.pipe_name, {}).get("revision") for host in parts}
        _apply(file, asker, parts, result, told, replaced)
    return result


def finish(asker: Asker, rollout: Rollout) -> None:
    """Ends the parts of hosts that the file no longer names, when all others run what it says."""
    for host, answer in remove(asker, rollout.pipe, rollout.leaving).items():
        if answer.error:
            rollout.missing.append(host)


def take_back(asker: Asker, rollout: Rollout) -> list[str]:
    """Has each host go back to what it had; what could not be undone, in words."""
    questions = {
        host: {"kind": "revert", "pipe": rollout.pipe, "revision": revision} for host, revision in rollout.done.items()
    }
    answers = asker.ask_again(questions, APPLY_S)
    return [f"host {host}: {answer.error}" for host, answer in answers.items() if answer.error]


def remove(asker: Asker, pipe: str, hosts: Iterable[str]) -> dict[str, Answer]:
    """Ends the parts of a pipe on these hosts, which forget them."""
    return asker.ask_again({host: {"kind": "remove", "pipe": pipe} for host in hosts}, APPLY_S)


def text_here(file: PipelineFile, rollout: Rollout) -> str:
    """The part of the host where it was said, with the way to the hub."""
    assert file.settings.hosts is not None
    assert rollout.here is not None
    return reachable(rollout.here.text, rollout.here.remotes, hub_by(file.settings.hosts, file.fault))


def lines_of(rollout: Rollout, own: Iterable[str] = ()) -> list[str]:
    """What was done, or would be, in words.

    :param own: what the host does where it was said.
    """
    by_host = sorted(rollout.changes.items())
    lines = [*own, *(f"{host}: {line}" for host, lines in by_host for line in lines)]
    return lines + [f"! host {host} can't be reached: say it again when it is there" for host in rollout.missing]


# ---- the steps -----------------------------------------------------------------------------------


def _here(file: PipelineFile) -> str:
    settings = file.settings.hosts
    assert settings is not None, "else it is a file for one host"
    try:
        return name_of_here(settings)
    except (OSError, ValueError, ImportError, HostsError) as error:
        raise ConfigError([file.fault(("hosts",), f"this host needs a name: {error}")]) from None


def _placed(file: PipelineFile, about: Mapping[str, dict[str, Any]], here: str) -> dict[str, Shares]:
    hosts = {host: its["labels"] for host, its in about.items()}
    placement, faults = {}, []
    for name, flow in file.settings.flows.items():
        try:
            if isinstance(flow.host, str):
                check_host_name(flow.host)
            placement[name] = place(flow.host, flow.replicas, hosts, here, file.pipe_name)
        except (LookupError, ValueError) as error:
            faults.append(file.fault(("flows", name, "host"), str(error.args[0])))
    _refuse(faults)
    for name, shares in placement.items():
        if here in shares and file.settings.flows[name].host is not None:
            faults.append(
                file.fault(
                    ("flows", name, "host"), f"{here!r} is what this host is called here: leave `host` out, or say hosts.name"
                )
            )
    _refuse(faults)
    return placement


def _unreachable(
    file: PipelineFile, placement: Mapping[str, Shares], missing: Iterable[str], about: Mapping[str, Any]
) -> list[Fault]:
    there = ", ".join(sorted(about)) or "none"
    return [
        file.fault(("flows", flow, "host"), f"host {host!r} can't be reached, so nothing was changed; those that can: {there}")
        for host in missing
        for flow, shares in placement.items()
        if host in shares
    ]


def _of_others(file: PipelineFile, about: Mapping[str, dict[str, Any]], by: str) -> list[Fault]:
    """What says that a pipe of this name runs from another file: to change it or to end it would be to break that."""
    name = file.pipe_name
    others = {host: its["pipes"][name]["by"] for host, its in about.items() if name in its["pipes"]}
    return [
        file.fault(
            ("pipe", "name"),
            f"host {host} runs a pipe {name!r} of another file, {other}: give this one another name; or, where it takes "
            f"the place of that one, say `pipert-shm apply --take-over`, or end that one: `pipert-shm ctl '{name}@*' kill`",
        )
        for host, other in sorted(others.items())
        if other != by
    ]


def _of_part(told: Mapping[str, str], part: Part) -> dict[str, Any]:
    """What a host is told of its part."""
    return {**told, "text": part.text, "remotes": part.remotes}


def _prepared(
    file: PipelineFile, asker: Asker, parts: Mapping[str, Part], here: Part | None, told: Mapping[str, str], *, check: bool
) -> dict[str, list[str]]:
    """What each host would do.

    :raises ConfigError: when one can't, or has another version or other code.
    """
    modules = {host: sorted(modules_in(part.data)) for host, part in parts.items()}
    questions: dict[str, dict[str, Any]] = {}
    for host, part in parts.items():
        flows = {name: flow["routines"] for name, flow in part.data["flows"].items()}
        more = {"version": version(), "modules": modules[host], "flows": flows, "check": check}
        questions[host] = {"kind": "prepare", **_of_part(told, part), **more}
    answers = asker.ask_again(questions, PREPARE_S)
    faults = _faults(file, parts, answers)
    code = {host: answer.value["code"] for host, answer in answers.items() if not answer.error}
    needed = {module for its in modules.values() for module in its} | modules_in(here.data if here else {})
    own = {name: found for name, found in sources_of(needed, str(file.path.resolve().parent)).items() if found != ABSENT}
    faults += [file.fault(("hosts",), text) for text in differing({**code, "this host": own})]
    faults += [
        file.fault(("hosts",), f"host {host}: it has no module {module!r}: install it there")
        for host, its in code.items()
        for module, found in its.items()
        if found == ABSENT
    ]
    _refuse(faults)
    return {host: answer.value["changes"] for host, answer in answers.items()}


def _apply(
    file: PipelineFile,
    asker: Asker,
    parts: Mapping[str, Part],
    result: Rollout,
    told: Mapping[str, str],
    replaced: Mapping[str, str | None],
) -> None:
    """Has each host apply its part, and notes it in the result.

    :param replaced: the revision that each host had when it was looked at.
    :raises ConfigError: when one can't. All were put back, or it says which could not be.
    """
    answers = asker.ask_again(
        {host: {"kind": "apply", "replaces": replaced[host], **_of_part(told, part)} for host, part in parts.items()},
        APPLY_S,
    )
    faults = _faults(file, parts, answers)
    result.done = dict.fromkeys(answers, told["revision"])
    if faults:
        failures = take_back(asker, result)
        after = (
            "all hosts are as they were before" if not failures else f"and not all is as it was before: {'; '.join(failures)}"
        )
        raise ConfigError([*faults, file.fault(("hosts",), after)])
    result.changes |= {host: answer.value for host, answer in answers.items()}


def _faults(file: PipelineFile, parts: Mapping[str, Part], answers: Mapping[str, Answer]) -> list[Fault]:
    """The faults that hosts tell of their parts, as those of the whole file."""
    faults = []
    for host, answer in answers.items():
        told = answer.faults or (("", answer.error),) if answer.error else ()
        faults += [
            file.fault(parts[host].place_of(where) if where else ("hosts",), f"host {host}: {text}") for where, text in told
        ]
    return faults


def _refuse(faults: list[Fault]) -> None:
    if faults:
        raise ConfigError(sorted(faults, key=lambda fault: fault.line))
