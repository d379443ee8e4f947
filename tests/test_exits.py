"""How a program ends that has a pipe: each way is a real program, which leaves nothing behind and says what it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PACKAGE_ROOT, Finished, RunScript, StartScript
from waiting import PATIENCE

PIPE = """
import sys
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine

class Camera(SourceRoutine):
    until = None

    def main_logic(self):
        if self.meta.sequence == self.until:
            raise EndOfStream
        return self.meta.sequence

    def cleanup(self):
        print("cleaned up", flush=True)

class Screen(DestinationRoutine):
    def main_logic(self, number):
        pass

def make(until=None):
    camera = Camera("camera")
    camera.until = until
    camera.set_const_fps(100)
    pipe = Pipe()
    pipe.create_flow("flow", True, camera, Screen("screen"))
    return pipe

def start(until=None):
    pipe = make(until)
    pipe.build()
    pipe.notify_event("start")
    while not pipe.statistics().routines["screen"].received:
        pass
    return pipe
"""
WAITS = "the program is done, and waits for its pipe to end (running: camera, screen); Ctrl-C ends it"
NEVER_STARTED = "nothing ran: the pipe was built, but never started"

EARLY = {
    "sys.exit": ("start()\nsys.exit(4)", 4, "sys.exit() has ended the program: its pipe is killed"),
    "a text": ("start()\nsys.exit('no good')", 1, "sys.exit() has ended the program: its pipe is killed"),
    "raise SystemExit": ("start()\nraise SystemExit(5)", 5, "sys.exit() has ended the program: its pipe is killed"),
    "exit": ("start()\nexit(6)", 6, "sys.exit() has ended the program: its pipe is killed"),
    "main": ("def main():\n    start()\n    return 7\nif __name__ == '__main__':\n    sys.exit(main())", 7, "sys.exit()"),
    "finally": ("start()\ntry:\n    sys.exit(8)\nfinally:\n    done = True", 8, "sys.exit()"),
    "an exception": ("start()\n1 / 0", 1, "an exception has ended the program: its pipe is killed"),
    "a thread": (
        "import threading\nthread = threading.Thread(target=start)\nthread.start()\nthread.join()\nsys.exit(9)",
        9,
        "sys.exit() has ended the program",
    ),
}


@pytest.mark.parametrize("how", EARLY)
def test_a_program_that_is_ended_early_takes_its_pipe_with_it(run_script: RunScript, how: str) -> None:
    body, status, says = EARLY[how]
    end = run_script(PIPE + body)
    assert (end.returncode, end.lines) == (status, ["cleaned up"]), end.stderr
    assert end.stderr.count(says) == 1
    assert WAITS not in end.stderr


@pytest.mark.parametrize("argument", ["-c", "-m"])
def test_it_does_not_matter_how_the_program_was_started(tmp_path: Path, argument: str) -> None:
    (tmp_path / "program.py").write_text(PIPE + "start()\nsys.exit(4)")
    what = (tmp_path / "program.py").read_text() if argument == "-c" else "program"
    end = subprocess.run(
        [sys.executable, argument, what],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (end.returncode, end.stdout) == (4, "cleaned up\n"), end.stderr


def test_the_end_of_an_interactive_session(tmp_path: Path) -> None:
    end = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=f"exec({PIPE + 'start()'!r})\n",
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "cleaned up" in end.stdout
    assert "the interactive session has ended: its pipe is killed" in end.stderr


DONE = {
    "the last line": "start()",
    "a function": "def main():\n    start()\n    return 3\nif __name__ == '__main__':\n    main()",
    "after an exception that was caught": "start()\ntry:\n    sys.exit(4)\nexcept SystemExit:\n    pass",
    "a with block": "with open('/dev/null'):\n    start()",
}


@pytest.mark.parametrize("how", DONE)
def test_a_program_that_is_done_waits_for_its_pipe_and_says_so(start_script: StartScript, how: str) -> None:
    script = start_script(PIPE + DONE[how])
    assert script.process.stderr is not None
    assert script.process.stderr.readline() == WAITS + "\n"
    assert script.process.poll() is None
    script.interrupt()
    end = script.finish()
    assert (end.returncode, end.lines, end.stderr) == (0, ["cleaned up"], "")


def test_a_pipe_that_ends_soon_is_waited_for_without_a_word(run_script: RunScript) -> None:
    end = run_script(PIPE + "start(until=20)")
    assert end == Finished(0, "cleaned up\n", "")


def test_a_pipe_that_ends_later_is_waited_for(run_script: RunScript) -> None:
    end = run_script(PIPE + "start(until=180)")
    assert end == Finished(0, "cleaned up\n", WAITS + "\n")


def test_a_pipe_that_has_ended_is_not_killed_by_sys_exit(run_script: RunScript) -> None:
    end = run_script(PIPE + "pipe = start(until=2)\npipe._built().outcome.over.wait()\nsys.exit(4)")
    assert end == Finished(4, "cleaned up\n", "")


@pytest.mark.parametrize("how", ["script", "exit"])
def test_a_forked_child_that_ends_does_nothing_to_the_pipe(run_script: RunScript, how: str) -> None:
    end = run_script(
        PIPE
        + f"""
import os
pipe = start()
child = os.fork()
if child == 0:
    {"sys.exit(3)" if how == "exit" else "pass"}
else:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == {3 if how == "exit" else 0}
    before = pipe.statistics().routines["screen"].received
    while pipe.statistics().routines["screen"].received == before:
        pass
    print("goes on", flush=True)
    pipe.join(to_kill=True)
"""
    )
    assert end == Finished(0, "goes on\ncleaned up\n", "")


def test_nothing_of_the_program_is_kept_after_the_pipe_s_end(run_script: RunScript) -> None:
    end = run_script(
        PIPE
        + """
