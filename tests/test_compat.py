"""PipeRT2's names: that its users' scripts run unchanged, and what they are told where there is nothing like it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from pipert_shm import PipertError, compat
from pipert_shm.compat.finder import Finder
from pipert_shm.compat.names import MODULES
from routines import Frames, Sink

HEAD = """
import multiprocessing as mp, sys, time
import numpy as np
from pipert2 import Data, FPSRoutine, KILL_EVENT_NAME, Pipe, QueueNetwork, START_EVENT_NAME, STOP_EVENT_NAME, Wire
from pipert2.core.base.data import FrameData
from pipert2.core.base.routines import FPSRoutine as Same
from pipert2.core.base.routines.functional_middle_routine import FunctionalMiddleRoutine
from pipert2.core.managers.event_board import EventBoard
from pipert2.utils.annotations import class_functions_dictionary
from pipert2.utils.consts import LOG_DATA, UNLINK
from pipert2.utils.consts.event_names import UPDATE_FPS_NAME

said = mp.Manager().list()

def until(is_so):
    while not is_so():
        time.sleep(0.01)

class Words(FPSRoutine):
    events = class_functions_dictionary()

    def __init__(self, words, name="words"):
        super().__init__(name)
        self.words = list(words)

    def main_logic(self, data=None):
        time.sleep(0.01)
        if self.words:
            data = Data()
            data.additional_data = {"word": self.words.pop(0)}
            return data

    @events("note")
    def note(self, what):
        said.append((self.name, what))

    @events("ask")
    def ask(self):
        self.notify_event("answer")

class Add(FPSRoutine):
    events = class_functions_dictionary()

    def __init__(self, name, letter):
        super().__init__(name)
        self.letter = letter

    def main_logic(self, data):
        data.additional_data["word"] += self.letter
        return data

    @events("answer")
    @events("bark")
    def answer(self):
        said.append((self.name, "answered"))

    @events("note")
    def note(self, what):
        said.append((self.name, what))

class Noted(FPSRoutine):
    events = class_functions_dictionary()

class Keep(Noted):
    def main_logic(self, data):
        said.append(data.additional_data["word"])

    @Noted.events("yelp")  # by the dictionary that it inherits
    def yelp(self):
        said.append((self.name, "yelped"))

    @FPSRoutine.events("note")
    def note(self, what):
        said.append((self.name, what))

def three():
    said[:] = []
    return Words("abc"), Add("add", "X"), Keep("keep")

