"""Functions that return what another library found: it is sent with the frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision

from pipert_shm import FunctionalMiddleRoutine, Pipe, from_callable
from pipert_shm.video import DetectedFrame, Detections
from routines import Items, Record, chain, received

FRAME = np.zeros((48, 64, 3), np.uint8)


def people(count: int = 1) -> supervision.Detections:
    boxes = np.array([[4.0 * number, 2, 10, 20] for number in range(count)], np.float32).reshape(-1, 4)
    names: dict[str, Any] = {"class_name": np.array(["person"] * count)} if count else {}
    ids = np.full(count, 7)
    return supervision.Detections(xyxy=boxes, confidence=np.full(count, 0.5, np.float32), class_id=ids, data=names)


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_callable(lambda frame: people(), "model"),
        lambda: from_callable(lambda frame: [people()], "model"),
        lambda: from_callable(lambda frame, meta: people(), "model"),
        lambda: FunctionalMiddleRoutine(lambda frame: people(), "model"),
    ],
)
def test_what_is_found_in_a_frame_is_sent_with_it(make: Any) -> None:
    sent = make().main_logic(FRAME)
    assert isinstance(sent, DetectedFrame)
    assert sent.frame is FRAME
    assert sent.detections.labels == ["person"]
    assert sent.detections.boxes.tolist() == [[0, 2, 10, 20]]
    assert sent.detections.scores is not None
    assert sent.detections.scores.tolist() == [0.5]


def test_the_frame_of_a_payload_and_what_it_carries_go_on() -> None:
    data = DetectedFrame(FRAME, Detections([]))
    data.additional_data["weather"] = "fog"
    sent = from_callable(lambda data: people(2), "again").main_logic(data)
    assert (sent.frame is FRAME, len(sent.detections), sent.additional_data) == (True, 2, {"weather": "fog"})


def test_without_a_frame_it_is_detections_alone() -> None:
    sent = from_callable(lambda path: people(0), "model").main_logic("walk.jpg")
    assert isinstance(sent, Detections)
    assert len(sent) == 0
    assert isinstance(from_callable(lambda: people(), "source").main_logic(), Detections)


def test_keypoints_are_detections_too() -> None:
    points = supervision.KeyPoints(
        xy=np.array([[[4, 6], [10, 12]]], np.float32), keypoint_confidence=np.ones((1, 2), np.float32)
    )
    found = from_callable(lambda frame: points, "pose").main_logic(FRAME).detections
    assert found.keypoints.tolist() == [[[4, 6, 1], [10, 12, 1]]]


def test_results_of_several_images_are_refused() -> None:
    with pytest.raises(ValueError, match="returned the results of 2 images for one message: give the model one frame"):
        from_callable(lambda frame: [people(), people()], "model").main_logic(FRAME)


def test_what_is_nothing_of_the_kind_stays_as_it_is() -> None:
    for value in (None, [], [FRAME], {"found": people()}, supervision.Point(1, 2)):
        assert from_callable(lambda frame, value=value: value, "model").main_logic(FRAME) is value


def test_it_comes_through_a_pipe(tmp_path: Path) -> None:
    def found(frame: np.ndarray) -> supervision.Detections:
        return people(int(frame[0, 0, 0]))

    record = Record("record", tmp_path / "got", lambda data: (data.frame.shape, data.detections.labels))
    with Pipe(policy="block") as pipe:
        chain(pipe, Items("source", [np.full_like(FRAME, number) for number in range(3)]), from_callable(found), record)
        pipe.build()
        pipe.notify_event("start")
        pipe.join()
    values = [message.value for message in received(tmp_path / "got")]
    assert values == [(FRAME.shape, ["person"] * number) for number in range(3)]