from pipert_shm.system import exits
pipe = start()
assert exits._main is sys._getframe()
pipe.join(to_kill=True)
assert exits._main is None
"""
    )
    assert end == Finished(0, "cleaned up\n", "")


# ---- pipes that never ran --------------------------------------------------------------------------

NEVER = {
    "never built": ("with make() as pipe:\n    pass", "nothing ran: the pipe was never built; call build()"),
    "never started": ("with make() as pipe:\n    pipe.build()", NEVER_STARTED),
    "the exit": ("pipe = make()\npipe.build()", NEVER_STARTED),
}


@pytest.mark.parametrize("how", NEVER)
def test_a_pipe_that_never_ran_says_so(run_script: RunScript, how: str) -> None:
    body, says = NEVER[how]
    end = run_script(PIPE + body)
    assert (end.returncode, end.stdout) == (0, "")
    assert end.stderr.startswith(says)
    assert end.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "body",
    [
        "with make() as pipe:\n    raise KeyError('own')",
        "with make() as pipe:\n    pipe.build()\n    raise KeyError('own')",
    ],
)
def test_an_exception_in_the_block_is_enough(run_script: RunScript, body: str) -> None:
    end = run_script(PIPE + body)
    assert (end.returncode, end.lines) == (1, [])
    assert end.stderr.splitlines()[-1] == "KeyError: 'own'"


def test_join_of_a_pipe_that_was_never_started(run_script: RunScript) -> None:
    end = run_script(PIPE + "pipe = make()\npipe.build()\npipe.join()")
    assert end.returncode == 1
    assert "PipeStateError: join(): the pipe was never started" in end.stderr


@pytest.mark.parametrize(
    "body",
    [
        "pipe.notify_event('start')\npipe.build()\npipe.join()",
        "pipe.build()\npipe.notify_event('start')\npipe.notify_event('stop')\npipe.notify_event('start')\npipe.join()",
        "pipe.build()\npipe.notify_event('kill')\npipe.join()",
        "pipe.build()\npipe.join(to_kill=True)\npipe.join()",
        "pipe.build()\nwith pipe:\n    pipe.notify_event('start')",
    ],
)
def test_joins_that_come_to_an_end(run_script: RunScript, body: str) -> None:
    end = run_script(PIPE + "pipe = make(until=5)\n" + body)
    assert (end.returncode, end.stderr) == (0, "")


def test_a_pipe_that_was_started_and_stopped_may_be_joined(run_script: RunScript) -> None:
    end = run_script(
        PIPE
        + """
import threading
pipe = start()
pipe.notify_event("stop")
while pipe.statistics().routines["camera"].state != "stopped":
    pass
joining = threading.Thread(target=pipe.join)
joining.start()
assert joining.is_alive()
pipe.notify_event("kill")
joining.join()
"""
    )
    assert end == Finished(0, "cleaned up\n", "")


def test_a_routine_s_handler_may_start_the_pipe(run_script: RunScript) -> None:
    end = run_script(
        PIPE
        + """
from pipert_shm import events
class Starts(Screen):
    @events("go")
    def go(self):
        self.notify_event("start")
camera = Camera("camera")
camera.until = 5
pipe = Pipe()
pipe.create_flow("flow", True, camera, Starts("screen"))
pipe.build()
pipe.notify_event("go")
pipe.join()
"""
    )
    assert end == Finished(0, "cleaned up\n", "")


# ---- no standard output, other servers -------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", ">&- 2>&- <&-", "2>&-"])
def test_a_program_without_standard_files(run_script: RunScript, tmp_path: Path, closed: str) -> None:
    """Not even what is written to the descriptors gets into a channel of the pipe's."""
    text = f"""
import os
class Writes(Screen):
    def main_logic(self, number):
        print("to Python's stdout")
        os.write(1, b"to what C has for stdout")
        os.write(2, b"to what C has for stderr")
class Counts(Camera):
    def cleanup(self):
        open({str(tmp_path / "count")!r}, "w").write(str(self.meta.sequence))
camera = Counts("camera")
camera.until = 20
pipe = Pipe(policy="block")
pipe.create_flow("one", False, camera)
pipe.create_flow("other", False, writes := Writes("screen"))
from pipert_shm import Wire
pipe.link(Wire(camera, writes))
pipe.build()
pipe.notify_event("start")
pipe.join()
open({str(tmp_path / "received")!r}, "w").write(str(pipe.statistics().routines["screen"].received))
"""
    path = tmp_path / "closing"
    path.write_text(f'#!/bin/sh\nexec "$@" {closed}\n')
    path.chmod(0o755)
    end = run_script(PIPE + text, wrap=(str(path),))
    assert end.returncode == 0, end.stderr
    assert (tmp_path / "received").read_text() == "20"
    assert (tmp_path / "count").exists()


def test_ctrl_c_under_somebody_else_s_server(start_script: StartScript) -> None:
    """The server ends, and the program goes on to its end, where it says what it waits for."""
    script = start_script(
        PIPE
        + """
import fastapi, uvicorn
from contextlib import asynccontextmanager
from pipert_shm import create_app
pipe = start()

@asynccontextmanager
async def live(app):
    print("serving", flush=True)
    yield

app = fastapi.FastAPI(lifespan=live)
app.mount("/pipe", create_app(pipe))
uvicorn.run(app, port=0, log_level="critical")
"""
    )
    script.wait_for_line("serving")
    script.process.send_signal(signal.SIGINT)
    assert script.process.stderr is not None
    assert script.process.stderr.readline() == WAITS + "\n"
    script.process.send_signal(signal.SIGINT)
    end = script.finish()
    assert (end.lines, end.stderr) == (["cleaned up"], "")
