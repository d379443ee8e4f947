"""The command line, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import pipert_shm
from conftest import PACKAGE_ROOT, SHM, RunCli, RunScript, StartCli
from media import bikes
from pipert_shm.cli.commands import ORDER, main
from test_demo import hollow_clip
from test_video import FRAMES, frames_of, short_clip
from waiting import eventually

pytestmark = pytest.mark.shm


def segments_of(process: subprocess.Popen[str]) -> str:
    """A pattern for the segments of the pipe that a process runs. Other pipes of this machine have nothing to do with it."""
    mapped = re.findall(r"/dev/shm/(pipert-\w+-)c", Path(f"/proc/{process.pid}/maps").read_text())
    assert mapped, "it does use shared memory"
    return f"{mapped[0]}*"


def lines_in(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_the_demo_runs_to_its_end_on_a_real_clip(start_cli: StartCli, tmp_path: Path) -> None:
    process = start_cli("demo", "--video", bikes(), "--out", tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    report = out.splitlines()
    assert report[0].startswith("250 frames in ")
    for row, wire in zip(
        report[3:7], ("camera -> detector", "detector -> annotator", "detector -> lines", "annotator -> writer"), strict=True
    ):
        assert row.startswith(wire)
        sent, received, dropped = row.removeprefix(wire).split()[:3]
        assert (sent, received, dropped) == ("250", "250", "0")
        assert row.endswith("0 B           0 B")
    assert report[-2:] == [f"wrote {tmp_path / 'annotated.mp4'}", f"wrote {tmp_path / 'detections.jsonl'}"]
    assert all(line.startswith("bikes.mp4 640x272, frame ") for line in err.splitlines())
    assert sum(1 for _ in frames_of(tmp_path / "annotated.mp4")) == FRAMES
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [line["sequence"] for line in lines] == list(range(FRAMES))


def test_the_demo_leaves_nothing_in_shared_memory(start_cli: StartCli, tmp_path: Path) -> None:
    process = start_cli("demo", "--video", bikes(), "--out", tmp_path)
    eventually(lambda: lines_in(tmp_path / "detections.jsonl") > 10)
    segments = segments_of(process)
    rings = [path.stat() for path in SHM.glob(segments)]
    assert len(rings) > 2, "its control segment, and rings"
    assert {stat.S_IMODE(ring.st_mode) for ring in rings} == {0o600}
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not list(SHM.glob(segments))


def test_ctrl_c_ends_the_demo_with_the_table_of_what_was_done(start_cli: StartCli, tmp_path: Path) -> None:
    process = start_cli("demo", "--out", tmp_path)  # on the clip that it takes by itself
    eventually(lambda: lines_in(tmp_path / "detections.jsonl") > 10)
    segments = segments_of(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    written = lines_in(tmp_path / "detections.jsonl")
    assert 10 < written < FRAMES
    drawn = sum(1 for _ in frames_of(tmp_path / "annotated.mp4"))
    assert abs(drawn - written) <= 6, "each of the output's routines ends after the message in hand"
    assert out.startswith(f"{drawn} frames in ")
    assert "camera -> detector" in out
    assert sorted(os.listdir(tmp_path)) == ["annotated.mp4", "detections.jsonl"]
    assert not list(SHM.glob(segments))


def test_a_missing_video_is_one_line(start_cli: StartCli, tmp_path: Path) -> None:
    video = tmp_path / "walk.mp4"
    process = start_cli("demo", "--video", video, "--out", tmp_path / "out")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err == f"pipert-shm: can't open the video {str(video)!r}: there is no such file; check the path\n"
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_video_is_one_line(start_cli: StartCli, tmp_path: Path) -> None:
    video = tmp_path / "walk.mp4"
    video.write_bytes(bikes().read_bytes()[:5000])  # OpenCV itself would write to stderr about this one
    process = start_cli("demo", "--video", video, "--out", tmp_path / "out")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"pipert-shm: can't open the video {str(video)!r}: no video is found in it")
    assert err.count("\n") == 1


def test_a_failure_on_the_way_is_one_line_after_the_table(start_cli: StartCli, tmp_path: Path) -> None:
    (tmp_path / "annotated.mp4").mkdir()
    process = start_cli("demo", "--video", short_clip(tmp_path), "--out", tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out.startswith("5 frames in ")
    assert err.splitlines()[-1].startswith("pipert-shm: cleanup of routine 'writer' failed: VideoError: can't write the video")
    assert "Traceback" not in err


def test_a_failure_before_the_first_frame_is_one_line_without_a_table(start_cli: StartCli, tmp_path: Path) -> None:
    process = start_cli("demo", "--video", hollow_clip(tmp_path), "--out", tmp_path / "out")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1].startswith("pipert-shm: no frame could be decoded from")
    assert "Traceback" not in err


def test_without_a_system_library_of_opencv_it_names_the_packages(start_cli: StartCli, tmp_path: Path) -> None:
    missing = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({missing!r})")  # what the real one does then
    process = start_cli("demo", "--out", tmp_path / "out", path=tmp_path)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err == (
        f"pipert-shm: OpenCV needs a system library that is missing ({missing}): apt-get install libgl1 libglib2.0-0\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["demo", "--unknown"],
        ["demo", "--video"],
        ["demo", "extra"],
        ["run"],
        ["run", "no-such-file.yaml"],
        ["run", __file__, "--api", "8080"],
        ["run", __file__, "--api", "127.0.0.1:port"],
        ["run", __file__, "--check", "--watch"],
        ["ctl", "http://127.0.0.1:1"],
        ["ctl", "http://127.0.0.1:1", "event"],
        ["ctl", "http://127.0.0.1:1", "event", "scale", "2"],
        ["rpc", "tcp://127.0.0.1:1", "execute", "scale", "[2]"],
        ["rpc", "tcp://127.0.0.1:1", "execute", "scale", "{"],
    ],
)
def test_wrong_arguments_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "─ Error ─" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "Find motion in a video, in three processes"),
        (["--help"], "0 when all went well, 1 when something failed, 2 for wrong"),
        (["-h"], "--install-completion"),
        (["--version"], f"pipert_shm {pipert_shm.__version__}\n"),
        (["demo", "--help"], "pipert-shm demo --video walk.mp4 --out walk"),
        (["run", "--help"], "pipert-shm run motion.yaml --api 127.0.0.1:8080"),
        (["ctl", "--help"], "event SET_THRESHOLD --routine detector"),
        (["rpc", "--help"], "execute join '{\"to_kill\": true}'"),
    ],
)
def test_help_is_there(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert text in capsys.readouterr().out


def test_help_lists_the_commands_as_a_user_meets_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    names = re.findall(r"^\W ([a-z]+) ", capsys.readouterr().out.split("Commands")[1], re.MULTILINE)
    assert names[:3] == ["run", "doctor", "demo"]
    assert sorted(names) == sorted(ORDER), "each command has a place"


def test_the_package_is_the_command_line() -> None:
    end = subprocess.run([sys.executable, "-m", "pipert_shm", "--help"], capture_output=True, text=True, check=True)
    assert " run " in end.stdout


def test_help_loads_nothing_heavy(run_script: RunScript) -> None:
    script = run_script(
        """
