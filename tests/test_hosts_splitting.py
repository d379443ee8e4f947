"""A file for several hosts becomes a file for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipert_shm import ConfigError, PipelineFile
from pipert_shm.agents.code import ABSENT, differing, modules_in, sources_of
from pipert_shm.agents.placing import Shares, place
from pipert_shm.agents.splitting import Part, hub_in, reachable, split, written
from pipert_shm.hosts import Hub
from pipert_shm.pipeline_file.reader import YamlFile

HOSTS = "hosts: {hub: tls/hub.example:7447, ca: ca.pem, certificate: me.pem, key: me.key}\n"
YARD = """\
pipe: {name: yard, policy: block, memory_budget: 1000000}
hosts: {hub: tls/hub.example:7447, ca: ca.pem, certificate: me.pem, key: me.key}
api: {port: 0}
logging: {levels: {yard.gate: DEBUG, yard: WARNING, yards: ERROR}}
routines:
  camera: {class: pipert_shm.VideoSource, parameters: {source: walk.mp4, since: 2026-02-28, share: 1e-05}}
  detector: {class: pipert_shm.MotionDetector, fps: 5}
  tracker: {class: yards.Tracker}
  writer: {class: pipert_shm.JsonLinesWriter, parameters: {path: out.jsonl}}
flows:
  gate: {routines: [camera], host: edge-1, cpus: [0]}
  detect: {routines: [detector, tracker], auto_wire: true, host: {gpu: "true"}, replicas: 3}
  output: {routines: [writer]}
wires:
  - {source: camera, destinations: [detector, writer], policy: drop_oldest, codec: jpeg, window: 4, max_age: 0.5, capacity: 3}
  - {source: tracker, destinations: [writer]}
