"""Runs the services of a compose file without Docker: `python tests/compose_hosts.py DIRECTORY APP DATA`, by root.

Each service has a network namespace of its own, on a bridge, and a file system of its own: /dev/shm of the size that the file
says, an empty /data that is DATA/SERVICE outside, APP as /app, what it mounts, and what the machine has. The names of services
and their aliases are in /etc/hosts. Everything happens in namespaces, so that nothing is left when the process is killed.

It runs until its standard input ends. Then it stops the services as Compose does, in the order of their dependencies, and
prints the exit status of each as JSON. A setting that is not known here is an error.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

IGNORED = {"image", "init", "read_only", "tmpfs", "cap_drop", "security_opt"}
KNOWN = IGNORED | {"command", "volumes", "restart", "stop_grace_period", "shm_size", "depends_on", "networks"}
BRIDGE, REST_S = "br0", 0.2
Service = dict[str, Any]


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def make_network(names: list[str]) -> dict[str, str]:
    """A namespace for each, joined by a bridge. The address of each."""
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "link", "set", BRIDGE, "up")
    addresses = {}
    for number, name in enumerate(names, 2):
        addresses[name] = f"10.7.0.{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"veth{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"veth{number}", "master", BRIDGE, "up")
        run("ip", "-n", name, "addr", "add", f"{addresses[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", name, "link", "set", device, "up")
    return addresses


def make_root(root: Path, hosts: Path) -> None:
    """What the machine has, bound into an empty directory."""
    run("mount", "-t", "tmpfs", "tmpfs", root)
    for entry in Path("/").iterdir():
        target = root / entry.name
        if entry.is_symlink():
            target.symlink_to(entry.readlink())
        elif entry.is_dir() and entry.name not in ("run", "data", "app"):
            target.mkdir()
            run("mount", "--rbind", entry, target)
    run("mount", "--bind", hosts, root / "etc" / "hosts")


def enter(root: Path, directory: Path, app: Path, data: Path, hosts: Path, service: Service) -> None:
    """Makes the file system of a service, in a mount namespace of its own, and becomes its program."""
    root.mkdir()
    make_root(root, hosts)
    size = service.get("shm_size", "64m")
    run("mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", root / "dev" / "shm")
    data.mkdir(exist_ok=True)
    for source, target in ((data, "data"), (app, "app")):
        (root / target).mkdir()
        run("mount", "--bind", source, root / target)
    for mount in service["volumes"]:
        source, target = mount.split(":")[:2]
        if source.startswith("."):
            place = root / target[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            (place.mkdir if (directory / source).is_dir() else place.touch)(exist_ok=True)
            run("mount", "--bind", directory / source, place)
    os.chroot(root)
    os.chdir("/app")
    os.execv(sys.executable, [sys.executable, "-m", "pipert_shm.cli", *service["command"]])


class Container:
    """A service, running."""

    def __init__(self, name: str, service: Service, arguments: list[str]) -> None:
        self.name, self.service, self._arguments = name, service, arguments
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        root = f"/run/{self.name}-{self.starts}"
        apart = ["ip", "netns", "exec", self.name, "unshare", "--mount", sys.executable, __file__, "--enter", root]
        service = json.dumps(self.service)
        self.process = subprocess.Popen([*apart, *self._arguments, service], stdin=subprocess.DEVNULL, stdout=sys.stderr)

    def restart_if_it_ended(self) -> None:
        policy, status = self.service["restart"], self.process.poll()
        if status is not None and (policy == "unless-stopped" or (policy == "on-failure" and status)):
            time.sleep(REST_S)
            self.start()

    def stop(self) -> int:
        """As Compose does; the image says that the signal is SIGINT."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(float(self.service["stop_grace_period"].removesuffix("s")))
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def ordered(services: dict[str, Service]) -> list[str]:
    """Each after those that it depends on."""
    done: list[str] = []
    while len(done) < len(services):
        done += [name for name, its in services.items() if name not in done and set(its.get("depends_on", ())) <= set(done)]
    return done


def serve(directory: Path, app: Path, data: Path) -> None:
    services: dict[str, Service] = yaml.safe_load((directory / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert set(service) <= KNOWN, f"{name}: {set(service) - KNOWN} is not known here"
    addresses = make_network(list(services))
    lines = ["127.0.0.1 localhost"]
    for name, service in services.items():
        aliases = service.get("networks", {}).get("default", {}).get("aliases", [])
        lines.append(" ".join([addresses[name], *dict.fromkeys([name, *aliases])]))
    hosts = Path("/run/hosts")
    hosts.write_text("\n".join(lines) + "\n")
    common = [str(directory), str(app)]
    containers = [Container(name, services[name], [*common, str(data / name), str(hosts)]) for name in ordered(services)]
    while not select.select([sys.stdin], [], [], REST_S)[0]:
        for container in containers:
            container.restart_if_it_ended()
    print(json.dumps({container.name: container.stop() for container in reversed(containers)}))


def main(arguments: list[str]) -> None:
    if arguments[0] == "--enter":
        root, directory, app, data, hosts = map(Path, arguments[1:6])
        enter(root, directory, app, data, hosts, json.loads(arguments[6]))
    elif arguments[0] == "--apart":
        serve(*map(Path, arguments[1:]))
    else:
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        os.execv(shutil.which("unshare") or "unshare", [*apart, sys.executable, __file__, "--apart", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
