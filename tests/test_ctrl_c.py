"""Scripts that end without join(), or by Ctrl-C wherever it hits: their pipes end, and say nothing of their own."""

from __future__ import annotations

import signal
import subprocess
import threading
import time

import pytest

from conftest import Script, StartScript
from joining import TELLS_OF_JOIN
from shown import CLEANED_UP, SCRIPT


def test_a_script_that_ends_without_join_is_waited_for(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
camera.until = 20
pipe.build()
pipe.notify_event(START_EVENT_NAME)
print("the script is over", flush=True)
"""
    ).finish()
    assert (script.returncode, script.stderr) == (0, "")
    assert script.lines.count("frame") == 20
    assert set(script.lines) >= CLEANED_UP


@pytest.mark.parametrize("stop", [False, True])
def test_a_script_that_ends_with_a_pipe_that_does_not_run(start_script: StartScript, stop: bool) -> None:
    script = start_script(
        SCRIPT
        + f"""
pipe, camera, show = make()
pipe.build()
if {stop}:
    pipe.notify_event(START_EVENT_NAME)
    pipe.notify_event("stop")
"""
    ).finish()
    told = (
        ""
        if stop
        else "nothing ran: the pipe was built, but never started; call notify_event(START_EVENT_NAME) after build()\n"
    )
    assert (script.returncode, script.stderr) == (0, told)


def test_a_script_that_fails_takes_its_pipe_with_it(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
pipe.build()
pipe.notify_event(START_EVENT_NAME)
while pipe.statistics().routines["show"].received < 3:
    time.sleep(0.001)
raise LookupError("the script's own")
"""
    ).finish()
    assert script.returncode == 1
    assert script.stderr.count("Traceback") == 1
    assert "LookupError: the script's own" in script.stderr
    assert set(script.lines) >= CLEANED_UP


def ended_by_ctrl_c(script: Script, within: float = 4.0) -> list[str]:
    """The rest of its output; it ended well before the grace period of 5 s, as if nothing had happened."""
    script.interrupt()
    started = time.monotonic()
    finished = script.finish()
    assert time.monotonic() - started < within
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.lines


def test_ctrl_c_in_join(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + f"""
pipe, camera, show = make()
pipe.build()
{TELLS_OF_JOIN}
pipe.notify_event(START_EVENT_NAME)
pipe.join()
print("joined")
"""
    )
    script.wait_for_line("joins", "frame")
    lines = ended_by_ctrl_c(script)
    assert set(lines) >= {*CLEANED_UP, "joined"}


def test_ctrl_c_after_the_script_is_over(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + f"""
pipe, camera, show = make()
pipe.build()
{TELLS_OF_JOIN}
pipe.notify_event(START_EVENT_NAME)
"""
    )
    script.wait_for_line("joins", "frame")
    assert set(ended_by_ctrl_c(script)) >= CLEANED_UP


STUCK = (
    SCRIPT
    + """
class Stuck(DestinationRoutine):
    def main_logic(self, data):
        print("stuck")
        time.sleep(1000)

pipe = Pipe(policy="block", grace_period=1)
camera, stuck = Camera("camera"), Stuck("stuck")
pipe.create_flow("a", False, camera)
pipe.create_flow("b", False, stuck)
pipe.link(Wire(camera, stuck))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
"""
)


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_with_a_routine_that_does_not_return(start_script: StartScript, times: int) -> None:
    script = start_script(STUCK + TELLS_OF_JOIN + "pipe.join(); print('joined')")
    script.wait_for_line("joins", "stuck")
    for _ in range(times):
        script.interrupt()
    finished = script.finish(10)
    assert finished.returncode == 0
    assert set(finished.lines) >= {"camera cleaned up", "joined"}
    assert finished.stderr.splitlines() == ["flow 'b' did not end within 1 s and is killed"]


@pytest.mark.parametrize(
    "ending", ["pipe.join()\nprint('joined', flush=True)", ""], ids=["in join", "after the script is over"]
)
def test_ctrl_c_again_and_again_while_the_first_ends_the_pipe(start_script: StartScript, ending: str) -> None:
    script = start_script(STUCK + TELLS_OF_JOIN + ending)
    script.wait_for_line("joins", "stuck")
    # A shell sends them within milliseconds, long before the pipe has ended. Python would leave the time to handle each.
    subprocess.run(["bash", "-c", f"for i in {{1..1000}}; do kill -INT {script.process.pid}; done"], check=True)
    finished = script.finish(10)
    assert finished.returncode == 0, finished.stderr
    assert set(finished.lines) >= {"camera cleaned up"} | ({"joined"} if ending else set())
    assert "Traceback" not in finished.stderr


def test_ctrl_c_in_the_body_of_the_block(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
try:
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        time.sleep(1000)
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    script.wait_for_line("frame")
    assert set(ended_by_ctrl_c(script)) >= {*CLEANED_UP, "interrupted"}


def test_ctrl_c_in_a_script_s_own_code(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
pipe.build()
pipe.notify_event(START_EVENT_NAME)
time.sleep(1000)
"""
    )
    script.wait_for_line("frame")
    script.interrupt()
    finished = script.finish(5)
    assert finished.returncode in (-signal.SIGINT, 130)
    assert finished.stderr.count("Traceback") == 1  # Python's own, for the script's own code
    assert "KeyboardInterrupt" in finished.stderr
    assert set(finished.lines) >= CLEANED_UP


@pytest.mark.parametrize("attempt", range(8))
def test_ctrl_c_while_it_is_built(start_script: StartScript, attempt: int) -> None:
    """Wherever in build() it hits, nothing is left behind; only the parent may tell of it."""
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
print("building", flush=True)
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    script.wait_for_line("building")
    threading.Event().wait(attempt * 0.002)  # another place each time
    script.interrupt()
    finished = script.finish(10)
    assert finished.stderr.count("Traceback") <= 1, finished.stderr
    assert not any(line.startswith(("the launcher", "flow '")) for line in finished.stderr.splitlines()), finished.stderr