"""
ONE = {"gate": {"edge-1": 1}, "detect": {"gpu-1": 3}, "output": {"desk": 1}}
TWO: dict[str, Shares] = {**ONE, "detect": {"gpu-1": 2, "gpu-2": 1}}


def file_of(text: str = YARD) -> PipelineFile:
    return PipelineFile(Path("yard.yaml"), text)


def parts_of(placement: dict[str, Shares], text: str = YARD) -> dict[str, Part]:
    return split(file_of(text), placement, "desk")


def read(part: Part) -> PipelineFile:
    """The part, as its host reads it."""
    return PipelineFile(Path("part.yaml"), reachable(part.text, part.remotes, Hub(connect="tcp/hub:1")))


def pairs(part: Part) -> set[tuple[str, str]]:
    return {(wire["source"], to) for wire in part.data["wires"] for to in wire["destinations"]}


def test_each_host_gets_its_flows_and_both_ends_of_the_wires_that_cross() -> None:
    parts = parts_of(ONE)
    assert {host: list(part.data["flows"]) for host, part in parts.items()} == {
        "desk": ["output", "writer-from-camera@edge-1", "writer-from-tracker@gpu-1"],
        "edge-1": ["gate", "camera-to-detector@gpu-1", "camera-to-writer@desk"],
        "gpu-1": ["detect", "detector-from-camera@edge-1", "tracker-to-writer@desk"],
    }
    assert pairs(parts["edge-1"]) == {("camera", "camera-to-detector@gpu-1"), ("camera", "camera-to-writer@desk")}
    assert pairs(parts["gpu-1"]) == {("detector-from-camera@edge-1", "detector"), ("tracker", "tracker-to-writer@desk")}
    for part in parts.values():
        file = read(part)
        assert file.settings.hosts is None, "an ordinary file"
        assert set(part.remotes) == {name for name in file.settings.routines if "@" in name}
    wire = parts["edge-1"].data["wires"][0]
    assert (wire["policy"], wire["capacity"], wire["max_age"]) == ("drop_oldest", 3, 0.5)
    sender = parts["edge-1"].data["routines"]["camera-to-detector@gpu-1"]["parameters"]
    receiver = parts["gpu-1"].data["routines"]["detector-from-camera@edge-1"]["parameters"]
    assert sender["key"] == receiver["key"]
    assert (sender["codec"], sender["window"], sender["max_age"], sender["policy"]) == ("jpeg", 4, 0.5, "drop_oldest")
    assert parts["gpu-1"].data["routines"]["tracker-to-writer@desk"]["parameters"]["policy"] == "block", "as the pipe says"
    assert "bit_rate" not in sender
    film = parts_of(ONE, YARD.replace("codec: jpeg", "codec: h264, bit_rate: 2000000"))["edge-1"]
    assert film.data["routines"]["camera-to-detector@gpu-1"]["parameters"]["bit_rate"] == 2_000_000
    read(film)


def test_what_is_of_the_whole_pipe_goes_to_each_host() -> None:
    parts = parts_of(ONE)
    assert {host: part.data["pipe"]["name"] for host, part in parts.items()} == {
        "desk": "yard",
        "edge-1": "yard@edge-1",
        "gpu-1": "yard@gpu-1",
    }
    assert parts["edge-1"].data["logging"]["levels"] == {
        "yard@edge-1.gate": "DEBUG",
        "yard@edge-1": "WARNING",
        "yards": "ERROR",
    }
    assert [host for host, part in parts.items() if "api" in part.data] == ["desk"], "where it was said"
    camera = read(parts["edge-1"]).settings.routines["camera"]
    assert camera == file_of().settings.routines["camera"], "a day, and a number that YAML might take for a text"


def test_wires_within_a_host_stay_what_they_are() -> None:
    here = {"gate": {"desk": 1}, "detect": {"desk": 3}, "output": {"desk": 1}}
    (part,) = parts_of(here).values()
    assert part.remotes == []
    assert pairs(part) == {("camera", "detector"), ("camera", "writer"), ("tracker", "writer")}
    assert part.data["flows"]["detect"]["replicas"] == 3


def test_replicas_that_are_spread_are_sent_to_by_who_has_least_to_do() -> None:
    parts = parts_of(TWO)
    assert [parts[host].data["flows"]["detect"]["replicas"] for host in ("gpu-1", "gpu-2")] == [2, 1]
    sender = "camera-to-detector@gpu-1+gpu-2"
    edge = parts["edge-1"]
    assert edge.data["flows"][sender] == {"routines": [sender], "auto_wire": False, "replicas": 2}
    told = edge.data["routines"][sender]
    receivers = {host: parts[host].data["routines"]["detector-from-camera@edge-1"] for host in ("gpu-1", "gpu-2")}
    assert told["class"] == "pipert_shm.hosts.SharedSender"
    assert told["parameters"]["ends"] == [{"key": its["parameters"]["key"], "peer": host} for host, its in receivers.items()]
    assert (told["parameters"]["codec"], told["parameters"]["window"], told["parameters"]["max_age"]) == ("jpeg", 4, 0.5)
    assert ("camera", sender) in pairs(edge)
    assert edge.remotes.count(sender) == 1
    assert {name for name in parts["desk"].data["routines"] if "tracker" in name} == {
        "writer-from-tracker@gpu-1",
        "writer-from-tracker@gpu-2",
    }
    made = PipelineFile(Path("edge.yaml"), reachable(edge.text, edge.remotes, Hub(connect="tcp/a:1"))).make_routines([sender])
    assert made[sender].replicable


def test_a_source_on_one_of_their_hosts_gives_that_host_its_share_too() -> None:
    parts = parts_of({**TWO, "gate": {"gpu-1": 1}})
    assert ("camera", "camera-to-detector@gpu-1") in pairs(parts["gpu-1"])
    assert ("camera-to-detector@gpu-1", "detector") in pairs(parts["gpu-1"])
    assert parts["gpu-1"].data["routines"]["camera-to-detector@gpu-1"]["class"] == "pipert_shm.hosts.Share"


def test_a_field_of_a_part_is_told_as_one_of_the_file() -> None:
    part = parts_of(ONE)["gpu-1"]
    assert part.place_of("routines.tracker.class") == ("routines", "tracker", "class")
    assert part.place_of("wires[1].policy") == ("wires", 1, "policy")
    assert parts_of(ONE)["edge-1"].place_of("wires[1]") == ("wires", 0)
    assert part.place_of("routines.tracker-to-writer@desk.class") == ("wires",)


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("policy: drop_oldest", "policy: drop_newest", 15, "between hosts it is drop_oldest or block, not drop_newest"),
        ("codec: jpeg", "codec: jpg", 15, "there is no codec 'jpg'"),
        ("codec: jpeg", "codec: jpeg, bit_rate: 2000000", 15, "is for codec h264, h265, auto; this wire's is jpeg"),
        ("codec: jpeg", "codec: h264, bit_rate: 9", 15, "greater than or equal to 10000"),
        ("  tracker: {", "  camera-to-writer@desk: {class: a.B}\n  tracker: {", 8, "is in no flow"),
        ("replicas: 3", "replicas: 3, ordered: true", 12, "can't be ordered"),
        ("window: 4", "window: 65", 15, "less than or equal to 64"),
        ("host: edge-1", "host: 1", 11, "give a host's name, or its labels as texts"),
        ('{gpu: "true"}', "{gpu: true}", 12, 'as texts, such as {gpu: "true"}'),
        (
            HOSTS,
            "",
            11,
            "needs a section `hosts`",
        ),
    ],
)
def test_what_can_not_be_is_told_with_its_line(old: str, new: str, line: int, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parts_of(TWO, YARD.replace(old, new))
    assert any(text in fault.message and fault.line == line for fault in refused.value.faults), refused.value


def test_names_that_are_needed_between_hosts_are_refused_where_others_have_them() -> None:
    name = "camera-to-writer@desk"
    text = YARD.replace("  tracker: {", f"  {name}: {{class: a.B}}\n  tracker: {{")
    text = text.replace("[writer]}\n", f"[writer, {name}]}}\n", 1)
    with pytest.raises(ConfigError, match=r"is called 'camera-to-writer@desk', as another one is"):
        parts_of(ONE, text)


def test_a_file_for_several_hosts_makes_no_pipe_by_itself() -> None:
    with pytest.raises(ConfigError, match=r"yard\.yaml:2: hosts: its flows are for several hosts"):
        file_of().make_pipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("routines: {}\n", "has no section `hosts`"),
        ("hosts: {hubs: tcp/a:1}\n", "did you mean 'hub'"),
        ("hosts: {hub: udp/a:1}\n", "'tcp/HOST:PORT' or 'tls/HOST:PORT'"),
        ("hosts: {hub: tls/a:1, ca: ca.pem}\n", "there is no certificate, key"),
    ],
)
def test_a_hub_that_is_not_told_right_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hub_in(YamlFile(Path("yard.yaml"), text))


# ---- placing -------------------------------------------------------------------------------------


def labelled(*names: str) -> dict[str, dict[str, str]]:
    return {name: {"gpu": "true"} for name in names} | {"plain": {}}


def test_the_same_labels_choose_the_same_host_in_any_order() -> None:
    names = [f"gpu-{number}" for number in range(8)]
    chosen = place({"gpu": "true"}, 1, labelled(*names), "desk", "yard")
    assert place({"gpu": "true"}, 1, labelled(*reversed(names)), "desk", "yard") == chosen
    pipes = {next(iter(place({"gpu": "true"}, 1, labelled(*names), "desk", f"pipe-{number}"))) for number in range(64)}
    assert pipes == set(names), "many pipes are spread"
    (host,) = chosen
    fewer = [name for name in names if name != host]
    other = next(name for name in fewer if name != host)
    assert place({"gpu": "true"}, 1, labelled(*(name for name in names if name != other)), "desk", "yard") == chosen


def test_replicas_are_spread_and_none_is_lost() -> None:
    for replicas in range(1, 9):
        shares = place({"gpu": "true"}, replicas, labelled("a", "b", "c"), "desk", "yard")
        assert sum(shares.values()) == replicas
        assert max(shares.values()) - min(shares.values()) <= 1
        assert len(shares) == min(replicas, 3)


def test_labels_that_no_host_has_are_told_with_those_that_there_are() -> None:
    with pytest.raises(LookupError, match=r"has the labels gpu=no; there are: a \(gpu=true\); plain \(no labels\)"):
        place({"gpu": "no"}, 1, labelled("a"), "desk", "yard")


# ---- code ----------------------------------------------------------------------------------------


def test_code_is_compared_by_its_source_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "nets" / "small.py").write_text("one = 1")
    data: dict[str, Any] = {"routines": {"a": {"class": "nets.small.Net", "parameters": {"of": [{"class": "lacking.It"}]}}}}
    assert modules_in(data) == {"nets.small", "lacking"}
    ours = sources_of(modules_in(data), str(tmp_path))
    assert ours["lacking"] == ABSENT
    assert differing({"a": ours, "b": ours}) == []
    (tmp_path / "nets" / "small.py").write_text("one = 2")
    (told,) = differing({"a": ours, "b": sources_of(["nets.small"], str(tmp_path))})
    assert told.startswith("module 'nets.small' is not the same on a (")


def test_code_that_a_module_imports_of_its_own_folder_is_compared_too(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("")
    (tmp_path / "nets" / "small.py").write_text(
        "import numpy\nfrom . import parts\nfrom .deep.er import x\nimport shared, gone"
    )
    (tmp_path / "nets" / "parts.py").write_text("from nets import small  # a ring")
    (tmp_path / "shared.py").write_text("def f():\n    import late")
    (tmp_path / "late.py").write_text("this is no Python")
    (tmp_path / "other.py").write_text("")
    ours = sources_of(["nets.small"], str(tmp_path))
    assert sorted(ours) == ["late", "nets", "nets.parts", "nets.small", "shared"]
    (tmp_path / "late.py").write_text("one = 2")
    (told,) = differing({"a": ours, "b": sources_of(["nets.small"], str(tmp_path))})
    assert told.startswith("module 'late' is not the same on a (")


def test_what_is_written_reads_as_it_was() -> None:
    data = {"a": ["1", 1, 1.0, "true", True, None, "", "x: y", "a\nb", "# c", "1e5", "0x1f", "~"], "b": {"1": {"c": []}}}
    assert YamlFile(Path("a.yaml"), written(data)).data == data
