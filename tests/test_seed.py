"""The model and the examples of PipeRT2, with only the import changed; each a script of its own, with no `__main__` guard."""

from __future__ import annotations

import pytest

from conftest import Finished, RunScript, StartScript

ROUTINES = """
from pipert_shm import SourceRoutine

class GenerateData(SourceRoutine):

    def main_logic(self) -> dict:
        return {
            "value": "example"
        }

from pipert_shm import DestinationRoutine

class PrintResult(DestinationRoutine):

    def main_logic(self, data: dict) -> None:
        print(data["value"])

from pipert_shm import Pipe, QueueNetwork, Wire
from pipert_shm import START_EVENT_NAME, KILL_EVENT_NAME, STOP_EVENT_NAME

example_pipe = Pipe()
generate_data_routine = GenerateData()
print_result_routine = PrintResult()
"""

COUNTING = """
import logging, sys
from pipert_shm import (BasicTransmitter, Data, DataTransmitter, DestinationRoutine, FPSRoutine, FrameData,
    KILL_EVENT_NAME, LOG_DATA, MiddleRoutine, PipeFailed, QueueNetwork, SourceRoutine, START_EVENT_NAME, STOP_EVENT_NAME,
    UNLINK_EVENT_NAME, events)
from pipert_shm import EndOfStream, Pipe, Wire

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s %(levelname)s %(message)s")

class Count(SourceRoutine):
    def __init__(self, name="count", until=6):
        super().__init__(name)
        self.until = until
    def setup(self):
        self.number = 0
    def main_logic(self):
        if self.number == self.until:
            raise EndOfStream
        self.number += 1
        return self.number

class Print(DestinationRoutine):
    def main_logic(self, data):
        sys.stdout.write(f"{data}\\n")  # in one piece, beside another thread

def run(*routines, **options):
    pipe = Pipe(policy="block", **options)
    pipe.create_flow("flow", True, *routines)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    return pipe
"""


def ended_well(script: Finished) -> Finished:
    assert script.returncode == 0, script.stderr
    assert script.stderr == ""
    return script


# ---- getting started -----------------------------------------------------------------------------


def test_getting_started(run_script: RunScript) -> None:
    script = ended_well(
        run_script(
            ROUTINES
            + """
# Create a flow with the required routines.
example_pipe.create_flow("example_flow", True, generate_data_routine, print_result_routine)

# Build the pipe.
example_pipe.build()

# Run the pipe.
example_pipe.notify_event(START_EVENT_NAME)

# Force all the pipe's routines stop.
example_pipe.notify_event(KILL_EVENT_NAME)
"""
        )
    )
    assert set(script.lines) <= {"example"}


RUN_UNTIL_INTERRUPTED = """
example_pipe.build()
example_pipe.notify_event(START_EVENT_NAME)
example_pipe.join()
"""


@pytest.mark.parametrize(
    "flows",
    [
        pytest.param(
            """
example_pipe.create_flow("example_flow", True, generate_data_routine, print_result_routine)
""",
            id="auto-wired",
        ),
        pytest.param(
            """
example_pipe.create_flow("example_flow", False, generate_data_routine, print_result_routine)
example_pipe.link(Wire(source=generate_data_routine, destinations=(print_result_routine,)))
""",
            id="linked",
        ),
        pytest.param(
            """
example_pipe.create_flow("one", False, generate_data_routine)
example_pipe.create_flow("other", False, print_result_routine)
example_pipe.link(Wire(source=generate_data_routine, destinations=(print_result_routine,)))
""",
            id="two-flows",
        ),
    ],
)
def test_it_prints_until_interrupted(start_script: StartScript, flows: str) -> None:
    script = start_script(ROUTINES + flows + RUN_UNTIL_INTERRUPTED)
    script.wait_for_line("example")
    script.interrupt()
    assert set(ended_well(script.finish()).lines) <= {"example"}


@pytest.mark.parametrize(
    "target",
    [
        '{"example_flow": []}',
        '{"example_flow": [generate_data_routine.name, print_result_routine.name]}',
    ],
)
def test_start_of_specific_flows_and_routines(start_script: StartScript, target: str) -> None:
    script = start_script(
        ROUTINES
        + f"""
example_pipe.create_flow("example_flow", True, generate_data_routine, print_result_routine)
example_pipe.build()
example_pipe.notify_event(START_EVENT_NAME, {target})
example_pipe.join()
"""
    )
    script.wait_for_line("example")
    script.interrupt()
    ended_well(script.finish())


