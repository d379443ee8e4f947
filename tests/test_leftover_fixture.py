"""The fixture `leaves_nothing`, in projects of its users."""

from __future__ import annotations

import re
from pathlib import Path

import processes
from conftest import Finished, RunScript
from pipert_shm.testing import leftovers

SEGMENT = "pipert-0123456789ab-1"
LEFT = {
    "a process": ("kept.append(subprocess.Popen(['sleep', '3'], stdout=-3, stderr=-3))", "process "),
    "a thread": ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "<Thread(Thread-"),
    "a file descriptor": ("os.open('/dev/null', os.O_RDONLY)", "file descriptor "),
    "a segment": (f"pathlib.Path('/dev/shm/{SEGMENT}').write_text('')", f"/dev/shm/{SEGMENT}"),
    "a mapping": ("kept.append(keep_a_frame())", "mapping "),
}

TESTS = """
import os, pathlib, subprocess, threading
import numpy as np
from pipert_shm import MiddleRoutine
from pipert_shm.testing import RoutineHarness

kept = []

class Keeps(MiddleRoutine):
    def main_logic(self, frame):
        self.frame = frame

def keep_a_frame():
    routine = Keeps()
    with RoutineHarness(routine) as harness:
        harness.send(np.zeros(100_000))
    return routine.frame

def test_leaves_nothing():
    keep_a_frame()
"""


def run_tests(run_script: RunScript, folder: Path, ini: str) -> Finished:
    """Runs tests that leave things behind, one each, and one that does not, in a project that has the plugin."""
    tests = [f"def test_leaves_{what.replace(' ', '_')}():\n    {statement}\n" for what, (statement, _) in LEFT.items()]
    (folder / "test_it.py").write_text("\n".join([TESTS, *tests]))
    (folder / "conftest.py").write_text('pytest_plugins = ["pipert_shm.testing.plugin"]')
    (folder / "pytest.ini").write_text(ini)
    known = set(processes.descendants())
    try:
        return run_script(
            f"""
import sys
import pytest
from pipert_shm.testing import leftovers

leftovers.Possessions.left_after.__defaults__ = (0.2,)  # seconds
folder = {str(folder)!r}
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-c", f"{{folder}}/pytest.ini", "--rootdir", folder, folder]))
"""
        )
    finally:
        (leftovers.SHM / SEGMENT).unlink(missing_ok=True)
        processes.reap_orphans(known)


def test_a_test_that_leaves_something_fails_and_is_told_what(run_script: RunScript, tmp_path: Path) -> None:
    tests = run_tests(run_script, tmp_path, "[pytest]\nusefixtures = leaves_nothing\n")
    told = dict(re.findall(r"ERROR at teardown of test_leaves_(\w+) _+\nleft behind:\n  (.*)", tests.stdout))
    assert told.keys() == {what.replace(" ", "_") for what in LEFT}, tests.stdout
    for what, (_, text) in LEFT.items():
        assert told[what.replace(" ", "_")].startswith(text)


def test_it_checks_nothing_unless_asked(run_script: RunScript, tmp_path: Path) -> None:
    tests = run_tests(run_script, tmp_path, "[pytest]\n")
    assert (tests.returncode, f"{len(LEFT) + 1} passed" in tests.stdout) == (0, True), tests.stdout


def test_neither_the_package_nor_its_testing_loads_pytest(run_script: RunScript) -> None:
    loads = run_script("""
import sys
import pipert_shm
print([name for name in sys.modules if name.startswith("pipert_shm.testing")])
import pipert_shm.testing
print("pytest" in sys.modules)
""")
    assert loads.lines == ["[]", "False"]
