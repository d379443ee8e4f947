"""Replicas, joins, and wires with transmitters of their own: what a file changes of them while the pipe runs."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from applying import Numbers, Pairs, Sink, Writer, Yard, added, branches, notes, numbers_in, routine, wire, yard
from pipert_shm import NotApplied
from waiting import eventually


def lanes(directory: Path, **options: Any) -> dict[str, Any]:
    """Numbers to a writer without loss, and by a step to another one; and what else is said of the step's flow."""
    data = branches(directory)
    data["routines"]["results"] = routine(Writer, path=str(directory / "results"), runs=str(directory / "ends"))
    data["flows"]["results"] = {"routines": ["results"]}
    data["wires"] += [wire("step", "results", policy="block"), wire("numbers", "sink")]
    data["wires"][1]["policy"] = "block"
    data["flows"]["step"] |= options
    return data


def grows(path: Path, more: int = 30) -> None:
    before = len(numbers_in(path)) if path.exists() else 0
    eventually(lambda: path.exists() and len(numbers_in(path)) >= before + more, f"{more} more in {path.name}")


def assert_whole(directory: Path, it: Yard) -> None:
    """What did not change has lost nothing, and has run on."""
    assert it.pipe.statistics().wires["numbers", "writer"].lost == 0
    it.pipe.join(to_kill=True)
    numbers = numbers_in(directory / "written")
    assert len(numbers) > 100
    assert (numbers == range(len(numbers))).all()
    assert (notes(directory / "numbers"), notes(directory / "writer")) == (["setup", "cleanup"],) * 2


def test_a_flow_gets_replicas_more_of_them_and_none(tmp_path: Path) -> None:
    """In order, and the routine that restores the order runs on."""
    data = lanes(tmp_path)
    with yard(tmp_path, data) as it:
        grows(tmp_path / "results")
        for replicas, ordered in ((3, True), (2, True), (1, False), (2, True)):
            data["flows"]["step"] |= {"replicas": replicas, "ordered": ordered}
            assert list(it.apply().difference.rebuilt) == ["step"]
            count = sum(name.startswith("step") for name in it.pipe.statistics().flows)
            assert count == replicas
            grows(tmp_path / "results")
        level = data["routines"]["step"]["parameters"]
        level["level"] = 7
        assert not it.apply().difference.rebuilt
        assert notes(tmp_path / "step")[-2:] == ["level 7"] * 2  # in each of them
        level["size"] = 2
        assert list(it.apply().difference.replaced) == ["step"]
        grows(tmp_path / "results")
        assert notes(tmp_path / "ends") == ["setup"]
        assert_whole(tmp_path, it)
    assert (np.diff(numbers_in(tmp_path / "results")) > 0).all()


def test_wires_to_replicas_and_from_them_come_and_go(tmp_path: Path) -> None:
    data = lanes(tmp_path, replicas=2, ordered=True)
    with yard(tmp_path, data) as it:
        grows(tmp_path / "results")
        pids = it.pids()
        data["wires"][1] |= {"capacity": 6}
        data["wires"][3]["policy"] = "drop_oldest"
        assert it.apply().difference.relinked.keys() == {("numbers", "step"), ("step", "results")}
        grows(tmp_path / "results")
        assert it.pids() == pids
        data["routines"]["other"] = routine(Numbers, fps=100.0)
        data["flows"]["other"] = {"routines": ["other"]}
        data["wires"].append(wire("other", "step", policy="block"))
        it.apply()
        it.moves("other", "step#0")
        it.moves("other", "step#1")
        data["flows"]["other"]["routines"].append("more")  # so the one before the replicas is built anew
        data["routines"]["more"] = routine(Sink)
        data["wires"].append(wire("other", "more"))
        assert list(it.apply().difference.rebuilt) == ["other"]
        it.moves("other", "step#0")
        del data["routines"]["other"], data["flows"]["other"], data["routines"]["more"]
        del data["wires"][-2:], data["wires"][2]
        it.apply()
        it.moves("step#0", "results")
        it.moves("step#1", "results")
        it.moves("numbers", "sink")
        assert {name: pid for name, pid in it.pids().items() if name in pids} == pids
        assert_whole(tmp_path, it)


