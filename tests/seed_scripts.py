"""Scripts in the style of PipeRT2, of which its tests are made."""

from __future__ import annotations

from conftest import Finished

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
