"""Pipelines in YAML: what they make, and what is said of those that do not fit."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import PACKAGE_ROOT
from pipert_shm import START_EVENT_NAME, BasicTransmitter, ConfigError, Fault, PipelineFile
from pipert_shm.cli.run import load
from pipert_shm.graph.model import Restart
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.pipeline_file.schema import schema

CLASSES = """
from pipert_shm import BatchRoutine, DestinationRoutine, EndOfStream, MiddleRoutine, SourceRoutine

class Count(SourceRoutine):
    hang_timeout = 9.0

    def __init__(self, name, *, until, prefix=""):
        super().__init__(name)
        if until < 0:
            raise ValueError(f"until must be positive, not {until}")
        self.until, self.prefix = until, prefix

    def main_logic(self):
        if self.meta.sequence == self.until:
            raise EndOfStream
        return self.prefix + str(self.meta.sequence)

class Double(MiddleRoutine):
    def main_logic(self, text):
        return text + text

class Write(DestinationRoutine):
    def __init__(self, name, path):
        super().__init__(name)
        self.path = path

    def main_logic(self, text):
        with open(self.path, "a") as file:
            file.write(text + "\\n")

class NotOne:
    pass
"""

WHOLE = """
routines:
  count:
    class: {module}.Count
    parameters: {{until: 40, prefix: "n"}}
    fps: 500
    hang_timeout: 4
  double: {{class: {module}.Double, max_errors: 3}}
  write: {{class: {module}.Write, parameters: {{path: {directory}/written}}}}
flows:
  first:
    routines: [count]
    restart: always
    max_restarts: 7
    restart_window: 30
    max_rss: 2_000_000_000
    cpus: [{cpu}]
    nice: 19
  workers: {{routines: [double], replicas: 2, ordered: true}}
  last: {{routines: [write]}}
wires:
  - source: count
    destinations: [double]
    capacity: 8
    timeout: 5
    max_age: 60
  - source: double
    destinations: [write]
    policy: drop_newest
    capacity: 64
    data_transmitter: {{class: pipert_shm.BasicTransmitter}}
pipe:
  name: Whole
  policy: block
  capacity: 4
  data_transmitter: {{class: pipert_shm.SharedMemoryTransmitter, parameters: {{data_size_threshold: 100}}}}
  memory_budget: 50_000_000
  auto_pacing_mechanism: true
  on_failure: stop
  grace_period: 2
api: {{port: 0}}
logging: {{level: DEBUG, levels: {{Whole.first: ERROR}}, file: log}}
"""

SHORT = """
routines:
  count: {class: MODULE.Count, parameters: {until: 3}}
  write: {class: MODULE.Write, parameters: {path: out}}
flows:
  both: {routines: [count, write], auto_wire: true}
