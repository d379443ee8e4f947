"""A running pipe is brought to what its file says: real processes, and what did not change loses nothing."""

from __future__ import annotations

from pathlib import Path

from applying import branches, notes, yard
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
