"""PipeRT2's routines, with only the import changed: setup, cleanup, failures, FPSRoutine and pacing."""

from __future__ import annotations

import pytest

from conftest import RunScript
from seed_scripts import COUNTING, ended_well

# ---- setup and cleanup, the FAQ ------------------------------------------------------------------


def test_setup_and_cleanup_once_a_run_in_order(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Told(Count):
    def setup(self):
        print(self.name, "setup")
        super().setup()
    def main_logic(self):
        print(self.name, "logic", self.number)
        return super().main_logic()
    def cleanup(self):
        print(self.name, "cleanup")

class ToldToo(DestinationRoutine):
    def setup(self):
        print(self.name, "setup")
    def main_logic(self, data):
        print(self.name, "logic", data)
    def cleanup(self):
        print(self.name, "cleanup")

run(Told("told", until=2), ToldToo("told_too"))
"""
    )
    lines = ended_well(script).lines
    assert [line for line in lines if line.startswith("told ")] == [
        "told setup",
        "told logic 0",
        "told logic 1",
        "told logic 2",
        "told cleanup",
    ]
    assert [line for line in lines if line.startswith("told_too")] == [
        "told_too setup",
        "told_too logic 1",
        "told_too logic 2",
        "told_too cleanup",
    ]


def test_none_sends_nothing(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class OddOnly(MiddleRoutine):
    def main_logic(self, data):
        if data % 2:
            return data

pipe = run(Count(), OddOnly("odd"), Print("print"))
wires = pipe.statistics().wires
print("sent", wires["count", "odd"].sent, wires["odd", "print"].sent)
"""
    )
    assert ended_well(script).lines == ["1", "3", "5", "sent 6 3"]


def test_falsy_payloads_are_sent(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Falsy(MiddleRoutine):
    def main_logic(self, data):
        return [0, False, "", [], {}, b""][data - 1]

run(Count(), Falsy("falsy"), Print("print"))
"""
    )
    assert ended_well(script).lines == ["0", "False", "", "[]", "{}", "b''"]


def test_an_exception_in_main_logic_is_logged_and_the_routine_goes_on(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Divide(MiddleRoutine):
    def main_logic(self, data):
        return 60 // (data - 3)

pipe = run(Count(), Divide("divide"), Print("print"))
print("errors", pipe.statistics().routines["divide"].errors)
"""
    )
    lines = ended_well(script).lines
    assert [line for line in lines if line.lstrip("-").isdigit()] == ["-30", "-60", "60", "30", "20"]
    message = (
        "routine 'divide' of flow 'flow': main_logic failed on message 2: ZeroDivisionError: integer division or modulo by zero"
    )
    assert f"Pipe.flow.divide ERROR {message}" in lines
    assert "    return 60 // (data - 3)" in lines  # the traceback
    assert lines[-1] == "errors 1"


def test_an_exception_in_setup_ends_the_routine_until_it_is_stopped_and_started(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
import time

class FailsAtFirst(Count):
    attempts = 0
    def setup(self):
        super().setup()
        self.attempts += 1
        if self.attempts == 1:
            raise OSError("no camera")
    def cleanup(self):
        print("cleanup")

pipe = Pipe(policy="block")
pipe.create_flow("flow", True, FailsAtFirst("camera", until=2), Print("print"))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
while {routine.state for routine in pipe.statistics().routines.values()} - {"failed", "ended"}:
    time.sleep(0.001)
print(pipe.statistics().routines["camera"].state, flush=True)
pipe.notify_event(STOP_EVENT_NAME)
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    lines = ended_well(script).lines
    assert lines[0] == "Pipe.flow.camera ERROR routine 'camera' of flow 'flow': setup failed: OSError: no camera"
    assert '    raise OSError("no camera")' in lines
    assert [line for line in lines[-4:] if line != "cleanup"] == ["failed", "1", "2"]
    assert lines.count("cleanup") == 1  # not after the setup that failed


@pytest.mark.parametrize("where", ["setup", "cleanup"])
def test_join_tells_of_a_routine_that_failed(run_script: RunScript, where: str) -> None:
    script = run_script(
        COUNTING
        + f"""
class Fails(Count):
    def {where}(self):
        self.number = 0
        raise OSError("no camera")

try:
    run(Fails("camera", until=2), Print("print"))
except PipeFailed as error:
    print(error.causes, error.exit_codes)
"""
    )
    lines = ended_well(script).lines
    assert lines[-1] == f"[\"{where} of routine 'camera' failed: OSError: no camera\"] {{}}"
    assert [line for line in lines if line.isdigit()] == ([] if where == "setup" else ["1", "2"])


def test_routines_are_not_pickled(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
import threading

class Unpicklable(MiddleRoutine):
    def __init__(self, name):
        super().__init__(name)
        self.function = lambda data: data * 10
        self.lock = threading.Lock()
        self.generator = (n for n in range(1))
    def main_logic(self, data):
        with self.lock:
            return self.function(data)

pipe = Pipe(policy="block")
count, middle, printer = Count(until=3), Unpicklable("middle"), Print("print")
pipe.create_flow("a", False, count)
pipe.create_flow("b", False, middle)
pipe.create_flow("c", False, printer)
pipe.link(Wire(count, middle), Wire(middle, printer))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    assert ended_well(script).lines == ["10", "20", "30"]


# ---- FPSRoutine and pacing -----------------------------------------------------------------------


def test_fps_routine_takes_its_role_from_its_wires(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class AnyRole(FPSRoutine):
    calls = 0
    def main_logic(self, data=None):
        self.calls += 1
        if data is None:
            if self.calls > 3:
                raise EndOfStream
            return self.calls
        print(self.name, data)
        return data * 2

run(AnyRole("source"), AnyRole("middle"), AnyRole("destination"))
"""
    )
    lines = ended_well(script).lines
    assert sorted(lines) == sorted([f"middle {n}" for n in (1, 2, 3)] + [f"destination {n}" for n in (2, 4, 6)])


def test_const_fps_paces_evenly(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Clock(DestinationRoutine):
    times = ()
    def main_logic(self, data):
        self.times = (*self.times, self.meta.captured_ns)
    def cleanup(self):
        print((self.times[-1] - self.times[0]) // 1_000_000)

count = Count(until=11)
count.set_const_fps(100)
run(count, Clock("clock"))
"""
    )
    (milliseconds,) = ended_well(script).lines
    assert 95 <= int(milliseconds) < 400  # ten intervals of 10 ms


def test_const_fps_changes_at_once_while_the_pipe_runs(run_script: RunScript) -> None:
    """Also while the routine rests until its next call, which at the old rate would be a quarter of an hour away."""
    script = run_script(
        COUNTING
        + """
import time

count = Count(until=3)
count.set_const_fps(0.001)
pipe = Pipe(policy="block")
pipe.create_flow("flow", True, count, Print("print"))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
while pipe.statistics().wires["count", "print"].received < 1:
    time.sleep(0.001)
count.set_const_fps(1000)
pipe.join()
""",
        timeout=15,
    )
    assert ended_well(script).lines == ["1", "2", "3"]
