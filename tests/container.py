"""Builds the image of examples/deploy, and runs it as compose.yaml and kubernetes.yaml say: `make container-test`.

It needs root and the programs in NEEDED, but no daemon and no registry. Podman builds the image on a Debian with Python that
mmdebstrap makes, in place of python:3.13-slim. runc then runs it with all that the two files ask for: a read-only root, a user
of its own, no capabilities, the usual seccomp profile, limited memory, and a /dev/shm of the given size. A setting that is not
known here is an error. All of it lies in a directory of its own, which is removed at the end, and happens in namespaces of its
own, so that no process and no mount is left either.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from media import frames_of
from waiting import eventually

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "examples" / "deploy"
NEEDED = ("mmdebstrap", "podman", "runc")
BASE, IMAGE = "localhost/python:3.13-slim", "localhost/pipert"
TOKEN = "a-token-for-this-test"
PATIENCE = 120.0  # seconds; the machine may be busy

ENGINE = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{0}/tmp"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
"""
STORAGE = """
[storage]
driver = "overlay"
graphroot = "{0}/images"
runroot = "{0}/run"
"""

Finished = subprocess.CompletedProcess[str]


def run(*command: str | Path) -> None:
    """Runs a program; what it prints is only shown if it fails."""
    end = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if end.returncode:
        raise SystemExit(f"{end.stdout}\n{' '.join(map(str, command))} ended with {end.returncode}")


class Podman:
    """Podman, with its images and containers in a directory."""

    def __init__(self, at: Path) -> None:
        (at / "containers.conf").write_text(ENGINE.format(at))
        (at / "storage.conf").write_text(STORAGE.format(at))
        (at / "cache").mkdir()
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": f"{at}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{at}/storage.conf",
            "TMPDIR": f"{at}/cache",  # what RUN --mount=type=cache keeps
        }

    def try_to(self, *arguments: str | Path) -> Finished:
        return subprocess.run(["podman", *arguments], env=self._environment, capture_output=True, text=True)

    def __call__(self, *arguments: str | Path) -> str:
        end = self.try_to(*arguments)
        if end.returncode:
            raise SystemExit(f"{end.stdout}{end.stderr}podman {' '.join(map(str, arguments))} ended with {end.returncode}")
        return end.stdout.strip()


# ---- the image -----------------------------------------------------------------------------------


def make_base(podman: Podman, at: Path) -> None:
    """Imports a Debian with Python, in which downloads work as they do here: by the same certificates and mirrors."""
    root = at / "base"
    packages = "ca-certificates,python3,python3-venv,libpython3-dev"
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", "trixie", root)
    (root / "usr/bin/python").symlink_to("python3")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs")
    (root / "etc/uv").mkdir()
    (root / "etc/uv/uv.toml").write_text("system-certs = true\n")
    if Path("/etc/pip.conf").exists():
        shutil.copy("/etc/pip.conf", root / "etc")
    run("tar", "--create", "--file", at / "base.tar", "--directory", root, "--exclude=./dev/*", ".")
    podman("import", "--quiet", at / "base.tar", BASE)


def build(podman: Podman) -> None:
    as_docker = ("--format=docker", "--pull=never", "--isolation=chroot", "--network=host")
    podman("build", *as_docker, f"--build-arg=BASE={BASE}", "--file", DEPLOY / "Dockerfile", "--tag", IMAGE, ROOT)
    look = ("--entrypoint=sh", IMAGE, "-c", "command -v cc make pip uv; ls -d /src")
    tools = podman.try_to("run", "--rm", "--network=none", *look).stdout
    assert tools == "", f"what the image was built with should not be in it: {tools}"
    sizes = [json.loads(podman("image", "inspect", name))[0]["Size"] / 1e6 for name in (IMAGE, BASE)]
    print(f"built: {sizes[0]:.0f} MB, of which the base has {sizes[1]:.0f}", flush=True)


# ---- what the files ask for ----------------------------------------------------------------------

