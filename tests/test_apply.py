"""A running pipe is brought to what its file says: real processes, and what did not change loses nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from applying import Numbers, Pairs, Sink, Step, branches, notes, numbers_in, routine, wire, yard
from pipert_shm import ConfigError, NotApplied, PipeStateError
from pipert_shm.applying.service import apply_text
from waiting import eventually


def test_a_parameter_with_a_setter_is_set_without_a_restart(tmp_path: Path) -> None:
    with yard(tmp_path, branches(tmp_path)) as it:
        it.moves("step", "sink")
        pids = it.pids()
        it.data["routines"]["step"]["parameters"]["level"] = 7
        assert it.apply().difference.lines() == ["~ routine 'step', without a restart: routines.step.parameters.level: 1 -> 7"]
        assert notes(tmp_path / "step") == ["setup 1 1", "level 7"]
        assert it.pids() == pids
        it.pipe.restart_flow("step")  # its next process begins with it
        eventually(lambda: notes(tmp_path / "step")[2:] == ["setup 7 1"])


def test_a_flow_is_replaced_and_its_neighbours_go_on(tmp_path: Path) -> None:
    with yard(tmp_path, branches(tmp_path)) as it:
        it.moves("step", "sink")
        pids = it.pids()
        it.data["routines"]["step"]["parameters"]["size"] = 2
        assert list(it.apply().difference.replaced) == ["step"]
        assert notes(tmp_path / "step") == ["setup 1 1", "cleanup", "setup 1 2"]
        assert [name for name, pid in it.pids().items() if pid != pids[name]] == ["step"]
        it.moves("step", "sink")
        assert it.pipe.statistics().routines["step"].lost_in_crash == 0


def test_a_flow_comes_and_goes_and_nobody_ends_for_it(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        pids = it.pids()
        data["routines"]["other"] = routine(Step)
        data["flows"]["other"] = {"routines": ["other"]}
        data["wires"] += [wire("numbers", "other"), wire("other", "sink")]
        assert it.apply().difference.added == ("other",)
        it.moves("other", "sink")
        del data["routines"]["step"], data["flows"]["step"]
        data["wires"] = [each for each in data["wires"] if "step" not in (each["source"], *each["destinations"])]
        assert it.apply().difference.removed == ("step",)
        it.moves("other", "sink")
        assert {name: pid for name, pid in it.pids().items() if name != "other"} == {
            name: pid for name, pid in pids.items() if name != "step"
        }
        assert it.states() == dict.fromkeys(("numbers", "writer", "sink", "other"), "running")


def test_a_flow_of_other_routines_is_built_anew_and_its_receiver_waits(tmp_path: Path) -> None:
    """The sink has no other input than the flow that goes, and does not end in between."""
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        sink = it.pid("sink")
        data["routines"]["second"] = routine(Step)
        data["flows"]["step"] = {"routines": ["step", "second"], "auto_wire": True}
        data["wires"][2] = wire("second", "sink", policy="block")
        assert list(it.apply().difference.rebuilt) == ["step"]
        it.moves("second", "sink")
        assert (it.pid("sink"), it.states()["sink"]) == (sink, "running")


def test_a_flow_that_has_failed_is_made_anew_when_its_restarts_change(tmp_path: Path) -> None:
    data = branches(tmp_path)
    data["flows"]["step"]["max_restarts"] = 0
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        os.kill(it.pid("step"), signal.SIGKILL)
        eventually(lambda: it.pipe.statistics().flows["step"].state == "failed")
        data["flows"]["step"]["max_restarts"] = 3
        line = "~ flow 'step' has failed, is removed, and added anew: flows.step.max_restarts: 0 -> 3"
        assert it.apply(dry_run=True).difference.lines()[0] == line
        assert it.pipe.statistics().flows["step"].state == "failed"
        assert it.apply().difference.lines()[0] == line
        it.moves("numbers", "step")


def test_a_wire_is_linked_anew(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        data["wires"][1] |= {"policy": "drop_newest", "capacity": 5, "max_age": 60.0}
        it.apply()
        it.moves("numbers", "step")
        wires = it.pipe.statistics().wires
        assert (wires["numbers", "step"].policy, wires["numbers", "step"].capacity) == ("drop_newest", 5)
        del data["wires"][1]["policy"], data["wires"][1]["capacity"], data["wires"][1]["max_age"]
        it.apply()
        it.moves("numbers", "step")
        wires = it.pipe.statistics().wires
        assert wires["numbers", "step"].policy == "drop_oldest"  # the queue stays as long as it was, if a message waited in it


def test_a_rate_changes_without_a_restart_and_stays_after_one(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        pid = it.pid("numbers")
        data["routines"]["numbers"]["fps"] = 1.0 / 3600
        it.apply()
        assert it.pid("numbers") == pid
        it.pipe.restart_flow("numbers")
        eventually(lambda: notes(tmp_path / "numbers") == ["setup"] * 2)
        assert it.pipe.flows["numbers"].routines["numbers"]._const_fps == 1.0 / 3600


# ---- nothing is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "rounds"), [("block", 20), ("drop_oldest", 4)])
def test_what_does_not_change_loses_nothing(tmp_path: Path, policy: str, rounds: int) -> None:
    """A camera sends to a writer, while the branch beside it is changed many times in every way.

    By `block` at any speed; by `drop_oldest` at a camera's, in a queue that outlasts a busy machine.
    """
    data = branches(tmp_path)
    data["wires"][0] |= {"policy": policy}
    if policy == "drop_oldest":
        data["wires"][0]["capacity"] = 64
        data["routines"]["numbers"]["fps"] = 25.0
    with yard(tmp_path, data) as it:
        it.moves("numbers", "writer")
        for round in range(rounds):
            step = data["routines"]["step"]["parameters"]
            if round % 4 == 0:
                step["level"] = round + 20
            elif round % 4 == 1:
                step["size"] = round + 20
            elif round % 4 == 2:
                data["wires"][1]["capacity"] = 1 + round % 7
            else:
                data["flows"]["step"]["routines"].append(f"more{round}")
                data["routines"][f"more{round}"] = routine(Step)
                data["wires"].append(wire("step", f"more{round}"))
                data["wires"].append(wire(f"more{round}", "sink"))
            assert it.apply().difference
        it.moves("step", "sink")
        it.moves("numbers", "writer")
        assert notes(tmp_path / "numbers") == ["setup"]
        assert notes(tmp_path / "writer") == ["setup"]
        it.pipe.join(to_kill=True)
    numbers = numbers_in(tmp_path / "written")
    assert len(numbers) > rounds
    assert (numbers == range(len(numbers))).all()


def test_a_join_goes_with_the_cameras_that_it_joins(tmp_path: Path) -> None:
    data = branches(tmp_path)
    data["routines"] |= {"left": routine(Numbers, fps=100.0), "right": routine(Numbers, fps=100.0), "pairs": routine(Pairs)}
    data["flows"] |= {name: {"routines": [name]} for name in ("left", "right", "pairs")}
    data["wires"] += [wire("left", "pairs"), wire("right", "pairs")]
    with yard(tmp_path, data) as it:
        it.moves("left", "pairs", 1)
        for name in ("left", "right", "pairs"):
            del data["routines"][name], data["flows"][name]
        data["wires"] = data["wires"][:3]
        assert set(it.apply().difference.removed) == {"left", "right", "pairs"}
        it.moves("step", "sink")


def test_a_pipe_that_was_changed_by_other_means_is_not_compared(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.pipe.remove_flow("sink")
        data["routines"]["step"]["parameters"]["level"] = 7
        with pytest.raises(PipeStateError, match=r"by other means than the file \(sink, step -> sink\): run it afresh"):
            it.apply()
        it.moves("numbers", "writer")


def test_an_age_that_the_file_says_no_more_of_does_not_count(tmp_path: Path) -> None:
    data = branches(tmp_path)
    data["wires"][1]["max_age"] = 1e-6
    with yard(tmp_path, data) as it:
        eventually(lambda: it.pipe.statistics().wires["numbers", "step"].dropped.get("expired", 0) > 5)
        del data["wires"][1]["max_age"]
        it.apply()
        it.moves("numbers", "step")


def test_only_the_pipes_own_file_may_trust_a_recording(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        data["routines"]["old"] = {"class": "pipert_shm.Replay", "parameters": {"path": "old.mcap", "trust": True}}
        data["flows"]["old"] = {"routines": ["old"]}
        data["wires"].append(wire("old", "sink"))
        it.save()
        with pytest.raises(ConfigError, match=r"routines\.old\.parameters\.trust: only the pipe's own file may trust"):
            apply_text(it.pipe, it.path.read_text())
        it.moves("step", "sink")


# ---- what fails is put back ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (13, "routines.step: setup failed: RuntimeError: there is no such size; the pipe is as it was before"),
        (14, "flows.step: flow 'step' exited with status 14, before setup() of its routines was done; the pipe is as it was"),
    ],
)
def test_a_setup_that_fails_is_put_back(tmp_path: Path, size: int, said: str) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        pids = it.pids()
        data["routines"]["step"]["parameters"] |= {"size": size, "level": 5}
        data["routines"]["extra"] = routine(Sink)
        data["flows"]["extra"] = {"routines": ["extra"]}
        data["wires"].append(wire("numbers", "extra"))
        data["wires"][1]["policy"] = "drop_newest"
        with pytest.raises(NotApplied, match="as it was before") as raised:
            it.apply()
        assert said in str(raised.value)
        assert raised.value.restored
        assert "yard.yaml" in raised.value.faults[0].file
        assert raised.value.faults[0].line > 0
        it.moves("step", "sink")
        assert it.pids().keys() == pids.keys()
        assert [name for name, pid in it.pids().items() if pid != pids[name]] == ["step"]
        assert notes(tmp_path / "step")[-1] == "setup 1 1"
        assert it.pipe.statistics().wires["numbers", "step"].policy == "drop_oldest"
        data["routines"]["step"]["parameters"] |= {"size": 3}
        assert it.apply().difference.added == ("extra",)
        it.moves("step", "sink")
        it.moves("numbers", "extra")


def test_a_setter_that_fails_is_put_back(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        pids = it.pids()
        data["routines"]["step"]["parameters"]["level"] = 13
        with pytest.raises(NotApplied, match=r"routines\.step: RuntimeError: 13 can't be set; the pipe is as it was before"):
            it.apply()
        assert it.pids() == pids
        assert notes(tmp_path / "step") == ["setup 1 1", "level 1"]


def test_a_constructor_that_raises_touches_nothing(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        pids = it.pids()
        data["routines"]["step"]["parameters"]["level"] = -1
        with pytest.raises(ConfigError, match="level must be at least 0, not -1"):
            it.apply()
        assert it.pids() == pids
        it.moves("step", "sink")


def test_a_pipe_that_stops_at_failures_outlives_one_that_is_put_back(tmp_path: Path) -> None:
    data = branches(tmp_path)
    data["pipe"]["on_failure"] = "stop"
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        data["routines"]["step"]["parameters"]["size"] = 13
        with pytest.raises(NotApplied):
            it.apply()
        it.moves("step", "sink")
        assert it.pipe._session is not None
        assert not it.pipe._session.outcome.causes


def test_settings_of_the_whole_pipe_are_refused_by_name(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        data["pipe"]["grace_period"] = 3.0
        data["api"] = {"port": 0}
        with pytest.raises(ConfigError) as raised:
            it.apply()
        assert [fault.field for fault in raised.value.faults] == ["pipe.grace_period", "api"] or [
            fault.field for fault in raised.value.faults
        ] == ["api", "pipe.grace_period"]
        assert "run the file afresh" in str(raised.value)
