"""Flows that are added to a pipe that runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from killing import FAST, assert_sound, await_motion, await_states, drain, kill_flows, launcher_of, pid_of, running
from pipert_shm import (
    START_EVENT_NAME,
    DestinationRoutine,
    Pipe,
    SourceRoutine,
    Wire,
)
from routines import Forward, Frames, Record, Sink, one_value, received
from waiting import Board, eventually


@contextmanager
def camera_pipe(**options: object) -> Iterator[tuple[Pipe, Frames]]:
    """A camera and a preview, running, each in a flow of its own."""
    pipe = Pipe(policy="block", capacity=2, grace_period=2)
    camera = Frames("camera", None, loan=True)
    preview = Sink("preview")
    pipe.create_flow("camera", False, camera, **FAST)
    pipe.create_flow("preview", False, preview, **FAST)
    pipe.link(Wire(camera, preview))
    with running(pipe):
        yield pipe, camera


def test_a_new_sink_on_a_running_camera(tmp_path: Path) -> None:
    with camera_pipe() as (pipe, camera):
        late = Record("late", tmp_path / "r", one_value)
        pipe.create_flow("late", False, late, **FAST)
        pipe.link(Wire(camera, late))
        pipe.build()
        assert pipe.statistics().routines["late"].state == "built"
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe, messages=20)
        drain(pipe, "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)
    messages = received(tmp_path / "r")
    assert len(messages) >= 20
    assert all(message.origin == "camera" and message.value == message.sequence % 251 for message in messages)
