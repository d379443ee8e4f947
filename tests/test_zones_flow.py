"""Zones and rules in processes: a SIGKILL loses no end, zones that were set stay set, and the metrics tell of both."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np

from killing import FAST, await_successor, pid_of, running
from pipert_shm import (
    DestinationRoutine,
    DetectedFrame,
    DetectionEvent,
    Detections,
    EventSource,
    Pipe,
    SourceRoutine,
    Wire,
    Zones,
)
from pipert_shm.api.metrics import PipeCollector
from waiting import Board, eventually

RIGHT = {"polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}
BEGAN_NS = 10**9


class Yard(SourceRoutine):
    """A person who stands on the right, two frames a second, as many as the board says."""

    def __init__(self, board: Board) -> None:
        super().__init__("yard")
        self.board = board
        self.set_const_fps(50)

    def main_logic(self) -> DetectedFrame | None:
        if self.meta.sequence >= self.board[0]:
            return None
        self.meta.captured_ns = BEGAN_NS + self.meta.sequence * 500_000_000
        return DetectedFrame(np.zeros((100, 100, 3), np.uint8), Detections([[66, 30, 74, 50]], track_ids=[3]))


class Lines(DestinationRoutine):
    """Writes down what it gets, at once."""

    def __init__(self, path: Path) -> None:
        super().__init__("lines")
        self.path = path

    def main_logic(self, events: list[DetectionEvent]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(event.to_dict()) + "\n" for event in events)


def test_a_process_that_dies_loses_no_end_and_no_zone(tmp_path: Path) -> None:
    board, path = Board(), tmp_path / "events"
    rules = [{"name": "stay", "kind": "dwell", "zone": "right", "seconds": 1}]
    yard, zones = Yard(board), Zones("zones", zones={"yard": {"right": RIGHT}})
    events, lines = EventSource("events", rules=rules), Lines(path)
    pipe = Pipe(policy="block")
    pipe.create_flow("camera", False, yard)
    pipe.create_flow("analyse", False, zones, events, **FAST)
    pipe.create_flow("output", False, lines)
    pipe.link(Wire(yard, zones), Wire(zones, events), Wire(events, lines))

    def told() -> list[DetectionEvent]:
        return [DetectionEvent.from_dict(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    with running(pipe):
        board[0] = 3
        eventually(lambda: len(told()) == 1, "the start")
        pipe.notify_event("set_zones", specific_routine="zones", camera="yard", zones={"right": RIGHT, "left": RIGHT})
        eventually(lambda: "left" in zones.settings["zones"]["yard"], "what the parent sees of the zones")
        dead = pid_of(pipe, "analyse")
        os.kill(dead, signal.SIGKILL)
        await_successor(pipe, "analyse", dead)
        board[0] = 6  # the end comes with the first of these, and the next start with the third
        eventually(lambda: len(told()) == 3, "the end, and the next start")
        start, end, again = told()
        assert (start.phase, end.phase, again.phase) == ("start", "end", "start")
        assert (end.id, end.started, end.more["ended_by"]) == (start.id, start.started, "restart")
        assert again.id != start.id
        samples = {
            (sample.name, sample.labels.get("zone") or sample.labels.get("phase")): sample.value
            for metric in PipeCollector(pipe).collect()
            for sample in metric.samples
            if sample.labels.get("camera") == "yard"
        }
        assert samples == {
            ("pipert_zone_objects", "right"): 1,
            ("pipert_zone_objects", "left"): 1,  # it was set, and outlived the process
            ("pipert_zone_entered_total", "right"): 2,
            ("pipert_zone_entered_total", "left"): 1,
            ("pipert_detection_events_total", "start"): 2,
            ("pipert_detection_events_total", "end"): 1,
        }
