"""`pipert-shm export`: manifests that fit their schemas, and Compose's processes, run in namespaces."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from conftest import PACKAGE_ROOT
from media import bikes, excerpt
from pipert_shm import ConfigError, HostsError, PipelineFile
from pipert_shm.cli import main
from pipert_shm.cli.shm_needs import examine
from pipert_shm.exporting import compose, kubernetes, systemd
from pipert_shm.exporting.deployment import Deployment, deployment_of
from pipert_shm.hosts.authority import Authority, read_invitation
from pipert_shm.hosts.certificates import identity_of
from waiting import eventually

EXAMPLE = PACKAGE_ROOT / "examples" / "two_hosts"
KUBERNETES = "1.34"
OF_HUB = {"ca.pem", "hub.pem", "hub.key", "hosts.json"}
OF_HOST = {"ca.pem", "certificate.pem", "key.pem", "host.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example's pipeline, with its clip, and an authority of its hub."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copy(EXAMPLE / "pipeline.yaml", folder)
    excerpt(bikes(), range(40), folder / "clip.mp4")
    Authority.create(folder / "pipert-hub", ["hub"], 7447)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def deployment(folder: Path) -> Deployment:
    return deployment_of(folder / "pipeline.yaml", None)


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """Another pipeline's file beside it."""
    text = (folder / "pipeline.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "changed.yaml"
    path.write_text(text)
    return path


WITHOUT_TLS = ("tls/hub:7447", "tcp/hub:7447")


# ---- what is to run ------------------------------------------------------------------------------


def test_each_host_of_the_file_gets_an_agent_and_labels_as_many_as_there_are_replicas(folder: Path) -> None:
    path = changed(folder, WITHOUT_TLS, ('{gpu: "true"}', '{gpu: "true"}, replicas: 2'))
    its = deployment_of(path, None)
    assert [(host.name, dict(host.labels)) for host in its.hosts] == [
        ("edge-1", {}),
        ("gpu-1", {"gpu": "true"}),
        ("gpu-2", {"gpu": "true"}),
    ]
    assert (its.applier.name, its.runs_here, its.hub, its.port) == ("office", True, "hub", 7447)
    assert PipelineFile("changed.yaml", its.text).settings.hosts is not None


def test_a_host_gets_the_memory_that_its_frames_take_wherever_they_come_from(folder: Path) -> None:
    small = deployment_of(changed(folder, WITHOUT_TLS), None)
    large = deployment_of(changed(folder, WITHOUT_TLS, ("[640, 272]", "[1920, 1080]")), None)
    alone = """
routines:
  camera: {class: pipert_shm.VideoSource, parameters: {source: clip.mp4, size: [1920, 1080]}}
  lines: {class: pipert_shm.JsonLinesWriter, parameters: {path: out.jsonl}}
flows: {camera: {routines: [camera]}, output: {routines: [lines]}}
wires: [{source: camera, destinations: [lines]}]
"""
    needed = examine(PipelineFile("alone.yaml", alone).make_pipe()).needs.shm_size
    edge, gpu = (host.shm for host in large.hosts)
    assert edge == needed, "as `pipert-shm doctor` says it of a pipe with this camera"
    assert gpu >= needed, "what it receives has to be put somewhere"
    assert [host.shm for host in small.hosts] < [edge, gpu]
    assert large.assumed == ()
    assert all(host.memory > host.shm for host in large.hosts)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('hosts: {hub: "tls/hub:7447", name: office}', ""), "hosts"),
        (("tls/hub:7447", "tls/10.0.0.7:7447"), "a name that all hosts know it by"),
        (("tls/hub:7447", "tls/localhost:7447"), "a name that all hosts know it by"),
        (("tls/hub:7447", "tls/other:7447"), "is of the hub tls/hub:7447"),
        (("name: office", "name: edge-1"), "say hosts.name"),
        (("host: edge-1", "host: hub"), "no host can be called 'hub'"),
    ],
)
def test_what_can_not_be_exported_is_said(folder: Path, change: tuple[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        deployment_of(changed(folder, change), None)


def test_with_tls_it_takes_an_authority(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HostsError, match="`pipert-shm hub init` makes one"):
        deployment_of(folder / "pipeline.yaml", tmp_path)
    authority = Authority.create(tmp_path / "hub", ["hub"], 7447)
    authority.invite("office")
    with pytest.raises(ConfigError, match="`pipert-shm hub invite office --operator --replace`"):
        deployment_of(folder / "pipeline.yaml", authority.folder)


def test_nobody_gets_the_authoritys_key_and_a_host_only_its_own(folder: Path, deployment: Deployment, tmp_path: Path) -> None:
    assert set(deployment.files_of("hub")) == OF_HUB
    key = (folder / "pipert-hub" / "ca.key").read_bytes()
    for writer in (compose, kubernetes, systemd):
        files = writer.files_of(deployment, "pipert")
        assert not any(key in data or base64.b64encode(key) in data for data in files.values())
    for host, operator in (("edge-1", False), ("gpu-1", False), ("office", True)):
        files = deployment.files_of(host)
        assert set(files) == OF_HOST
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        told = read_invitation(tmp_path)
        assert identity_of(told.ca, told.certificate, told.key).host == told.name == host
        assert [one.is_operator for one in Authority(folder / "pipert-hub").hosts if one.name == host] == [operator]


# ---- what is written -----------------------------------------------------------------------------


def grace(its: Deployment) -> float:
    return PipelineFile("pipeline.yaml", its.text).settings.pipe.grace_period


def test_compose_fits_its_schema(deployment: Deployment) -> None:
    files = compose.files_of(deployment, "registry.example/pipert:1")
    text = files["compose.yaml"].decode()
    PyCompose.from_yaml(text)
    services = yaml.safe_load(text)["services"]
    assert list(services) == ["hub", "edge-1", "gpu-1", "office"]
    shm = {host.name: f"{host.shm >> 20}m" for host in (*deployment.hosts, deployment.applier)}
    assert {name: its["shm_size"] for name, its in services.items() if name != "hub"} == shm
    for name, its in services.items():
        assert its["restart"] == "unless-stopped"
        assert float(its["stop_grace_period"].removesuffix("s")) > grace(deployment)
        assert f"./{name}:/run/pipert:ro" in its["volumes"]
    assert {path.partition("/")[0] for path in files} == {"compose.yaml", "pipeline.yaml", *services}
    with pytest.raises(ValueError, match="shm_sizes"):
        PyCompose.from_yaml(text.replace("shm_size", "shm_sizes"))


def test_kubernetes_fits_its_schemas(deployment: Deployment) -> None:
    (text,) = kubernetes.files_of(deployment, "registry.example/pipert:1").values()
    objects = list(yaml.safe_load_all(text))
    for its in objects:
        kubernetes_validate.validate(its, KUBERNETES, strict=True)
    named: dict[tuple[str, str], Any] = {(its["kind"], its["metadata"]["name"]): its for its in objects}
    assert {kind for kind, _ in named} == {"Secret", "ConfigMap", "Service", "Deployment", "StatefulSet"}
    pods = {its["metadata"]["name"]: its["spec"]["template"] for its in objects if "template" in its.get("spec", {})}
    assert set(pods) == {"yard-hub", "yard-edge-1", "yard-gpu-1", "yard-office"}
    for name, template in pods.items():
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        claims = {
            claim["metadata"]["name"]
            for claim in named.get(("StatefulSet", name), {"spec": {}})["spec"].get("volumeClaimTemplates", [])
        }
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes) | claims
        assert set(named["Secret", volumes["certificates"]["secret"]["secretName"]]["data"]) in (OF_HUB, OF_HOST)
        assert pod["terminationGracePeriodSeconds"] > grace(deployment)
    for host in (*deployment.hosts, deployment.applier):
        volumes = {volume["name"]: volume for volume in pods[f"yard-{host.name}"]["spec"]["volumes"]}
        assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{host.shm >> 20}Mi"}
    assert pods["yard-gpu-1"]["spec"]["nodeSelector"] == {"gpu": "true"}
    assert named["Service", "hub"]["spec"]["selector"] == pods["yard-hub"]["metadata"]["labels"]
    broken = {**objects[-1], "speck": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_a_file_all_of_whose_flows_name_a_host_is_applied_once(folder: Path) -> None:
    its = deployment_of(
        changed(folder, WITHOUT_TLS, ("output: {routines: [lines]}", "output: {routines: [lines], host: disk}")), None
    )
    assert not its.runs_here
    services = yaml.safe_load(compose.files_of(its, "pipert")["compose.yaml"])["services"]
    assert (services["office"]["restart"], "shm_size" in services["office"]) == ("on-failure", False)
    (text,) = kubernetes.files_of(its, "pipert").values()
    job = list(yaml.safe_load_all(text))[-1]
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    assert job["kind"] == "Job"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(deployment: Deployment, tmp_path: Path) -> None:
    files = systemd.files_of(deployment, "")
    units = {path: data.decode() for path, data in files.items() if path.endswith(".service")}
    assert set(units) == {
        "hub/pipert-hub.service",
        "edge-1/pipert-agent.service",
        "gpu-1/pipert-agent.service",
        "office/pipert-yard.service",
    }
    for path, text in units.items():
        place = tmp_path / path
        place.parent.mkdir()
        place.write_text(text.replace(systemd.PROGRAM, sys.executable).replace("=pipert\n", "=root\n"))
        end = subprocess.run(["systemd-analyze", "verify", place], capture_output=True, text=True)
        assert (end.returncode, end.stderr) == (0, ""), path
        place.write_text(place.read_text().replace("RestartSec", "RestartSecs"))
        assert "RestartSecs" in subprocess.run(["systemd-analyze", "verify", place], capture_output=True, text=True).stderr
    agent = units["gpu-1/pipert-agent.service"]
    assert "ExecStart=/opt/pipert/bin/pipert-shm agent /etc/pipert/gpu-1 --label gpu=true\n" in agent
    assert "KillMode=process\n" in agent, "pipes go on when their agent is restarted"
    assert f"-ge {deployment.hosts[1].shm} " in agent
    check = agent.split("ExecStartPre=/bin/sh -c '")[1].split("'\n")[0].replace("$$", "$").replace("%%", "%")
    assert subprocess.run(["sh", "-c", check.replace(f"-ge {deployment.hosts[1].shm}", "-ge 1")]).returncode == 0
    small = subprocess.run(["sh", "-c", check.replace(f"-ge {deployment.hosts[1].shm}", f"-ge {1 << 60}")], capture_output=True)
    assert (small.returncode, b"remount" in small.stderr) == (1, True)


def test_the_examples_are_what_is_exported(deployment: Deployment) -> None:
    """Write them anew: `python tests/test_export.py`."""
    for path, data in exported(deployment).items():
        assert (EXAMPLE / path).read_bytes() == data, path


def exported(deployment: Deployment) -> dict[str, bytes]:
    """What the example shows: all but certificates and keys, and the pipeline's file."""
    units = systemd.files_of(deployment, "")
    shown = {f"systemd/{path}": data for path, data in units.items() if path.endswith(".service")}
    return shown | {"compose.yaml": compose.files_of(deployment, "pipert")["compose.yaml"]}


def test_the_command_writes_files_that_only_their_owner_reads(folder: Path, tmp_path: Path) -> None:
    for manager in ("compose", "kubernetes", "systemd"):
        assert main(["export", manager, "pipeline.yaml", "-o", str(tmp_path / manager)]) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 40
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


# ---- and it runs ---------------------------------------------------------------------------------


def may_make_namespaces() -> bool:
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "br0", "type", "bridge"]
    return all(map(shutil.which, ("unshare", "ip"))) and subprocess.run(apart, capture_output=True).returncode == 0


def test_the_services_of_compose_run_in_namespaces(folder: Path, deployment: Deployment, tmp_path: Path) -> None:
    """A hub and three hosts that know each other by certificates only, each with a network and a /dev/shm of its own."""
    if not may_make_namespaces():
        pytest.skip("network namespaces can't be made here")
    for path, data in compose.files_of(deployment, "pipert").items():
        (tmp_path / "there" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / path).write_bytes(data)
    (tmp_path / "app").mkdir()
    (tmp_path / "data").mkdir()
    shutil.copy(folder / "clip.mp4", tmp_path / "app")
    command: list[str | Path] = [
        sys.executable,
        PACKAGE_ROOT / "tests" / "compose_hosts.py",
        *(tmp_path / name for name in ("there", "app", "data")),
    ]
    lines, errors = tmp_path / "data" / "office" / "detections.jsonl", tmp_path / "errors"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
    with (
        errors.open("w") as err,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, env=environment) as process,
    ):
        try:
            eventually(lambda: lines.exists() and lines.read_text().count("\n") >= 5, "five frames at the office", 90)
            out, _ = process.communicate(timeout=90)
        finally:
            process.send_signal(signal.SIGKILL)
    assert json.loads(out) == {"office": 130, "gpu-1": 0, "edge-1": 0, "hub": 0}, errors.read_text()
    assert '"origin": "lines-from-detector@gpu-1"' in lines.read_text()


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    for shown_path, shown_data in exported(deployment_of(Path("pipeline.yaml"), None)).items():
        (EXAMPLE / shown_path).parent.mkdir(parents=True, exist_ok=True)
        (EXAMPLE / shown_path).write_bytes(shown_data)