OF_COMPOSE: dict[str, Callable[[Any], list[str]]] = {
    "image": lambda name: [],
    "build": lambda settings: [],
    "volumes": lambda mounts: [f"--volume={re.sub('^[.]', str(DEPLOY), mount)}" for mount in mounts],
    "shm_size": lambda size: [f"--shm-size={size}"],
    "init": lambda wanted: ["--init"] * wanted,
    "stop_grace_period": lambda time: [f"--stop-timeout={time.removesuffix('s')}"],
    "restart": lambda policy: [f"--restart={policy}"],
    "read_only": lambda wanted: ["--read-only", "--read-only-tmpfs=false"] * wanted,
    "tmpfs": lambda paths: [f"--tmpfs={path}" for path in paths],
    "cap_drop": lambda names: [f"--cap-drop={name}" for name in names],
    "security_opt": lambda options: [f"--security-opt={option.removesuffix(':true')}" for option in options],
}
"""What `podman run` calls the settings of a service."""


def service() -> dict[str, Any]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services["motion"]


def of_compose() -> list[str]:
    return [flag for key, value in service().items() for flag in OF_COMPOSE[key](value)]


def of_pod(at: Path) -> tuple[list[str], dict[str, list[str]]]:
    """What `podman run` calls the pod's settings, with the pod's volumes made as the kubelet makes them; and its probes."""
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user, rights = pod["securityContext"], container["securityContext"]
    assert user == dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), user["runAsUser"]) | {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert rights == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    memory = container["resources"]["limits"]["memory"]
    flags = [
        f"--user={user['runAsUser']}:{user['runAsGroup']}",
        "--security-opt=no-new-privileges",
        "--read-only",
        "--read-only-tmpfs=false",
        "--cap-drop=all",
        f"--memory={memory.removesuffix('i')}",
        f"--stop-timeout={pod['terminationGracePeriodSeconds']}",
    ]
    probes = {name: container[f"{name}Probe"]["exec"]["command"] for name in ("startup", "readiness", "liveness")}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        place = at / mount["name"]
        place.mkdir(parents=True)
        os.chown(place, 0, user["fsGroup"])
        place.chmod(0o2775)
        flags.append(f"--volume={place}:{mount['mountPath']}")
    size = volumes["shm"]["emptyDir"]["sizeLimit"].removesuffix("i")
    assert volumes["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": f"{size}i"}}
    run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", at / "shm")
    return flags, probes


# ---- a container ---------------------------------------------------------------------------------


class Container:
    """The image's program, running. Without a network; there is a loopback interface."""

    def __init__(self, podman: Podman, *flags: str, arguments: tuple[str, ...] = ()) -> None:
        self._podman = podman
        self._id = podman("run", "--detach", "--network=none", *flags, IMAGE, *arguments)

    def execute(self, *command: str, **environment: str) -> Finished:
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        return self._podman.try_to("exec", *variables, self._id, *command)

    def succeeds(self, *command: str) -> bool:
        return self.execute(*command).returncode == 0

    def is_healthy(self) -> bool:
        return self._podman.try_to("healthcheck", "run", self._id).returncode == 0

    def logs(self) -> str:
        end = self._podman.try_to("logs", self._id)
        return end.stdout + end.stderr

    def end(self, how: str) -> int:
        """Ends it by `stop` or `kill`; its exit status."""
        self._podman(how, self._id)
        return self.wait()

    def wait(self) -> int:
        return int(self._podman("wait", self._id))

    def start_again(self) -> None:
        self._podman("start", self._id)

    def remove(self) -> None:
        self._podman("rm", "--force", "--time=0", self._id)

    def await_health(self) -> None:
        eventually(self.is_healthy, f"health of\n{self.logs()}", PATIENCE)


def check_confinement(container: Container) -> None:
    """What the files promise, as the program sees it."""
    assert container.execute("id", "-u").stdout == "10001\n"
    status = container.execute("cat", "/proc/self/status").stdout
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status, f"{line} in\n{status}"
    for path in ("/app/x", "/opt/pipert/x", "/x", "/var/tmp/x"):
        assert "Read-only file system" in container.execute("touch", path).stderr, f"{path} can be written"
    blocks = container.execute("stat", "--file-system", "--format=%b %S", "/dev/shm").stdout.split()
    assert int(blocks[0]) * int(blocks[1]) == int(service()["shm_size"].removesuffix("m")) << 20


def check_output(data: Path, logs: str) -> int:
    """Each frame that the writers got is in the files, which can be read to their ends; how many there are."""
    counts = {name: re.search(rf"-> {name}: \d+ sent, (\d+) received", logs) for name in ("video", "lines")}
    assert all(counts.values()), logs
    frames = sum(1 for _ in frames_of(data / "motion.mp4"))
    lines = [json.loads(line)["boxes"] for line in (data / "detections.jsonl").read_text().splitlines()]
    assert {"video": str(frames), "lines": str(len(lines))} == {name: count and count[1] for name, count in counts.items()}
    return frames