@pytest.mark.parametrize("size", [13, 14])
def test_replicas_that_fail_are_put_back(tmp_path: Path, size: int) -> None:
    data = lanes(tmp_path, replicas=2, ordered=True)
    with yard(tmp_path, data) as it:
        grows(tmp_path / "results")
        data["flows"]["step"] |= {"replicas": 3}
        data["routines"]["step"]["parameters"] |= {"size": size}
        data["wires"][3] |= {"data_transmitter": added(1000)}
        with pytest.raises(NotApplied, match="as it was before"):
            it.apply()
        assert {name for name in it.states() if "#" in name} == {"step#0", "step#1"}
        grows(tmp_path / "results")
        data["routines"]["step"]["parameters"] |= {"size": 1}
        it.apply()
        eventually(lambda: numbers_in(tmp_path / "results")[-1] - numbers_in(tmp_path / "written")[-1] > 500)
        assert_whole(tmp_path, it)


def test_a_wire_gets_a_transmitter_another_one_and_none(tmp_path: Path) -> None:
    """Both of its ends get a new process, and nothing else does; what waits on their other wires is kept."""
    data = lanes(tmp_path)
    with yard(tmp_path, data) as it:
        grows(tmp_path / "results")
        for number in (1_000_000, 2_000_000, 0):
            pids = it.pids()
            if number:
                data["wires"][3]["data_transmitter"] = added(number)
            else:
                del data["wires"][3]["data_transmitter"]
            replaced = {"step", "results"} if number else set()
            assert it.apply().difference.replaced.keys() == replaced
            assert {name for name, pid in it.pids().items() if pid != pids[name]} == replaced
            eventually(lambda number=number: numbers_in(tmp_path / "results")[-1] // 1_000_000 == number // 1_000_000)  # type: ignore[misc]
        data["wires"][3]["data_transmitter"] = added(3_000_000)
        it.apply()
        data["flows"]["step"]["replicas"] = 2  # one of its ends is built anew: the other one knows it
        assert not it.apply().difference.replaced
        it.moves("step#1", "results")
        eventually(lambda: numbers_in(tmp_path / "results")[-1] > 3_000_000)
        assert_whole(tmp_path, it)


def test_a_join_is_built_anew_with_what_it_joins(tmp_path: Path) -> None:
    data = branches(tmp_path)
    data["routines"] |= {name: routine(Numbers, fps=100.0) for name in ("left", "right", "third")}
    data["routines"]["pairs"] = routine(Pairs)
    data["flows"] |= {name: {"routines": [name]} for name in ("left", "right", "pairs")}
    data["wires"] += [wire("left", "pairs"), wire("right", "pairs")]
    third = {"third": data["routines"].pop("third")}
    with yard(tmp_path, data) as it:
        it.moves("left", "pairs", 1)
        data["routines"]["more"] = routine(Sink)
        data["flows"]["left"]["routines"].append("more")
        data["wires"].append(wire("left", "more"))
        assert it.apply().difference.rebuilt.keys() == {"left", "pairs"}
        it.moves("right", "pairs", 1)
        data["routines"] |= third
        data["flows"]["third"] = {"routines": ["third"]}
        data["wires"].append(wire("third", "pairs"))
        assert it.apply().difference.rebuilt.keys() == {"pairs"}
        it.moves("third", "pairs", 1)
        it.moves("left", "pairs", 1)


def test_a_flow_that_is_replaced_does_not_end_while_its_wire_is_linked_anew(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        for size in range(2, 6):
            data["routines"]["step"]["parameters"]["size"] = size
            data["wires"][1]["capacity"] = size
            it.apply()
            it.moves("step", "sink")
        assert set(it.states().values()) == {"running"}


def test_a_message_that_waits_for_room_is_sent_before_its_sender_is_replaced(tmp_path: Path) -> None:
    """The writer is stopped, so that the camera stands; it goes on when the camera's process is about to end."""
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("numbers", "writer")
        pid = it.pid("writer")
        os.kill(pid, signal.SIGSTOP)
        wire = it.pipe.statistics().wires["numbers", "writer"]

        def resume() -> None:
            with suppress(AssertionError):
                eventually(lambda: "cleanup" in notes(tmp_path / "numbers"))
            os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=resume)
        thread.start()
        eventually(lambda: it.pipe.statistics().wires["numbers", "writer"].waiting == wire.capacity)
        data["routines"]["numbers"]["parameters"]["runs"] = str(tmp_path / "again")
        assert list(it.apply().difference.replaced) == ["numbers"]
        thread.join()
        it.moves("numbers", "writer")
        assert it.pipe.statistics().wires["numbers", "writer"].lost == 0
        it.pipe.join(to_kill=True)
    numbers = numbers_in(tmp_path / "written")
    assert (numbers == range(len(numbers))).all()
