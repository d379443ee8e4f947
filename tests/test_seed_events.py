"""PipeRT2's events, with only the import changed: custom ones, targets, and handlers."""

from __future__ import annotations

import pytest

from conftest import RunScript
from seed_scripts import COUNTING, EVENTS, ended_well


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
