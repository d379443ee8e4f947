"""Settings of queues, rates, sizes and names that are out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, Pipe, QueueNetwork, SharedMemoryTransmitter, Wire, WiresValidation, events
from refusing import pipe_of
from routines import Items, Sink


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"policy": "drop_all"}, "'drop_all'"),
        ({"policy": ""}, "policy"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": -1}, "capacity"),
        ({"capacity": 65537}, "65537"),
        ({"capacity": 1.5}, "capacity"),
        ({"timeout": -0.1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, r"timeout.*86,400 \(None: wait for ever\), not inf"),
        ({"timeout": 86_401}, "timeout"),
        ({"timeout": 10**5000}, "timeout.*something of type int"),
        ({"timeout": True}, "timeout.*True"),
        ({"timeout": "1s"}, "timeout.*'1s'"),
        ({"timeout": [1]}, "timeout"),
        ({"capacity": True}, "capacity.*True"),
        ({"capacity": "8"}, "capacity.*'8'"),
        ({"policy": ["block"]}, "policy.*block"),
        ({"policy": 3}, "policy 3"),
    ],
)
def test_queue_settings_out_of_range(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Pipe(**settings)
    with pytest.raises(ValueError, match=word):
        Wire(Items("a", []), Sink("b"), **settings)


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-300, 86_400, np.float32(1.5)])
def test_unusual_timeouts_that_make_sense(timeout: float) -> None:
    source, sink = Items("source", range(3)), Sink("sink")
    pipe = pipe_of((source,), (sink,), wires=(Wire(source, sink, policy="block", timeout=timeout),))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    wire = pipe.statistics().wires["source", "sink"]
    assert wire.received + wire.lost == 3


def test_other_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="capacity"):
        QueueNetwork(max_queue_sizes=0)
    with pytest.raises(ValueError, match="timeout"):
        QueueNetwork(timeout=-1)
    with pytest.raises(ValueError, match="either network or"):
        Pipe(network=QueueNetwork(), capacity=1)
    with pytest.raises(ValueError, match="fps"):
        Items("a", []).set_const_fps(-1)
    with pytest.raises(ValueError, match="data_size_threshold"):
        SharedMemoryTransmitter(0)
    with pytest.raises(WiresValidation, match="'a'"):
        Wire(Items("a", []), [])
    with pytest.raises(TypeError, match="destinations"):
        Wire(Items("a", []), "b")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a/b", "/", "", ".", ".."])
def test_names_that_no_http_path_can_hold(name: str) -> None:
    with pytest.raises(ValueError, match=r"a routine can't be called .* a part of a path"):
        Sink(name)
    with pytest.raises(ValueError, match=r"an event can't be called .* a part of a path"):
        events(name)
    with pytest.raises(ValueError, match=r"a flow can't be called .* a part of a path"):
        Pipe().create_flow(name, False, Sink("sink"))
