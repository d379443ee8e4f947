"""The files in examples/deploy: they fit each other, the package and its command line, and the pipeline runs.

`make container-test` builds the image and runs it.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import metadata
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import PACKAGE_ROOT, RunCli, StartCli
from media import bikes, frames_of
from pipert_shm.pipe import Pipe
from streams import free_port
from waiting import eventually

DEPLOY = PACKAGE_ROOT / "examples" / "deploy"

Stage = list[tuple[str, str]]


def stages_of(path: Path) -> list[Stage]:
    """The instructions of each stage of a Dockerfile, with what they are given; first those before any stage."""
    stages: list[Stage] = [[]]
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, rest))
    return stages


HEAD, BUILD, IMAGE = stages_of(DEPLOY / "Dockerfile")


def only(stage: Stage, name: str) -> str:
    (found,) = (rest for instruction, rest in stage if instruction == name)
    return found


def words(stage: Stage, name: str) -> list[str]:
    found = json.loads(only(stage, name))
    assert all(isinstance(word, str) for word in found)
    return list(found)


GRACE = signature(Pipe).parameters["grace_period"].default
PROBE = json.loads(only(IMAGE, "HEALTHCHECK").partition("CMD")[2])


@pytest.fixture
def service() -> dict[str, Any]:
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    assert isinstance(service, dict)
    return service


@pytest.fixture
def pod() -> dict[str, Any]:
    deployment, claim = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    assert (deployment["kind"], claim["kind"]) == ("Deployment", "PersistentVolumeClaim")
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    claims = [volume["persistentVolumeClaim"] for volume in template["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": claim["metadata"]["name"]}]
    assert isinstance(template["spec"], dict)
    return template["spec"]


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """The image's pipeline, in a directory like the image's; what it writes goes into that directory."""
    shutil.copy(bikes(), tmp_path / "clip.mp4")
    path = tmp_path / "pipeline.yaml"
    text = (DEPLOY / "pipeline.yaml").read_text()
    assert text.count("/data/") == 2
    path.write_text(text.replace("/data/", f"{tmp_path}/data/"))
    return path


# ---- the image -----------------------------------------------------------------------------------


def test_the_image_is_built_with_what_there_is() -> None:
    extras = only(BUILD, "ARG").partition("=")[2].split(",")
    assert set(extras) <= set(metadata("pipert_shm").get_all("Provides-Extra") or [])
    uv = re.search(r"uv==([\d.]+)", str(BUILD))
    wanted = re.search(r"^UV_VERSION := (\S+)", (PACKAGE_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert uv is not None
    assert wanted is not None
    assert uv[1] == wanted[1], "the lock is read by the uv that wrote it"
    locked = re.findall(r"^([\w-]+)==", (PACKAGE_ROOT / ".ci" / "lock.txt").read_text(), re.MULTILINE)
    assert {"opencv-python-headless", "scikit-video"} <= set(locked)


def test_the_image_gets_only_files_that_its_build_context_has() -> None:
    rules = [line for line in (PACKAGE_ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert all((PACKAGE_ROOT / path).exists() for path in kept)
    copied = [rest.split()[0] for name, rest in BUILD + IMAGE if name == "COPY" and "--from" not in rest]
    assert set(copied) - {"."} <= set(kept)
    project = (PACKAGE_ROOT / "pyproject.toml").read_text()
    assert {"pyproject.toml", "setup.py", "csrc", "bench", "pipert_shm"} <= set(kept)
    assert {path for path in ("README.md", "LICENSE") if path in project} <= set(kept)


def test_the_image_has_no_compiler_and_runs_as_nobody_in_particular() -> None:
    assert only(IMAGE, "FROM") == "${BASE}"
    assert only(HEAD, "ARG").startswith("BASE=python:3.")
    assert not any("apt-get" in rest or "pip install" in rest for name, rest in IMAGE)
    user, group = map(int, only(IMAGE, "USER").split(":"))
    assert (user, group) == (10001, 10001)
    assert f"useradd --uid {user} " in str(IMAGE)
    assert only(IMAGE, "STOPSIGNAL") == "SIGINT"


def test_the_image_runs_a_pipeline_that_is_valid(pipeline: Path, run_cli: RunCli) -> None:
    entry, command = words(IMAGE, "ENTRYPOINT"), words(IMAGE, "CMD")
    assert entry == ["pipert-shm"]
    assert command[:2] == ["run", "pipeline.yaml"]
    end = run_cli(*command, "--check", cwd=pipeline.parent)
    assert (end.returncode, end.stdout, end.stderr) == (0, "pipeline.yaml is fit to run\n", "")
    assert f"http://{command[command.index('--api') + 1]}/ready" in PROBE[-1]


@pytest.mark.shm
def test_the_pipeline_is_healthy_until_it_is_stopped_and_its_video_can_be_played(pipeline: Path, start_cli: StartCli) -> None:
    port = str(free_port())
    probe = [sys.executable, "-c", PROBE[-1].replace("8080", port)]

    def is_healthy() -> bool:
        return subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0

    assert PROBE[:2] == ["python", "-c"]
    assert not is_healthy()
    command = [word.replace("8080", port) for word in words(IMAGE, "CMD")]
    process = start_cli(*command, cwd=pipeline.parent)
    lines, video = pipeline.parent / "data" / "detections.jsonl", pipeline.parent / "data" / "motion.mp4"
    eventually(is_healthy, "its health", 60)
    eventually(lambda: lines.exists() and lines.read_text().count("\n") > 20, "20 frames", 30)
    process.send_signal(getattr(signal, only(IMAGE, "STOPSIGNAL")))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    received = re.search(r"annotator -> video: \d+ sent, (\d+) received", err)
    assert received is not None, err
    assert sum(1 for _ in frames_of(video)) == int(received[1]) > 0
    assert not is_healthy()


# ---- where it runs -------------------------------------------------------------------------------


def megabytes(size: str) -> int:
    found = re.fullmatch(r"(\d+)(m|Mi|Gi)", size)
    assert found is not None, size
    return int(found[1]) * (1024 if found[2] == "Gi" else 1)


def test_it_gets_the_shared_memory_that_the_doctor_works_out(pipeline: Path, service: dict[str, Any], run_cli: RunCli) -> None:
    end = run_cli("doctor", "pipeline.yaml", cwd=pipeline.parent)
    assert end.returncode == 0, end.stdout
    assert end.stdout.splitlines()[-1].startswith(f"  shm_size: {service['shm_size']} ")


def test_compose_confines_it_and_gives_it_memory(service: dict[str, Any]) -> None:
    page = (PACKAGE_ROOT / "docs" / "how-to" / "docker_and_systemd.md").read_text()
    assert set(re.findall(r"--shm-size (\w+)", page)) == {service["shm_size"]}
    assert (service["read_only"], service["tmpfs"]) == (True, ["/tmp"])
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (service["init"], service["restart"]) == (True, "unless-stopped")
    assert int(service["stop_grace_period"].removesuffix("s")) > GRACE
    mounts = [mount.split(":") for mount in service["volumes"]]
    assert mounts == [["./pipeline.yaml", "/app/pipeline.yaml", "ro"], ["data", "/data"]]
    context = (DEPLOY / service["build"]["context"]).resolve()
    assert context == PACKAGE_ROOT
    assert context / service["build"]["dockerfile"] == DEPLOY / "Dockerfile"


def test_what_compose_has_as_a_comment_fits_in(service: dict[str, Any], pipeline: Path, run_cli: RunCli) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    more = yaml.safe_load("\n".join(re.findall(r"^    # (\w+: [\[{].*)", text, re.MULTILINE)))
    assert set(more) == {"command", "environment", "ports"}
    assert not set(more) & set(service)
    without = run_cli(*more["command"], cwd=pipeline.parent)
    assert without.returncode == 1
    (variable,) = more["environment"]
    assert variable in without.stderr, "what it needs is what the comment gives"


def test_kubernetes_confines_it_and_gives_it_memory(pod: dict[str, Any], service: dict[str, Any]) -> None:
    user = int(only(IMAGE, "USER").partition(":")[0])
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert set(mounts) == {"/dev/shm", "/tmp", "/data"}
    shm = mounts["/dev/shm"]["emptyDir"]
    assert shm["medium"] == "Memory"
    assert megabytes(shm["sizeLimit"]) == megabytes(service["shm_size"])
    assert megabytes(container["resources"]["limits"]["memory"]) > 2 * megabytes(shm["sizeLimit"])
    assert pod["terminationGracePeriodSeconds"] > GRACE


def test_kubernetes_runs_and_probes_it_as_the_image_does(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["args"] == words(IMAGE, "CMD")
    ready, alive = container["readinessProbe"]["exec"]["command"], container["livenessProbe"]["exec"]["command"]
    assert ready == container["startupProbe"]["exec"]["command"] == PROBE
    assert alive == [word.replace("/ready", "/health") for word in PROBE]
    assert all(container[f"{name}Probe"]["timeoutSeconds"] > 4 for name in ("startup", "readiness", "liveness"))
