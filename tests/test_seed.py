"""PipeRT2's getting started, with only the import changed: each a script of its own, with no `__main__` guard."""

from __future__ import annotations

import pytest

from conftest import RunScript, StartScript
from joining import TELLS_OF_JOIN
from seed_scripts import COUNTING, ROUTINES, ended_well


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


RUN_UNTIL_INTERRUPTED = f"""
example_pipe.build()
{TELLS_OF_JOIN}
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
    script.wait_for_line("joins", "example")
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
{TELLS_OF_JOIN}
example_pipe.notify_event(START_EVENT_NAME, {target})
example_pipe.join()
"""
    )
    script.wait_for_line("joins", "example")
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