"""

Write = Callable[[str], Path]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module beside the file. Its name is a new one, since modules stay loaded."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"classes_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CLASSES)
    return name


@pytest.fixture
def write(tmp_path: Path, module: str) -> Write:
    """Writes the file; MODULE stands for the module beside it."""

    def write(text: str) -> Path:
        path = tmp_path / "pipeline.yaml"
        path.write_text(text.replace("MODULE", module))
        return path

    return write


def faults_of(path: Path) -> list[str]:
    """What is said of the file, without its path."""
    with pytest.raises(ConfigError) as refused:
        PipelineFile(path).make_pipe()
    assert str(refused.value) == "\n".join(map(str, refused.value.faults))
    assert all(fault.file == str(path) for fault in refused.value.faults)
    return [str(fault).removeprefix(f"{path}:") for fault in refused.value.faults]


# ---- files that fit ------------------------------------------------------------------------------


def test_all_that_a_file_says_is_done(tmp_path: Path, module: str, write: Write) -> None:
    file = PipelineFile(write(WHOLE.format(module=module, directory=tmp_path, cpu=min(os.sched_getaffinity(0)))))
    pipe = file.make_pipe()
    assert pipe.logger is logging.getLogger("Whole")
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert (tmp_path / "written").read_text().split() == [f"n{number}n{number}" for number in range(40)]
    statistics = pipe.statistics()
    wires = {ends: (wire.policy, wire.capacity) for ends, wire in statistics.wires.items()}
    assert wires == {
        **{("count", f"double#{n}"): ("block", 8) for n in range(2)},
        **{(f"double#{n}", "write"): ("drop_newest", 64) for n in range(2)},
    }
    plan = pipe._built().plan
    assert plan.restarts["first"] == Restart("always", 7, 30.0)
    assert plan.restarts["last"] == Restart()
    settings = ProcessSettings(2_000_000_000, frozenset({min(os.sched_getaffinity(0))}), 19)
    assert (plan.processes["first"], plan.processes["last"]) == (settings, ProcessSettings())
    count, double = plan.get("count").routine, plan.get("double#0").routine
    assert (count._const_fps, count.hang_timeout, count.max_errors) == (500.0, 4.0, None)
    assert (double._const_fps, double.hang_timeout, double.max_errors) == (0.0, None, 3)
    to_double, to_write = plan.edges[0], list(plan.edges)[-1]
    assert (to_double.timeout, to_double.max_age, to_double.transmitter.data_size_threshold) == (5.0, 60.0, 100)
    assert (to_write.timeout, to_write.max_age, type(to_write.transmitter)) == (None, None, BasicTransmitter)
    assert plan.auto_pacing
    assert (pipe._memory_budget, pipe._stop_on_failure, pipe._grace) == (50_000_000, True, 2.0)
    assert file.settings.api is not None
    assert (file.settings.api.host, file.settings.api.port) == ("127.0.0.1", 0)
    logs = file.settings.logging
    assert (logs.level, logs.levels, logs.file) == ("DEBUG", {"Whole.first": "ERROR"}, "log")


def test_what_a_file_does_not_say_is_as_the_classes_say(write: Write) -> None:
    file = PipelineFile(write(SHORT))
    pipe = file.make_pipe()
    (flow,) = pipe.flows.values()
    count, written = flow.routines.values()
    assert (count.hang_timeout, count._const_fps) == (9.0, 0.0)
    assert [(wire.source, wire.destinations) for wire in pipe._blueprint.wires] == [(count, (written,))]
    assert pipe._blueprint.defaults.queue == ("drop_oldest", 2, None)
    assert file.settings.api is None


def test_yaml_is_1_2_with_anchors_and_merges(write: Write) -> None:
    text = """
routines:
  count: {class: MODULE.Count, parameters: &counting {until: 0o17, prefix: no}}
  again: {class: MODULE.Count, parameters: {<<: *counting, until: 1e1}}
flows:
  both: {routines: [count, again]}