def lines_in(data: Path) -> int:
    file = data / "detections.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


# ---- the checks ----------------------------------------------------------------------------------


def check_compose(podman: Podman, at: Path) -> None:
    container = Container(podman, *of_compose())
    container.await_health()
    check_confinement(container)
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    probe = image["Healthcheck"]["Test"][1:]
    assert container.execute(*probe, http_proxy="http://127.0.0.1:9").returncode == 0, "the health check asks a proxy"
    data = at / "images/volumes/data/_data"
    eventually(lambda: lines_in(data) > 50, "fifty frames", PATIENCE)
    status = container.end("stop")
    assert status == 130, f"exit status {status} after SIGINT\n{container.logs()}"
    print(f"compose.yaml: healthy, confined, {check_output(data, container.logs())} frames, exit status 130", flush=True)
    container.remove()


def check_pod(podman: Podman, at: Path) -> None:
    """Here the program is process 1 itself; and what a killed one left in /dev/shm is still there for the next one."""
    at = at / "pod"
    flags, probes = of_pod(at)
    container = Container(podman, *flags)
    container.await_health()
    check_confinement(container)
    assert container.end("kill") == 137
    left = len(list((at / "shm").iterdir()))
    assert left, "a killed program leaves its segments"
    assert not any(container.succeeds(*command) for command in probes.values())
    (at / "data/detections.jsonl").unlink()
    container.start_again()
    for command in probes.values():
        eventually(partial(container.succeeds, *command), f"success of {command}", PATIENCE)
    eventually(lambda: lines_in(at / "data") > 50, "fifty frames", PATIENCE)
    status = container.end("stop")
    assert status == 130, f"exit status {status} after SIGINT\n{container.logs()}"
    frames = check_output(at / "data", container.logs())
    assert not list((at / "shm").iterdir()), "/dev/shm is not empty"
    container.remove()
    print(f"kubernetes.yaml: the same, {frames} frames; {left} segments of a killed one swept, /dev/shm empty", flush=True)


def check_too_little_memory(podman: Podman, at: Path) -> None:
    flags = [flag for flag in of_compose() if not flag.startswith(("--shm-size", "--restart"))]
    container = Container(podman, *flags, "--shm-size=1m")
    status, logs = container.wait(), container.logs()
    assert status == 1, logs
    assert re.search(r"^pipert-shm: the ring of 'camera' .* needs [\d,]+ bytes .* compose: shm_size", logs, re.MULTILINE), logs
    container.remove()
    print("a /dev/shm of 1 MB: exit status 1, and what to do", flush=True)


def check_control(podman: Podman, at: Path) -> None:
    """On an address that others reach it takes a token, but the health check does not."""
    flags = [flag for flag in of_compose() if not flag.startswith("--restart")]
    arguments = ("run", "pipeline.yaml", "--api", "0.0.0.0:8080")
    container = Container(podman, *flags, arguments=arguments)
    assert container.wait() == 1
    assert "PIPERT_TOKEN" in container.logs()
    container.remove()
    container = Container(podman, *flags, f"--env=PIPERT_TOKEN={TOKEN}", arguments=arguments)
    container.await_health()
    stats = ("pipert-shm", "ctl", "127.0.0.1:8080", "stats")
    assert container.execute(*stats).returncode == 0, "the variable has the token"
    assert "show the token" in container.execute(*stats, PIPERT_TOKEN="another").stderr
    container.remove()
    print("the control on 0.0.0.0: refused without a token, healthy with one", flush=True)


CHECKS = (check_compose, check_pod, check_too_little_memory, check_control)


def try_image(at: Path) -> None:
    podman = Podman(at)
    try:
        make_base(podman, at)
        build(podman)
        for check in CHECKS:
            check(podman, at)
    finally:
        podman("rm", "--all", "--force", "--time=0")


def main() -> int:
    if len(sys.argv) == 2:
        try_image(Path(sys.argv[1]))
        return 0
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        raise SystemExit(f"there is no {' and no '.join(missing)}: apt-get install {' '.join(missing)}")
    if os.geteuid():
        raise SystemExit("it has to be run by root, since it mounts")
    apart = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    with TemporaryDirectory(prefix="pipert-container-") as directory:
        return subprocess.run([*apart, sys.executable, __file__, directory]).returncode


if __name__ == "__main__":
    sys.exit(main())