words, add, keep = three()
"""

SCRIPTS = {
    "one flow": """
        pipe = Pipe(EventBoard(), QueueNetwork(3, True, True, 5))
        pipe.create_flow("flow", True, words, add, keep)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        until(lambda: len(said) >= 3)
        pipe.join(True)
        assert list(said) == ["aX", "bX", "cX"], said
        """,
    "several flows": """
        network = QueueNetwork(max_queue_sizes=3, put_block=True, get_block=True, timeout=5)
        pipe = Pipe(network=network, event_board=EventBoard())
        for routine in (words, add, keep):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(Wire(source=words, destinations=(add,)))
        pipe.link(Wire(source=add, destinations=(keep,)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        until(lambda: len(said) >= 3)
        pipe.join(to_kill=True)
        assert list(said) == ["aX", "bX", "cX"], said
        """,
    "two middle routines": """
        other = Add("other", "Y")
        pipe = Pipe(network=QueueNetwork(9, True))
        for routine in (words, add, other, keep):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(Wire(source=words, destinations=(add, other)))
        pipe.link(Wire(source=add, destinations=(keep,)), Wire(source=other, destinations=(keep,)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        until(lambda: len(said) >= 6)
        pipe.notify_event(KILL_EVENT_NAME)
        pipe.join()
        assert sorted(said) == ["aX", "aY", "bX", "bY", "cX", "cY"], said
        """,
    "events": """
        pipe = Pipe()
        pipe.create_flow("flow", True, words, add, keep)
        notify = pipe.get_event_notify()
        pipe.build()
        pipe.notify_event("note", specific_routine="words", what=1)
        until(lambda: len(said) >= 1)
        notify("note", {"flow": ["words", "add"]}, what=2)
        until(lambda: len(said) >= 3)
        pipe.notify_event("note", what=3)
        until(lambda: len(said) >= 6)
        pipe.notify_event("ask")
        until(lambda: len(said) >= 7)
        pipe.notify_event("bark")
        until(lambda: len(said) >= 8)
        pipe.notify_event("yelp")
        until(lambda: len(said) >= 9)
        pipe.join(True)
        assert said[0] == ("words", 1) and set(said[1:3]) == {("words", 2), ("add", 2)}, said
        assert set(said[3:6]) == {("words", 3), ("add", 3), ("keep", 3)}, said
        assert said[6:] == [("add", "answered"), ("add", "answered"), ("keep", "yelped")], said
        assert sorted(words.events.all["Words"]) == ["ask", "note"]
        """,
    "names of the pipe": """
        pipe = Pipe()
        pipe.create_flow("flow", True, words, add)
        pipe.link(Wire(source=words, destinations=(keep,)))  # which takes the place of the one that auto_wire made
        pipe.create_flow("other", False, keep, half := FunctionalMiddleRoutine(name="half"))
        half.logic = lambda data: data
        pipe.link(Wire(source=add, destinations=(half,)), Wire(source=half, destinations=(keep,)))
        pipe.link(Wire(source=words, destinations=(add,)))
        assert [list(flow.routines) for flow in pipe.flows.values()] == [["words", "add"], ["keep", "half"]]
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        until(lambda: len(said) >= 3)
        pipe.join(True)
        assert {word[1:] for word in said} == {"X"}, said
        assert Same is FPSRoutine
        """,
    "arrays": """
        class Camera(FPSRoutine):
            def main_logic(self, data=None):
                time.sleep(0.01)
                return np.zeros((300, 300), np.uint8)
        class Draw(FPSRoutine):
            def main_logic(self, frame):
                frame[:] = 7  # a copy of its own
                said.append(int(frame.min()))
        camera, draw = Camera(), Draw()
        pipe = Pipe()
        pipe.create_flow("in", False, camera)
        pipe.create_flow("out", False, draw)
        pipe.link(Wire(source=camera, destinations=(draw,)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        until(lambda: len(said) >= 3)
        pipe.join(True)
        assert set(said) == {7}
        """,
}


def run(*arguments: str, text: str = "", directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(compat.__file__).parents[2])}
    if text:
        (directory / "script.py").write_text(text)
    command = [sys.executable, "-W", "error", "-m", "pipert_shm.compat", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, cwd=directory)


def test_scripts_run_unchanged(tmp_path: Path) -> None:
    """One after the other in one process, which is quicker."""
    parts = [f"words, add, keep = three()\n{textwrap.dedent(part)}print({name!r})\n" for name, part in SCRIPTS.items()]
    end = run("script.py", text=HEAD + "".join(parts), directory=tmp_path)
    assert (end.returncode, end.stderr) == (0, "")
    assert end.stdout.splitlines() == list(SCRIPTS)


def test_what_routines_log_is_printed_and_plog_is_below_that(tmp_path: Path) -> None:
    script = """
        class Talk(Words):
            def main_logic(self, data=None):
                self._logger.plog("unheard")
                self._logger.info("it is %d", 1)
                said.append(1)
                time.sleep(9)
        pipe = Pipe()
        pipe.create_flow("flow", True, Talk("", "talk"), keep)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        until(lambda: len(said) >= 1)
        print(sys.argv[1:], __file__, flush=True)
        pipe.join(True)
        """
    end = run(
        "script.py", "-x", "two", text=(HEAD + textwrap.dedent(script)).replace("sleep(9)", "sleep(0.2)"), directory=tmp_path
    )
    assert (end.returncode, end.stderr) == (0, "")
    assert "['-x', 'two'] script.py" in end.stdout.splitlines()
    assert " — Pipe.flow.talk — INFO — it is 1\n" in end.stdout
    assert "unheard" not in end.stdout


def test_a_module_can_be_run(tmp_path: Path) -> None:
    end = run(
        "-m",
        "script",
        "one",
        text="import sys, pipert2\nprint(pipert2.__version__, sys.argv[1:], __name__)",
        directory=tmp_path,
    )
    assert (end.returncode, end.stdout) == (0, "2.4.0 ['one'] __main__\n")


@pytest.mark.parametrize(("arguments", "message"), [((), "usage"), (("none.py",), "can't read none.py")])
def test_a_script_is_wanted(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    end = run(*arguments, directory=tmp_path)
    assert end.returncode == 1
    assert message in end.stderr
    assert "Traceback" not in end.stderr


# ---- the names -----------------------------------------------------------------------------------


@pytest.fixture
def installed() -> Iterator[Callable[[str], ModuleType]]:
    logger = logging.getLogger("Pipe")  # which a pipe of PipeRT2's writes to stdout
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers = []
    compat.install()
    compat.install()
    assert sum(isinstance(finder, Finder) for finder in sys.meta_path) == 1
    yield import_module
    logger.handlers, level, logger.propagate = before
    logger.setLevel(level)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipert2"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", MODULES)
def test_each_module_has_its_names(installed: Callable[[str], ModuleType], name: str) -> None:
    module = installed(name)
    assert all(getattr(module, one) is not None for one in module.__all__)


def test_what_has_no_counterpart_says_so(installed: Callable[[str], ModuleType]) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pipert2\.core\.base\.message has no counterpart .*migrating_from_pipert2"):
        installed("pipert2.core.base.message")
    with pytest.raises(ImportError, match=r"pipert2\.QueueHandler has no counterpart"):
        getattr(installed("pipert2"), "QueueHandler")  # noqa: B009 - as `from pipert2 import` does
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(installed("pipert2"), "nothing")  # noqa: B009


def test_a_real_one_that_is_imported_already_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ModuleType("pipert2")
    real.__file__, real.__loader__ = "/site-packages/pipert2/__init__.py", None
    monkeypatch.setitem(sys.modules, "pipert2", real)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, Finder)])  # a doctest's
    with pytest.raises(PipertError, match="imported already, from /site-packages/pipert2"):
        compat.install()
    assert not any(isinstance(finder, Finder) for finder in sys.meta_path)


def test_what_serves_in_the_background_stands_for_a_process(installed: Callable[[str], ModuleType]) -> None:
    pipe = installed("pipert2").Pipe()
    wrapper = installed("pipert2.core.wrappers.api_wrapper").APIWrapper(host="localhost", port=0, pipe=pipe)
    assert not wrapper.api_process.is_alive()
    wrapper.run()
    assert wrapper.api_process.is_alive()
    pipe.create_flow("flow", True, Frames("frames", None), Sink("sink"))
    pipe.build()
    wrapper.api_process.terminate()
    wrapper.api_process.join()
    assert not wrapper.api_process.is_alive()
    pipe.join(to_kill=True)