"""
    routines = PipelineFile(write(text)).settings.routines
    assert routines["count"].parameters == {"until": 15, "prefix": "no"}
    assert routines["again"].parameters == {"until": 10.0, "prefix": "no"}


def test_the_schema_for_editors_is_current() -> None:
    path = PACKAGE_ROOT / "docs" / "pipeline.schema.json"
    assert json.loads(path.read_text()) == schema(), f"python -m pipert_shm.pipeline_file.schema > {path}"


def test_the_schema_describes_every_setting() -> None:
    for name, section in {"Pipeline": schema(), **schema()["$defs"]}.items():
        assert section.get("additionalProperties") is False, name
        for field, described in section["properties"].items():
            assert described.get("description"), f"{name}.{field}"


@pytest.mark.parametrize(("language", "suffix"), [("yaml", ".yaml"), ("python", ".py")])
def test_the_examples_of_the_documentation_are_fit_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, suffix: str
) -> None:
    text = (PACKAGE_ROOT / "docs" / "pipelines.md").read_text()
    (example,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    path = (tmp_path / "documented").with_suffix(suffix)
    path.write_text(example)
    monkeypatch.setattr(sys, "path", list(sys.path))
    structure = load(path).pipe.get_pipe_structure()
    assert [routine["routine_name"] for routine in structure["Routines"]][:2] == ["camera", "detector"]


# ---- files that don't ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ("until: 3", "untl: 3", ["3: routines.count.parameters.untl: MODULE.Count takes no 'untl'; it takes: until, prefix"]),
        (
            "MODULE.Write",
            "MODULE.Wrote",
            ["4: routines.write.class: AttributeError: module 'MODULE' has no attribute 'Wrote'; did you mean 'Write'?"],
        ),
        ("MODULE.Write", "MODULE.NotOne", ["4: routines.write.class: MODULE.NotOne is not a Routine"]),
        ("MODULE.Write", "MODULE", ["4: routines.write.class: MODULE is not a Routine"]),
        ("MODULE.Write", "nowhere.Write", ["4: routines.write.class: ModuleNotFoundError: No module named 'nowhere'"]),
        ("class: MODULE.Write, ", "", ["4: routines.write.class: is missing"]),
        (
            "parameters: {path",
            "parametres: {path",
            [
                "4: routines.write.parametres: there is no such setting; there are: class, parameters, fps, hang_timeout, max",
            ],
        ),
        (
            "[count, write]",
            "[count, wirte, count]",
            [
                "4: routines.write: is in no flow; name it in the routines of one",
                "6: flows.both.routines[1]: there is no routine 'wirte'; there are: count, write",
                "6: flows.both.routines[2]: routine 'count' is in flow 'both' already",
            ],
        ),
        (
            "auto_wire: true}",
            "auto_wire: 1}\nwires:\n  -\n    source: count\n    destinations: []\n    policy: wait\n"
            "    capacity: '8'\n    max_age: 0",
            [
                "6: flows.both.auto_wire: Input should be a valid boolean, not 1",
                "10: wires[0].destinations: List should have at least 1 item after validation, not 0",
                "11: wires[0].policy: Input should be 'drop_oldest', 'drop_newest' or 'block', not 'wait'",
                "12: wires[0].capacity: Input should be a valid integer, not '8'",
                "13: wires[0].max_age: Input should be greater than 0, not 0",
            ],
        ),
        (
            "auto_wire: true}",
            "restart: maybe}\nwires: [{source: cuont, destinations: [write, wirte]}]",
            [
                "6: flows.both.restart: Input should be 'on-failure', 'always' or 'never', not 'maybe'",
                "7: wires[0].source: there is no routine 'cuont'; there are: count, write; did you mean 'count'?",
                "7: wires[0].destinations[1]: there is no routine 'wirte'; there are: count, write; did you mean 'write'?",
            ],
        ),
        (
            "auto_wire: true}",
            "}\nwires:\n- {source: cuont, destinations: [write,\n    wirte]}",
            [
                "8: wires[0].source: there is no routine 'cuont'; there are: count, write",
                "9: wires[0].destinations[1]: there is no routine 'wirte'; there are: count, write",
            ],
        ),
        (", auto_wire: true", "", ["3: routines.count: routine 'count': in flow 'both' it is wired to no other routine"]),
        (
            "auto_wire: true}",
            "auto_wire: true}\nwires: [{source: write, destinations: [count]}]",
            ["7: wires[0]: "],
        ),
        (
            "auto_wire: true}",
            "auto_wire: true, data_transmitter: {class: MODULE.Count}}",
            ["6: flows.both.data_transmitter.class: MODULE.Count is not a DataTransmitter"],
        ),
        (
            "auto_wire: true}",
            "auto_wire: true}\npipe: {data_transmitter: {klass: x}}\napi: {port: 99999}",
            [
                "7: pipe.data_transmitter.class: is missing",
                "7: pipe.data_transmitter.klass: there is no such setting; there are: class, parameters",
                "8: api.port: Input should be less than or equal to 65535, not 99999",
            ],
        ),
        (
            "flows:",
            "flow:",
            ["2: flows: is missing", "5: flow: there is no such setting; there are: routines, flows, wires, pipe"],
        ),
        (
            "auto_wire: true}",
            "auto_wire: true}\nwires: [{source: count, destinations: [write]}, {source: count, destinations: [write]}]",
            ["7: wires[1].destinations[0]: 'count' is wired to 'write' already"],
        ),
        (
            "auto_wire: true}",
            "auto_wire: no}",
            ["6: flows.both.auto_wire: Input should be a valid boolean, not 'no': in YAML 1.2 only true and false"],
        ),
        ("  write:", "  count:", ['4: this is not YAML: while constructing a mapping, found duplicate key "count"']),
        ("}\nflows", "\nflows", ["this is not YAML: while parsing a flow mapping"]),
        ("{until: 3}", "!!python/object:os.system {}", ["3: this is not YAML: could not determine a constructor"]),
    ],
)
def test_a_fault_is_told_with_line_and_field(write: Write, module: str, old: str, new: str, faults: list[str]) -> None:
    assert old in SHORT
    told = faults_of(write(SHORT.replace(old, new, 1)))
    assert len(told) == len(faults), told
    for said, expected in zip(told, faults, strict=True):
        assert expected.replace("MODULE", module) in said


def test_faults_of_settings_names_and_classes_are_told_in_one_run(write: Write, module: str) -> None:
    path = write(
        SHORT.replace("until: 3", "untl: 3")
        .replace("path: out", "path: out, size: 3")
        .replace("auto_wire: true", "replicas: 0")
        + "wires: [{source: cuont, destinations: [write], policy: wait}, {source: count, destinations: [wirte]}]\n"
        + "pipe: {policies: block}\n"
    )
    with pytest.raises(ConfigError) as refused:
        load(path)
    fields = [(fault.line, fault.field) for fault in refused.value.faults]
    assert fields == [
        (3, "routines.count.parameters.untl"),
        (4, "routines.write.parameters.size"),
        (6, "flows.both.replicas"),
        (7, "wires[0].policy"),
        (7, "wires[1].destinations[0]"),
        (8, "pipe.policies"),
    ]


def test_flows_and_wires_that_the_pipe_refuses_are_told_together(write: Write) -> None:
    wires = "wires: [{source: count, destinations: [write], max_age: 1e9}]\npipe: {grace_period: 1e9}\n"
    faults = faults_of(write(SHORT.replace("both:", "bo/th:").replace(", auto_wire: true", "") + wires))
    assert [fault.partition(":")[2].split(":")[0] for fault in faults] == [" flows.bo/th", " wires[0]", " pipe"]


def test_a_parameter_that_the_class_refuses(write: Write, module: str, tmp_path: Path) -> None:
    line = CLASSES.splitlines().index('            raise ValueError(f"until must be positive, not {until}")') + 1
    place = f"({tmp_path / module}.py:{line})"
    refusal = f"3: routines.count.parameters: ValueError: until must be positive, not -3 {place}"
    missing = f"4: routines.write.parameters.path: is missing: {module}.Write needs it"
    assert faults_of(write(SHORT.replace("3}", "-3}").replace("{path: out}", "{}"))) == [refusal, missing]


def test_code_that_does_not_load(write: Write, tmp_path: Path) -> None:
    (tmp_path / "broken_code.py").write_text("import nothing_like_it\n")
    (tmp_path / "broken_text.py").write_text("def f(:\n")
    path = write(SHORT.replace("MODULE.Count", "broken_code.Count").replace("MODULE.Write", "broken_text.Write"))
    first, second = faults_of(path)
    place = tmp_path / "broken_code.py"
    assert first == f"3: routines.count.class: ModuleNotFoundError: No module named 'nothing_like_it' ({place}:1)"
    assert second.startswith("4: routines.write.class: SyntaxError: ")
    assert "broken_text.py, line 1" in second


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the file is empty; it needs routines and flows"),
        (b"- 1\n", "1: Input should be a mapping, with lines such as 'name: value'"),
        (b"routines: \xff\xfe", "can't be read: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError) as refused:
        PipelineFile(path)
    assert said in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file or directory"):
        PipelineFile(tmp_path / "pipeline.yaml")


def test_the_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError([Fault("a.yaml", 3, "x", "y")])))
    assert (str(error), error.faults) == ("a.yaml:3: x: y", [Fault("a.yaml", 3, "x", "y")])


def test_of_very_many_faults_a_hundred_are_told(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("routines: {}\n" + "".join(f"unknown{number}: 1\n" for number in range(500)))
    with pytest.raises(ConfigError) as caught:
        PipelineFile(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 101
    assert lines[-1] == f"and {len(caught.value.faults) - 100} faults more"
