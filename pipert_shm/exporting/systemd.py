"""A deployment for systemd: for each machine a folder with a unit and the files that it needs."""

from __future__ import annotations

import shlex

from pipert_shm.exporting.compose import project_of
from pipert_shm.exporting.deployment import Deployment, Host

PROGRAM = "/opt/pipert/bin/pipert-shm"
FOLDER = "/etc/pipert/{}"  # of the hub or a host. Not a credential of the unit: pipes outlive their agent, and connect again
_UNIT = """\
# {what} Made by `pipert-shm export systemd`. On {where}, with a venv in /opt/pipert:
{install}
[Unit]
Description={description}
After=network-online.target
Wants=network-online.target

[Service]
User=pipert
Group=pipert
StateDirectory=pipert
WorkingDirectory=/var/lib/pipert
{check}ExecStart={command}
KillSignal=SIGINT
KillMode={kill}
TimeoutStopSec={stop}
Restart={restart}
RestartSec=2
SuccessExitStatus=130
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes

[Install]
WantedBy=multi-user.target
"""
_CHECK = """\
# Frames live in /dev/shm, which needs {size} MB; by default it has half of the memory.
ExecStartPre=/bin/sh -c 'test $$(($$(stat -fc "%%b*%%S" /dev/shm))) -ge {bytes} || {{ echo "make /dev/shm larger: \
mount -o remount,size={size}m /dev/shm" >&2; exit 1; }}'
"""


def _runner(name: str) -> str:
    return f"pipert-{project_of(name)}"


def files_of(its: Deployment, image: str) -> dict[str, bytes]:
    """The files, by their paths: a folder for each machine.

    :param image: is of no use here.
    """
    files = {"hub/pipert-hub.service": _hub(its).encode()}
    for host in its.hosts:
        files[f"{host.name}/pipert-agent.service"] = _agent(its, host).encode()
    applier = its.applier.name
    files[f"{applier}/{_runner(its.name)}.service"] = _applier(its).encode()
    files[f"{applier}/files/pipeline.yaml"] = its.text.encode()
    return files | {_place(path): data for path, data in its.files.items()}


def _place(path: str) -> str:
    owner, _, name = path.partition("/")
    return f"{owner}/files/{name}"


def _unit(its: Deployment, owner: str, unit: str, description: str, command: list[str], **more: str) -> str:
    folder = FOLDER.format(owner)
    install = ["#   useradd --system pipert", f"#   install -m 644 {unit}.service /etc/systemd/system/"]
    if its.has_tls or "pipeline" in more:
        install.append(f"#   install -d -m 700 -o pipert /etc/pipert {folder} && install -m 600 -o pipert files/* {folder}")
    install.append(f"#   systemctl enable --now {unit}")
    settings = {
        "what": f"{description}.",
        "where": "the machine of the hub" if owner == "hub" else f"the machine {owner}",
        "install": "\n".join(install),
        "description": description.replace("%", "%%"),
        "check": "",
        "command": shlex.join([PROGRAM, *command]),
        "stop": str(its.stop),
        "kill": "mixed",
        "restart": "always",
    }
    return _UNIT.format(**settings | more)


def _check(host: Host) -> str:
    return _CHECK.format(size=host.shm >> 20, bytes=host.shm)


def _hub(its: Deployment) -> str:
    command = its.hub_command(FOLDER.format("hub"))
    return _unit(its, "hub", "pipert-hub", f"Hub of {its.name}", command)


def _agent(its: Deployment, host: Host) -> str:
    """Its pipes go on when it is restarted, as they do when it dies."""
    command = its.agent_command(host, FOLDER.format(host.name))
    return _unit(its, host.name, "pipert-agent", f"Agent of {host.name}", command, check=_check(host), kill="process")


def _applier(its: Deployment) -> str:
    more = {"pipeline": "", "check": _check(its.applier) if its.runs_here else "", "restart": "on-failure"}
    description = f"Pipe {its.name}"
    return _unit(
        its,
        its.applier.name,
        _runner(its.name),
        description,
        ["run", f"{FOLDER.format(its.applier.name)}/pipeline.yaml"],
        **more,
    )