import sys
from pipert_shm.cli.commands import main

assert main(["--help"]) == 0
heavy = ["cv2", "fastapi", "pydantic", "uvicorn", "ruamel", "numpy.f2py", "zerorpc", "gevent", "asyncio", "multiprocessing"]
print([name for name in heavy if name in sys.modules])
"""
    )
    assert script.stderr == ""
    assert script.lines[-1] == "[]"


def test_a_shell_completes_commands(run_cli: RunCli) -> None:
    environment = {"_PIPERT_SHM_COMPLETE": "complete_bash", "COMP_WORDS": "pipert-shm d", "COMP_CWORD": "1"}
    assert run_cli(**environment).stdout.split() == ["doctor", "demo"]


def test_bench_runs_the_benchmarks_of_the_checkout(run_script: RunScript, tmp_path: Path) -> None:
    """The package in a checkout of its own, that is not on the module path. A wheel has them within the package."""
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import pipert_shm
from pipert_shm.cli.commands import main
sys.path = [path for path in sys.path if path not in ({str(tmp_path)!r}, {str(PACKAGE_ROOT)!r})]
print(main(["bench", "--help", "-k", "hand over"]))
"""
    (tmp_path / "pipert_shm").symlink_to(PACKAGE_ROOT / "pipert_shm")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    (tmp_path / "bench" / "__main__.py").write_text("def main(argv):\n    print(argv)\n    return 3\n")
    found = run_script(script)
    assert (found.lines, found.stderr) == (["['--help', '-k', 'hand over']", "3"], "")


def test_ls_and_clean(start_cli: StartCli, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe that was killed, all of it at once, is stale and goes; one that runs is alive and stays."""

    def said(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    code = """
import os, sys
from pipert_shm.shm.segments import ControlSegment
from pipert_shm import binding
segment = ControlSegment.create(binding.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
print(segment.pipe_id, flush=True)
if sys.argv[1] == "lives":
    sys.stdin.read()
os._exit(0)
"""
    makers = []
    for fate in ("dies", "lives"):
        command = [sys.executable, "-c", code, fate]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
        makers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment))
    dead, alive = (maker.stdout.readline().strip() for maker in makers if maker.stdout)
    makers[0].communicate()
    try:
        shown = said("ls", "--json")
        assert {(pipe["pipe_id"], pipe["state"]) for pipe in json.loads(shown)} >= {(dead, "stale"), (alive, "alive")}
        listed = said("ls")
        states = {line.split()[0]: line.split()[1] for line in listed.splitlines() if not line.startswith(" ")}
        assert (states[dead], states[alive]) == ("stale", "alive")
        cleaned, _ = start_cli("clean").communicate(timeout=30)
        assert f"removed {dead}" in cleaned.splitlines()
        assert alive not in cleaned
        assert not list(SHM.glob(f"pipert-{dead}-*"))
        assert list(SHM.glob(f"pipert-{alive}-*"))
    finally:
        makers[1].communicate()
        said("clean")
    assert not list(SHM.glob(f"pipert-{alive}-*"))
