"""PipeRT2's wires, with only the import changed: unlink, structure, data classes and transmitters."""

from __future__ import annotations

import pytest

from conftest import RunScript
from seed_scripts import COUNTING, DATA, EVENTS, ended_well


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
from pipert_shm.flow import payload_log

assert 100_000_000 <= payload_log.BETWEEN_PICTURES_NS <= 500_000_000  # a few in a second at most
payload_log.BETWEEN_PICTURES_NS = 20_000_000_000  # however slow this machine is

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
    assert lines.count("Pipe.flow.camera INFO output: uint8 array (48, 64, 3)") == 1
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
