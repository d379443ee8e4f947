"""The harness in bench/, with tiny numbers: what it says must be true of what was sent, whatever the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import processes
from bench.__main__ import SECTIONS, main, run
from bench.figures import Figure, Settings, figures_table
from bench.hand_over import (
    BASIC,
    CONTROL,
    LOOPS,
    PACED,
    RAY,
    RAY_COPY,
    SHARED,
    THIS,
    WAYS,
    Way,
    measure,
    table,
)
from bench.peers import by_pair
from bench.processes import adopt_orphans, end_orphans, run_together
from bench.ray_store import Ray
from bench.sheet import FEWEST, FRAMES, SIZES, Load, Sheet
from conftest import PACKAGE_ROOT
from pipert_shm.extras import to_install

TINY = Settings(
    rounds=1,
    seconds=0.05,
    full=False,
    largest="1080p",
    without=tuple(name for name in WAYS if name not in (CONTROL, LOOPS, THIS)),
)
FAST = Load("VGA", 1000, 0.03)
HERE = [name for name, way in WAYS.items() if way.is_installed and name not in (BASIC, SHARED, RAY, RAY_COPY)]

DRAW = """
import json, pathlib
from bench.plots import draw
draw(json.loads(pathlib.Path("run.json").read_text()), pathlib.Path())
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # numpy has threads; none of ours runs meanwhile
    pytest.mark.shm,
]


@pytest.fixture(autouse=True)
def _waits_for_helpers() -> Iterator[None]:
    """`SharedMemory` starts one, which outlives the process that used it by a moment."""
    known = set(processes.descendants())
    yield
    processes.reap_orphans(known)


@pytest.mark.parametrize("load", [FAST, Load("VGA", 0, 0.03)], ids=lambda load: load.pace)
@pytest.mark.parametrize("way", HERE)
def test_every_way_hands_over_every_frame(way: str, load: Load) -> None:
    if way in PACED and not load.fps:
        pytest.skip("the controls have a pace")
    result = measure({way: WAYS[way]}, load, 1)[way]
    assert not result.note
    (sheet,) = result.sheets
    assert sheet.received() == sheet.sent >= FEWEST
    assert sheet.wrong == 0
    assert sheet.cpu_both_us > 0
    assert result.rate > 0
    assert (result.latencies_us > 0).all()


@pytest.mark.parametrize(
    "load",
    [
        Load("VGA", 1000, 0.03, written=True),
        Load("VGA", 1000, 0.03, payload="dataclass"),
        Load("VGA", 1000, 0.03, payload="dict"),
        Load("two", 1000, 0.03, shapes=(SIZES["VGA"], SIZES["1080p"])),
    ],
    ids=["written", "dataclass", "dict", "two sizes"],
)
def test_every_load(load: Load) -> None:
    (sheet,) = measure({THIS: WAYS[THIS]}, load, 1)[THIS].sheets
    assert sheet.received() == sheet.sent >= FEWEST
    assert sheet.wrong == 0


def test_a_tick_is_skipped_while_the_last_frame_is_on_its_way() -> None:
    sheet = Sheet(FAST, receivers=2)
    assert sheet.may_send()
    sheet.stamp()
    sheet.note(FAST.frames()[0], at=1)
    assert not sheet.may_send()
    sheet.note(FAST.frames()[0], at=0)
    assert sheet.may_send()


def test_a_wrong_frame_is_counted() -> None:
    sheet = Sheet(FAST)
    frames = FAST.frames()
    for number in range(FRAMES):
        sheet.stamp()
        sheet.note(frames[number if number != 2 else 3])
    assert sheet.received() == FRAMES
    assert sheet.wrong == 1


def test_a_peer_that_is_missing_or_fails_is_named_and_the_others_are_measured() -> None:
    def fail(sheet: Sheet) -> None:
        raise RuntimeError("its socket broke")

    ways = {"absent": Way(fail, "no_such_module"), "broken": Way(fail), "deaf": Way(lambda sheet: None), THIS: WAYS[THIS]}
    results = measure(ways, FAST, 1)
    text = "\n".join(table(list(results.values())))
    assert "absent" in text
    assert f"not installed (no_such_module): {to_install('bench')}" in text
    assert "failed in round 1: its socket broke" in text
    assert "failed in round 1: of 0 frames 0 came" in text
    assert len(results[THIS].sheets) == 1


