"""A deployment for Docker Compose: all on one machine, with a container for each host."""

from __future__ import annotations

from typing import Any

from pipert_shm.exporting.deployment import INVITATION, Deployment, Host
from pipert_shm.pipeline_file.text import yaml_of

_SAFE = {
    "read_only": True,
    "tmpfs": ["/tmp"],
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
_HEAD = """\
# docker compose up: a hub, and a container for each host of {name}. Made by `pipert-shm export compose`.
{keys}"""
_KEYS = """\
# The folders beside it hold private keys. The containers run as the user 10001, who has to be able to read them:
# chown -R 10001 hub {hosts}
"""


def files_of(its: Deployment, image: str) -> dict[str, bytes]:
    """The files, by their paths.

    :param image: of the containers. Its program is `pipert-shm`, and /data is its user's.
    """
    services: dict[str, Any] = {"hub": _hub(its, image)}
    services |= {host.name: _agent(its, host, image) for host in its.hosts}
    services[its.applier.name] = _applier(its, image)
    volumes: dict[str, Any] = {f"{host.name}-data": {} for host in its.hosts}
    if its.runs_here:
        volumes[f"{its.applier.name}-data"] = {}
    hosts = " ".join(host.name for host in (*its.hosts, its.applier))
    head = _HEAD.format(name=its.name, keys=_KEYS.format(hosts=hosts) if its.has_tls else "")
    data = {"name": project_of(its.name), "services": services, "volumes": volumes}
    return {"compose.yaml": (head + yaml_of(data)).encode(), "pipeline.yaml": its.text.encode(), **its.files}


def project_of(name: str) -> str:
    """A name that a project, or an object of Kubernetes, may have."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower()).strip("-") or "pipe"


def _service(
    its: Deployment, image: str, command: list[str], mounts: list[str], *, restart: str = "unless-stopped"
) -> dict[str, Any]:
    return {
        "image": image,
        "command": command,
        "volumes": mounts,
        "init": True,
        "restart": restart,
        "stop_grace_period": f"{its.stop}s",
        **_SAFE,
    }


def _mounts(its: Deployment, name: str) -> list[str]:
    return [f"./{name}:{INVITATION}:ro"] if its.has_tls else []


def _hub(its: Deployment, image: str) -> dict[str, Any]:
    networks = {"default": {"aliases": [its.hub]}}
    return {**_service(its, image, its.hub_command(), _mounts(its, "hub")), "networks": networks}


def _agent(its: Deployment, host: Host, image: str) -> dict[str, Any]:
    command = [*its.agent_command(host), "--state", "/data/agent", "--end-pipes"]
    mounts = [*_mounts(its, host.name), f"{host.name}-data:/data"]
    service = _service(its, image, command, mounts)
    return {**service, "shm_size": f"{host.shm >> 20}m", "depends_on": ["hub"]}


def _applier(its: Deployment, image: str) -> dict[str, Any]:
    """It is started again until all agents are there."""
    mounts = ["./pipeline.yaml:/app/pipeline.yaml:ro", *_mounts(its, its.applier.name)]
    restart = "on-failure"
    if its.runs_here:
        mounts.append(f"{its.applier.name}-data:/data")
        restart = "unless-stopped"
    service = _service(its, image, ["run", "/app/pipeline.yaml"], mounts, restart=restart)
    shm = {"shm_size": f"{its.applier.shm >> 20}m"} if its.runs_here else {}
    return {**service, **shm, "depends_on": ["hub", *(host.name for host in its.hosts)]}
