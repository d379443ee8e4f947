"""Random differences are applied to a running pipe, one after the other. Some fail. At last it has what it had at first.

Among them are replicas that come, go and become more or fewer, wires to them, ordered ones before a routine that stays, and
wires with a transmitter of their own.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from applying import InOrder, Numbers, Sink, Step, Yard, added, branches, numbers_in, routine, wire, yard
from pipert_shm import NotApplied
from test_remove import possessions
from waiting import eventually

POLICIES = ("block", "drop_oldest", "drop_newest")
FAILS = (13, 14)  # sizes with which a step's setup() fails, or ends its process


def changed(base: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Another pipeline: the numbers and their writer as in the first one, and a few branches at random."""
    data = {"routines": {}, "flows": {}, "wires": [], "pipe": base["pipe"]} | {
        "routines": {name: dict(its) for name, its in base["routines"].items()},
        "flows": dict(base["flows"]),
        "wires": list(base["wires"]),
    }
    for name in dice.sample(("a", "b", "c"), dice.randint(0, 3)):
        members = [f"{name}{number}" for number in range(dice.randint(1, 2))]
        for one in members:
            size = dice.choice(FAILS) if dice.random() < 0.08 else dice.randint(1, 2)
            data["routines"][one] = routine(Step, level=13 if dice.random() < 0.03 else dice.randint(0, 3), size=size)
            data["routines"][one]["fps"] = dice.choice((0.0, 1000.0))
        data["routines"][f"{name}-end"] = routine(Sink, size=dice.choice((0, 0, 0, 1)))
        where = dice.choice(("with", "apart"))
        data["flows"][name] = {"routines": [*members, f"{name}-end"] if where == "with" else members}
        data["flows"][name] |= {"max_restarts": dice.randint(3, 5)}
        replicas = dice.choice((1, 1, 2, 3))
        if where == "apart":
            data["flows"][f"{name}-end"] = {"routines": [f"{name}-end"], "replicas": dice.choice((1, 1, 1, 2))}
        data["flows"][name]["replicas"] = replicas
        for one in members:
            data["wires"].append(wire("numbers", one, policy=dice.choice(POLICIES[1:]), capacity=dice.randint(1, 4)))
            data["wires"].append(wire(one, f"{name}-end", policy=dice.choice(POLICIES)))
            if dice.random() < 0.15:
                data["wires"][dice.choice((-1, -2))]["data_transmitter"] = added(dice.randint(1, 2))
    if dice.random() < 0.6:
        _ordered(data, dice)
    return data


def _ordered(data: dict[str, Any], dice: random.Random) -> None:
    """Adds a step in several processes, the results of which come to the one who checks their order."""
    data["routines"]["step"] = routine(Step, size=dice.choice(FAILS) if dice.random() < 0.05 else dice.randint(1, 2))
    data["flows"]["step"] = {"routines": ["step"], "replicas": dice.randint(1, 3)}
    data["flows"]["step"]["ordered"] = data["flows"]["step"]["replicas"] > 1
    data["wires"].append(wire("numbers", "step", policy=dice.choice(POLICIES), capacity=dice.randint(1, 4)))
    data["wires"].append(wire("step", "results", policy="block", capacity=dice.randint(1, 4)))


def soak(directory: Path, rounds: int, seed: int) -> tuple[int, int]:
    """Applies so many random differences; how many were made, and how many failed and were put back."""
    dice = random.Random(seed)
    first = branches(directory)
    first["routines"] = {name: first["routines"][name] for name in ("numbers", "writer")}
    first["routines"]["numbers"]["fps"] = 300.0
    first["routines"] |= {"few": routine(Numbers, fps=10.0), "results": routine(InOrder, path=str(directory / "results"))}
    first["flows"] = {name: {"routines": [name]} for name in first["routines"]}
    first["wires"] = [first["wires"][0], wire("few", "results", policy="block")]
    made = failed = 0
    with yard(directory, first) as it:
        it.moves("numbers", "writer")
        before = None
        for number in range(rounds):
            it.data = changed(first, dice)
            try:
                made += bool(it.apply())
            except NotApplied as error:
                failed += 1
                if not error.restored:
                    raise
            if before is None and number >= min(20, rounds // 3):
                before = at_rest(it, first, rings=4)
        after = at_rest(it, first, rings=4)
        with suppress(AssertionError):
            eventually(lambda: possessions(it.pipe) == before)
        assert possessions(it.pipe) == before, after
        it.moves("numbers", "writer")
        wire_kept = it.pipe.statistics().wires["numbers", "writer"]
        assert wire_kept.lost == 0, wire_kept.dropped
        it.pipe.join(to_kill=True)
    assert (directory / "results").read_text() == "in order"
    numbers = numbers_in(directory / "written")
    assert (numbers == range(len(numbers))).all()
    return made, failed


def at_rest(it: Yard, first: dict[str, Any], *, rings: int) -> object:
    """What it has when it is as at first, and old rings are gone."""
    it.data = first
    it.apply()
    eventually(lambda: possessions(it.pipe).rings == rings, "an end of old rings")
    return possessions(it.pipe)


def test_random_differences_leave_nothing(tmp_path: Path) -> None:
    """`python tests/test_apply_soak.py 1000` applies more of them, which takes too long here."""
    made, failed = soak(tmp_path, int(os.environ.get("PIPERT_APPLIES", "9")), seed=5)
    assert made > 3
    assert failed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(soak(Path(directory), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