def test_queue_network(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
pipe = Pipe(network=QueueNetwork(max_queue_sizes=3, put_block=True, timeout=None))
pipe.create_flow("a", False, count := Count(until=50))
pipe.create_flow("b", False, printer := Print("print"))
pipe.link(Wire(source=count, destinations=(printer,)))
pipe.build()
wire = pipe.statistics().wires["count", "print"]
assert (wire.policy, wire.capacity) == ("block", 3), wire
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    assert ended_well(script).lines == [str(n) for n in range(1, 51)]


def test_the_seed_s_queue_is_a_short_one_that_drops(run_script: RunScript) -> None:
    ended_well(
        run_script(
            COUNTING
            + """
pipe = Pipe(network=QueueNetwork())
pipe.create_flow("flow", True, Count(), Print("print"))
pipe.build()
wire = pipe.statistics().wires["count", "print"]
assert (wire.policy, wire.capacity) == ("drop_oldest", 1), wire
pipe.join(to_kill=True)
"""
        )
    )


# ---- events --------------------------------------------------------------------------------------

EVENTS = (
    COUNTING
    + """
class SomeRoutine(SourceRoutine):
    def __init__(self, name):
        super().__init__(name)
        self.cap = None

    def main_logic(self):
        return None

    # This event causes the routine to set its opencv reader.
    @events("CUSTOM_EVENT_NAME")
    def some_func(self):
        print(f"{self.name} set its reader")

class WithParameters(DestinationRoutine):
    def main_logic(self, data):
        pass

    @events("PARAMETERS")
    def parameters(self, one, two="default"):
        print(self.name, one, two)

    @events("ANY")
    def any(self, **parameters):
        print(self.name, sorted(parameters))

example_pipe = Pipe()
some_routine = SomeRoutine("some_routine")
other_routine = SomeRoutine("other_routine")
print_result_routine = WithParameters("print_result")
example_pipe.create_flow("example_flow", False, some_routine, print_result_routine)
example_pipe.create_flow("other_flow", False, other_routine)
example_pipe.link(Wire(some_routine, print_result_routine), Wire(other_routine, print_result_routine))
"""
)


@pytest.mark.parametrize("build_first", [False, True])
def test_custom_event_whose_handler_takes_none_of_the_parameters(run_script: RunScript, build_first: bool) -> None:
    """The seed's own example: `some_func(self)`, notified with two parameters, before `build()` is called (if it ever is)."""
    notify = """
example_pipe.notify_event("CUSTOM_EVENT_NAME", {"example_flow": ["some_routine"]}, example_param1="1", example_param2="2")
"""
    build = "example_pipe.build()\n"
    script = run_script(
        EVENTS
        + (build + notify if build_first else notify + build)
        + """
# Start the pipe
example_pipe.notify_event(START_EVENT_NAME)
example_pipe.notify_event(KILL_EVENT_NAME)
example_pipe.join()
"""
    )
    assert sorted(ended_well(script).lines) == [
        "Pipe.example_flow.some_routine WARNING routine 'some_routine' of flow 'example_flow': event 'CUSTOM_EVENT_NAME': "
        "its handler takes no example_param1, example_param2",
        "some_routine set its reader",
    ]


def test_targets_and_parameters_of_custom_events(run_script: RunScript) -> None:
    script = run_script(
        EVENTS
        + """
example_pipe.build()
example_pipe.notify_event("CUSTOM_EVENT_NAME")
example_pipe.notify_event("PARAMETERS", one=1)
example_pipe.notify_event("PARAMETERS", {"example_flow": []}, one=1, two=[2, 3])
example_pipe.notify_event("PARAMETERS", specific_routine="print_result", one=3)
example_pipe.notify_event("ANY", {"example_flow": ["print_result"]}, whatever=4, more=5)
example_pipe.notify_event("CUSTOM_EVENT_NAME", {"other_flow": []})
example_pipe.join(to_kill=True)
"""
    )
    lines = ended_well(script).lines
    assert [line for line in lines if not line.startswith("other_routine")] == [
        "some_routine set its reader",
        "print_result 1 default",
        "print_result 1 [2, 3]",
        "print_result 3 default",
        "print_result ['more', 'whatever']",
    ]
    assert lines.count("other_routine set its reader") == 2


def test_notify_from_within_a_routine_and_from_outside(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Caller(SourceRoutine):
    def setup(self):
        self.called = False
    def main_logic(self):
        if not self.called:
            self.notify_event("GREET", {"listeners": ["listener"]}, who="main_logic")
        self.called = True

class Listener(DestinationRoutine):
    def main_logic(self, data):
        pass
    @events("GREET")
    def greet(self, who):
        print("greeted by", who)
        if who == "main_logic":
            self.notify_event(KILL_EVENT_NAME)

pipe = Pipe()
caller, listener = Caller("caller"), Listener("listener")
pipe.create_flow("callers", False, caller)
pipe.create_flow("listeners", False, listener)
pipe.link(Wire(caller, listener))
pipe.build()
caller.notify_event("GREET", {"listeners": ["listener"]}, who="the script")
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    assert ended_well(script).lines == ["greeted by the script", "greeted by main_logic"]


def test_an_unknown_event_from_within_a_routine_is_its_error(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Caller(Count):
    def main_logic(self):
        number = super().main_logic()
        if number == 1:
            self.notify_event("NOBODY_KNOWS_IT")
        return number

run(Caller(until=3), Print("print"))
"""
    )
    lines = ended_well(script).lines
    assert any("UnknownEvent" in line and "'NOBODY_KNOWS_IT'" in line for line in lines)
    assert [line for line in lines if line.isdigit()] == ["2", "3"]


def test_handlers_set_what_main_logic_reads(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Zoom(FPSRoutine):
    factor = 1
    def main_logic(self, data=None):
        if self.factor == 1:
            return None
        raise EndOfStream
    @events("zoom")
    def zoom(self, factor):
        self.factor = factor
    def cleanup(self):
        print("factor", self.factor)

pipe = Pipe()
pipe.create_flow("flow", True, Zoom("zoom"), Print("print"))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.notify_event("zoom", factor=4)
pipe.join()
"""
    )
    assert ended_well(script).lines == ["factor 4"]


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


# ---- unlink, structure, data, transmitters -------------------------------------------------------


def test_unlink(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
import time

class Slow(Count):
    def main_logic(self):
        number = super().main_logic()
        if number == 3:
            self.notify_event(UNLINK_EVENT_NAME, specific_routine="count", unlink_routine_name="one")
            while self.number == 3 and not self.unlinked:
                time.sleep(0.001)
        return number
    unlinked = False
    @events(UNLINK_EVENT_NAME)
    def noticed(self, unlink_routine_name):
        self.unlinked = True

class Named(DestinationRoutine):
    def main_logic(self, data):
        print(self.name, data)

pipe = Pipe(policy="block")
count, one, other = Slow(), Named("one"), Named("other")
pipe.create_flow("a", False, count)
pipe.create_flow("b", False, one)
pipe.create_flow("c", False, other)
pipe.link(Wire(count, (one, other)))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    lines = ended_well(script).lines
    # Number 3 was in hand when the wire was taken away, between messages: it still arrives.
    assert [line for line in lines if line.startswith("one")] == ["one 1", "one 2", "one 3"]
    assert [line for line in lines if line.startswith("other")] == [f"other {n}" for n in range(1, 7)]


def test_pipe_structure(run_script: RunScript) -> None:
    script = run_script(
        EVENTS
        + """
before = example_pipe.get_pipe_structure()
example_pipe.build()
assert example_pipe.get_pipe_structure() == before
example_pipe.join(to_kill=True)
print(before)
"""
    )
    assert ended_well(script).lines == [
        "{'Routines': ["
        "{'flow_name': 'example_flow', 'routine_name': 'some_routine', "
        "'events': ['CUSTOM_EVENT_NAME', 'start', 'stop', 'unlink']}, "
        "{'flow_name': 'example_flow', 'routine_name': 'print_result', "
        "'events': ['ANY', 'PARAMETERS', 'start', 'stop', 'unlink']}, "
        "{'flow_name': 'other_flow', 'routine_name': 'other_routine', "
        "'events': ['CUSTOM_EVENT_NAME', 'start', 'stop', 'unlink']}], "
        "'Events': ['start', 'stop', 'kill']}"
    ]


DATA = (
    COUNTING
    + """
from dataclasses import dataclass, field
import numpy as np

@dataclass
class Reading(Data):
    frame: np.ndarray
    source: str
    boxes: list = field(default_factory=list)

class Camera(Count):
    def main_logic(self):
        number = super().main_logic()
        reading = Reading(np.full((64, 64), number, np.uint8), f"camera {number}")
        reading.additional_data["number"] = number
        return reading

class Detect(MiddleRoutine):
    def main_logic(self, data):
        data.boxes.append((data.additional_data["number"], 2, 3, 4))
        return data

class Show(DestinationRoutine):
    def main_logic(self, data):
        assert type(data) is Reading, data
        print(data.source, data.boxes, data.additional_data, data.frame.shape, data.frame.max(), data.frame.flags.writeable)

def three_flows(**options):
    camera, detect, show = Camera("camera", until=2), Detect("detect"), Show("show")
    pipe = Pipe(policy="block", **options)
    pipe.create_flow("a", False, camera)
    pipe.create_flow("b", False, detect)
    pipe.create_flow("c", False, show)
    pipe.link(Wire(camera, detect), Wire(detect, show))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    return pipe
"""
)


def test_custom_data_classes(run_script: RunScript) -> None:
    script = run_script(DATA + "three_flows()")
    assert ended_well(script).lines == [f"camera {n} [({n}, 2, 3, 4)] {{'number': {n}}} (64, 64) {n} False" for n in (1, 2)]


def test_basic_transmitter_gives_writable_copies(run_script: RunScript) -> None:
    script = run_script(
        DATA
        + """
pipe = three_flows(data_transmitter=BasicTransmitter())
assert pipe.statistics().routines["camera"].in_band_bytes > 2 * 64 * 64
"""
    )
    assert ended_well(script).lines == [f"camera {n} [({n}, 2, 3, 4)] {{'number': {n}}} (64, 64) {n} True" for n in (1, 2)]


def test_frame_data_and_log_data(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
import numpy as np
from dataclasses import dataclass

@dataclass
class Frame(FrameData):
    frame: np.ndarray
    def get_frame(self):
        return self.frame

class Camera(Count):
    def main_logic(self):
        return Frame(np.full((48, 64, 3), super().main_logic(), np.uint8))

class Show(DestinationRoutine):
    def main_logic(self, data):
        print(data.get_frame().max())

pipe = Pipe(policy="block")
pipe.create_flow("flow", True, Camera("camera", until=2), Show("show"))
pipe.build()
pipe.notify_event(LOG_DATA)
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    lines = ended_well(script).lines
    assert lines.count("Pipe.flow.camera INFO output: uint8 array (48, 64, 3)") == 1  # a few in a second at most
    assert lines.count("Pipe.flow.show INFO input: uint8 array (48, 64, 3)") == 1
    assert [line for line in lines if line.isdigit()] == ["1", "2"]


@pytest.mark.parametrize("flows", ["one", "two"])
def test_custom_transmitter(run_script: RunScript, flows: str) -> None:
    script = run_script(
        COUNTING
        + f"""
class Signed(DataTransmitter):
    def transmit(self):
        return lambda data: ("signed", data)
    def receive(self):
        def check(message):
            seal, data = message
            assert seal == "signed", message
            return data * 100
        return check

pipe = Pipe(policy="block")
count, one, other = Count(until=2), Print("one"), Print("other")
flows = {flows!r}
if flows == "one":
    pipe.create_flow("flow", False, count, one, other)
else:
    pipe.create_flow("a", False, count)
    pipe.create_flow("b", False, one, other)
pipe.link(Wire(count, one, data_transmitter=Signed()), Wire(count, other))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
print("sent", pipe.statistics().routines["count"].sent)
"""
    )
    assert sorted(ended_well(script).lines) == ["1", "100", "2", "200", "sent 2"]


# ---- the logger ----------------------------------------------------------------------------------


def test_all_records_arrive_in_the_logger_that_was_given(run_script: RunScript) -> None:
    script = run_script(
        """
import logging, os, sys
from pipert_shm import DestinationRoutine, EndOfStream, MiddleRoutine, Pipe, SourceRoutine, START_EVENT_NAME, Wire

class Keep(logging.Handler):
    records = []
    def emit(self, record):
        assert os.getpid() == PARENT
        self.records.append(record)

PARENT = os.getpid()
logger = logging.getLogger("MyPipe")
logger.setLevel(logging.INFO)
logger.addHandler(Keep())

class Source(SourceRoutine):
    number = 0
    def main_logic(self):
        self.number += 1
        if self.number > 20:
            raise EndOfStream
        self._logger.info("sending %d", self.number)
        self._logger.debug("not at this level")
        return self.number

class Middle(MiddleRoutine):
    def main_logic(self, data):
        if data == 7:
            raise ValueError("seven")
        try:
            return 1 / (data - 8)
        except ZeroDivisionError:
            self._logger.exception("eight")

class Destination(DestinationRoutine):
    def cleanup(self):
        self._logger.warning("cleaned up")
    def main_logic(self, data):
        pass

pipe = Pipe(logger=logger, policy="block")
source, middle, destination = Source("source"), Middle("middle"), Destination("destination")
pipe.create_flow("one", False, source, middle)
pipe.create_flow("two", False, destination)
pipe.link(Wire(source, middle), Wire(middle, destination))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()

by_name = {}
for record in Keep.records:
    by_name.setdefault(record.name, []).append(record)
assert sorted(by_name) == ["MyPipe.one.middle", "MyPipe.one.source", "MyPipe.two.destination"], sorted(by_name)
assert [r.getMessage() for r in by_name["MyPipe.one.source"]] == [f"sending {n}" for n in range(1, 21)]
assert all(r.levelname == "INFO" and r.process != PARENT and r.funcName == "main_logic" for r in by_name["MyPipe.one.source"])
seven, eight = by_name["MyPipe.one.middle"]
formatter = logging.Formatter("%(levelname)s %(message)s")
assert seven.getMessage() == "routine 'middle' of flow 'one': main_logic failed on message 6: ValueError: seven"
assert seven.sequence == 6
assert 'raise ValueError("seven")' in formatter.format(seven)
assert "ZeroDivisionError: division by zero" in formatter.format(eight)
assert formatter.format(eight).startswith("ERROR eight")
assert [r.getMessage() for r in by_name["MyPipe.two.destination"]] == ["cleaned up"]
assert all(stats.logs_lost == 0 for stats in pipe.statistics().routines.values())
"""
    )
    ended_well(script)


def test_records_of_a_flood_are_lost_and_counted_rather_than_waited_for(run_script: RunScript) -> None:
    script = run_script(
        """
import logging, threading
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine, START_EVENT_NAME

go_on = threading.Event()

class Slow(logging.Handler):
    count = 0
    def emit(self, record):
        go_on.wait()
        Slow.count += 1

logger = logging.getLogger("Flood")
logger.setLevel(logging.INFO)
logger.addHandler(Slow())

class Source(SourceRoutine):
    def main_logic(self):
        for n in range(5000):
            self._logger.info("x" * 1000)
        raise EndOfStream

class Destination(DestinationRoutine):
    def main_logic(self, data):
        pass

pipe = Pipe(logger=logger)
pipe.create_flow("flow", True, Source("source"), Destination("destination"))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
while pipe.statistics().routines["source"].state != "ended":
    pass
go_on.set()
pipe.join()
lost = pipe.statistics().routines["source"].logs_lost
assert lost > 0
assert lost + Slow.count == 5000, (lost, Slow.count)
"""
    )
    ended_well(script)


def test_a_log_handler_that_raises_does_not_stop_the_records(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Raises(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "2":
            raise RuntimeError("a bad handler")

class Says(DestinationRoutine):
    def main_logic(self, data):
        self._logger.info("%d", data)

logging.getLogger("Pipe").addHandler(Raises())
run(Count(until=3), Says("says"))
"""
    )
    lines = ended_well(script).lines
    assert [line for line in lines if line.startswith("Pipe.flow.says")][-1] == "Pipe.flow.says INFO 3"
    assert "Pipe ERROR a log handler failed" in lines
    assert "RuntimeError: a bad handler" in lines