needs_ray = pytest.mark.skipif(not WAYS[RAY].is_installed, reason=f"ray is not installed: {to_install('bench-ray')}")


@needs_ray
@pytest.mark.parametrize(("way", "load"), [(RAY, FAST), (RAY_COPY, Load("VGA", 0, 0.03))], ids=[RAY, RAY_COPY])
def test_ray_hands_over_every_frame_in_one_round_and_leaves_no_process(way: str, load: Load) -> None:
    known = set(processes.descendants())
    result = measure({way: WAYS[way]}, load, rounds=2)[way]
    assert not result.note
    (sheet,) = result.sheets
    assert sheet.received() == sheet.sent >= FEWEST
    assert sheet.wrong == 0
    assert set(processes.descendants()) <= known


@needs_ray
def test_ray_leaves_no_process_when_its_receiver_fails() -> None:
    class Deaf(Ray):
        def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
            frames = super().receiver(ready)
            yield next(frames)
            os._exit(3)

    known = set(processes.descendants())
    result = measure({"deaf": Way(lambda sheet: by_pair(Deaf, sheet))}, FAST, 1)["deaf"]
    assert "its processes ended with" in result.note
    assert set(processes.descendants()) <= known


def test_orphans_that_do_not_end_are_killed() -> None:
    def leave_one() -> None:
        adopt_orphans()
        subprocess.run(["sh", "-c", "sleep 1000 &"], check=True)
        end_orphans(patience_s=0)

    known = set(processes.descendants())
    run_together(leave_one)
    assert set(processes.descendants()) <= known


def test_a_figure_says_whether_its_target_is_met() -> None:
    figures = [
        Figure("less", 0.5, 0.6),
        Figure("more", 1.4, 1.5, at_least=True),
        Figure("absent", None, 1),
        Figure("stated", 3.0),
    ]
    assert [figure.verdict for figure in figures] == ["met", "NOT MET", "not measured", "stated"]
    assert [
        line.removeprefix(figure.name).strip().rpartition("  ")[2]
        for figure, line in zip(figures, figures_table(figures)[1:], strict=True)
    ] == ["met", "NOT MET", "not measured", "stated"]


def test_a_run_of_all_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(TINY, [name for name in SECTIONS if name != "start"])  # which has a test of its own, below
    told = capsys.readouterr().out
    for section in done.values():
        assert section.title in told
        assert not [result.note for result in section.results if result.note]
        assert not sum(sheet.wrong for result in section.results for sheet in result.sheets)
    figures = {figure.name: figure for section in done.values() for figure in section.figures}
    missing = figures["three flows, 1080p, 30 fps: frames not received"].value  # a pipe in real time may drop some
    assert missing == sum(sheet.sent - sheet.received() for result in done["pipelines"].results for sheet in result.sheets)
    assert figures["fan-out 8, frames in private memory: times that each byte is written"].value == 1
    report = json.loads(
        json.dumps(
            {"machine": {"cpu": "", "date": ""}, "sections": {name: section.as_json() for name, section in done.items()}}
        )
    )
    (tmp_path / "run.json").write_text(json.dumps(report))
    subprocess.run([sys.executable, "-c", DRAW], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)}, check=True)
    assert {path.name for path in tmp_path.glob("*.svg")} == {"latency.svg", "cpu.svg", "distribution.svg", "throughput.svg"}
    assert all(THIS in path.read_text() for path in tmp_path.glob("*.svg"))


def test_the_command_writes_what_it_measured_and_on_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "start", "--json", str(tmp_path / "run.json")]) == 0
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["machine"]["packages"]["numpy"]
    assert [figure["name"] for figure in report["figures"]] == [
        "import pipert_shm over import numpy",
        "build + start to the first frame at the sink, 3 flows, VGA",
    ]
    assert len(report["sections"]["start"]["rows"]["start_ms_VGA"]["all"]) == 3
    assert "build + start" in capsys.readouterr().out


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["handover"])
    assert "there is no section 'handover'; there are: hand-over, within-a-flow" in capsys.readouterr().err


@pytest.mark.parametrize("received", [0, 200])
def test_what_the_instruction_counter_runs(received: int) -> None:
    command = [sys.executable, "-m", "bench.instructions", "200", str(received)]
    told = subprocess.run(command, cwd=PACKAGE_ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
