"""Detectors, and what they find, on real clips: in a pipe exactly what one loop finds."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from media import Beginning, bikes, carphone, excerpt, frames_of, vtest
from pipert_shm import START_EVENT_NAME, MiddleRoutine, Pipe
from pipert_shm.video import (
    Annotator,
    Crop,
    CvtColor,
    DetectedFrame,
    Detections,
    Detector,
    HaarDetector,
    HogPeopleDetector,
    MotionDetector,
    Resize,
    Tracker,
)
from routines import Record, chain, received
from test_video import checksum

if TYPE_CHECKING:
    import supervision as sv  # which takes 45 MB of every process that it is imported in

needs_haar = pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="this OpenCV has no CascadeClassifier")
needs_hog = pytest.mark.skipif(not hasattr(cv2, "HOGDescriptor"), reason="this OpenCV has no HOGDescriptor")

# ---- detections ----------------------------------------------------------------------------------


def test_arrays_of_the_right_type_are_kept_and_lists_made_arrays() -> None:
    boxes, scores = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
    found = Detections(boxes, scores, [0, 1], ["cat", "dog"], [7, -1])
    assert found.boxes is boxes
    assert found.scores is scores
    assert found.class_ids is not None
    assert found.track_ids is not None
    assert (str(found.class_ids.dtype), str(found.track_ids.dtype)) == ("int64", "int64")
    assert (len(found), found.labels, found.names) == (2, ["cat", "dog"], ("cat", "dog"))


def test_nothing_found() -> None:
    for found in (Detections([]), Detections(np.empty((0, 4)), [], [], ("cat",))):
        assert (found.boxes.shape, str(found.boxes.dtype), found.labels) == ((0, 4), "float32", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, r"boxes are rows of left, top, right, bottom: \(n, 4\), not \(1, 3\)"),
        ({"boxes": [1, 2, 3, 4]}, r"\(n, 4\), not \(4,\)"),
        ({"boxes": [[1, 2, 3, 4]], "scores": [1, 2]}, r"scores has the shape \(2,\); one for each of the 1 boxes is needed"),
        ({"boxes": [[1, 2, 3, 4]], "track_ids": [[1]]}, r"track_ids has the shape \(1, 1\)"),
        ({"boxes": [[1, 2, 3, 4]], "class_ids": [1.5]}, r"class_ids are whole numbers, not \[1.5\]"),
        ({"boxes": [[1, 2, 3, 4]], "track_ids": [float("nan")]}, r"track_ids are whole numbers, not \[nan\]"),
        ({"boxes": [[1, 2, 3, 4]], "class_ids": [2], "names": ["cat", "dog"]}, "from 2 to 2 do not fit 2 names, from 0 on"),
        ({"boxes": [[1, 2, 3, 4]], "class_ids": [-1], "names": ["cat"]}, "from -1 to -1 do not fit 1 names"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detections(**arguments)


def test_labels_without_names_and_without_classes() -> None:
    assert Detections([[0, 0, 1, 1]], class_ids=[3]).labels == ["class 3"]
    assert Detections([[0, 0, 1, 1]]).labels == [""]


@pytest.mark.parametrize(
    ("names", "labels", "kept"),
    [
        ({0: "person", 1: "bicycle", 2: "car"}, ["person", "car"], ("person", "bicycle", "car")),
        ({2: "car", 0: "person", 90: "brush"}, ["person", "car"], {0: "person", 2: "car", 90: "brush"}),
        ({np.int64(0): "person", 2: "car"}, ["person", "car"], {0: "person", 2: "car"}),
        (np.array(["person", "bicycle", "car"]), ["person", "car"], ("person", "bicycle", "car")),
    ],
)
def test_names_are_given_as_a_list_or_by_class_id(names: Any, labels: list[str], kept: Any) -> None:
    found = Detections([[0, 0, 5, 5], [1, 1, 6, 6]], class_ids=[0, 2], names=names)
    assert (found.labels, found.names) == (labels, kept)
    assert found.finite().labels == pickle.loads(pickle.dumps(found)).labels == labels
    assert Detections.from_supervision(found.to_supervision(), names).labels == labels


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("person", TypeError, r"names are a list of class names, such as \['person'\], or a dict by class id, not 'person'"),
        ({"person", "car"}, TypeError, "or a dict by class id, not {"),
        (3, TypeError, "or a dict by class id, not 3"),
        ({"person": 0}, TypeError, r"names as a dict go by class id, such as {0: 'person'}, not by 'person'"),
        ({"0": "person"}, TypeError, "not by '0'"),
        ([None], TypeError, "names are texts, not None"),
        ({5: "car"}, ValueError, r"class ids \[0\] have no names; there are names for \[5\]"),
    ],
)
def test_names_that_can_not_be_meant_are_refused(names: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Detections([[0, 0, 5, 5]], class_ids=[0], names=names)


def test_only_the_finds_with_finite_boxes_are_kept_and_all_of_them_without_a_copy() -> None:
    boxes = np.array([[0, 0, 5, 5], [0, np.nan, 5, 5], [0, 0, np.inf, 5]])
    found = Detections(boxes, [0.5, 0.25, 1], [0, 1, 0], ["a", "b"], [3, 4, 5])
    assert as_lists(found.finite()) == as_lists(Detections([[0, 0, 5, 5]], [0.5], [0], ["a", "b"], [3]))
    whole = Detections([[0, 0, 5, 5]])
    assert whole.finite() is whole


def test_a_detector_keeps_what_the_payload_carried_besides() -> None:
    class Bright(Detector):
        def detect(self, frame: np.ndarray) -> Detections:
            return Detections([[0, 0, 1, 1]])

    data = DetectedFrame(np.zeros((4, 4, 3), np.uint8), Detections([]))
    data.additional_data["weather"] = "fog"
    assert Bright().main_logic(data).additional_data == {"weather": "fog"}


def test_for_supervision_nothing_is_copied() -> None:
    found = Detections([[1, 2, 3, 4], [5, 6, 7, 8]], [0.5, 0.25], [1, 0], ("cat", "dog"), [7, 8])
    theirs = found.to_supervision()
    for own, other in (
        (found.boxes, theirs.xyxy),
        (found.scores, theirs.confidence),
        (found.class_ids, theirs.class_id),
        (found.track_ids, theirs.tracker_id),
    ):
        assert own is not None
        assert other is not None
        assert np.shares_memory(own, other)
    assert list(theirs.data["class_name"]) == ["dog", "cat"]
    assert as_lists(Detections.from_supervision(theirs, found.names)) == as_lists(found)
    assert as_lists(Detections.from_supervision(Detections([]).to_supervision())) == as_lists(Detections([]))


def test_what_a_detected_frame_carries_besides_stays_with_it_through_trackers_and_annotators() -> None:
    data = DetectedFrame(np.zeros((48, 64, 3), np.uint8), Detections([[1, 2, 30, 40]], [0.9], [0], ("cat",)))
    data.additional_data["weather"] = "fog"
    tracker = Tracker()
    tracker.setup()
    for step in (tracker, Annotator()):
        data = step.main_logic(data)
        assert data.additional_data == {"weather": "fog"}
    assert data.detections.labels == ["cat"]


def test_without_supervision_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"supervision is not installed .*pip install .*\[tracking\]'"):
        Detections([]).to_supervision()
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ImportError, match=r"trackers is not installed .*pip install .*\[tracking\]'"):
        Tracker().setup()


def as_lists(found: Detections) -> list[Any]:
    """All that they say, to compare."""
    columns = (found.boxes, found.scores, found.class_ids, found.track_ids)
    return [*(None if column is None else column.tolist() for column in columns), found.names]


def test_detections_cross_processes_whole() -> None:
    found = Detections([[1, 2, 3, 4]], [0.5], [0], ("cat",), [7])
    assert as_lists(pickle.loads(pickle.dumps(found))) == as_lists(found)


# ---- in a pipe as in one loop --------------------------------------------------------------------


def digest(detected: DetectedFrame) -> list[Any]:
    return [checksum(detected.frame), *as_lists(detected.detections)]


def in_a_pipe(path: Path, *steps: MiddleRoutine, frames: int, directory: Path, make: Callable[[Any], Any]) -> list[Any]:
    """What comes out of the steps, each in a process of its own; checks that nothing was copied on the way to the last."""
    source, record = Beginning(path, frames, "camera"), Record("record", directory / "got", make)
    with Pipe(policy="block") as pipe:
        chain(pipe, source, *steps, record)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    statistics = pipe.statistics()
    assert sum(routine.errors for routine in statistics.routines.values()) == 0
    assert sum(wire.lost for wire in statistics.wires.values()) == 0
    assert [routine.copied_bytes for routine in statistics.routines.values()] == [0] * (len(steps) + 2)
    got = received(directory / "got")
    assert [message.sequence for message in got] == list(range(frames))
    return [message.value for message in got]


def in_one_loop(path: Path, *steps: MiddleRoutine, frames: int, make: Callable[[Any], Any]) -> list[Any]:
    for step in steps:
        step.setup()
    results = []
    for frame in frames_of(path, frames):
        data: Any = frame
        for step in steps:
            data = step.main_logic(data)
        results.append(make(data))
    return results


@pytest.mark.parametrize(
    ("clip", "part", "detector", "least"),
    [
        pytest.param(bikes, range(50), MotionDetector, 50, id="motion-bikes"),
        pytest.param(bikes, range(34, 46), HogPeopleDetector, 15, id="people-bikes", marks=needs_hog),
        pytest.param(carphone, range(30), HaarDetector, 30, id="faces-carphone", marks=needs_haar),
        pytest.param(vtest, range(30), MotionDetector, 40, id="motion-vtest"),
        pytest.param(vtest, range(0, 360, 40), HogPeopleDetector, 14, id="people-vtest", marks=needs_hog),
    ],
)
def test_a_pipe_finds_what_one_loop_finds_frame_by_frame(
    tmp_path: Path, clip: Callable[[], Path], part: range, detector: type[Detector], least: int
) -> None:
    """Of whole clips, which takes minutes: `python tests/whole_clips.py`."""
    path, frames = excerpt(clip(), part, tmp_path / "clip.avi"), len(part)
    got = in_a_pipe(path, detector(), frames=frames, directory=tmp_path, make=digest)
    assert got == in_one_loop(path, detector(), frames=frames, make=digest)
    assert sum(len(boxes) for _, boxes, *_ in got) >= least, "there is something to see"


def test_a_tracker_follows_the_same_things_in_a_pipe_as_in_one_loop(tmp_path: Path) -> None:
    import supervision as sv

    def steps() -> tuple[MiddleRoutine, ...]:
        return (
            MotionDetector(),
            Tracker(),
            Annotator(sv.BoxAnnotator(color_lookup=sv.ColorLookup.INDEX), sv.TraceAnnotator(color_lookup=sv.ColorLookup.TRACK)),
        )

    got = in_a_pipe(bikes(), *steps(), frames=60, directory=tmp_path, make=digest)
    assert got == in_one_loop(bikes(), *steps(), frames=60, make=digest)
    ids = [set(track_ids) - {-1} for *_, track_ids, _ in got]
    followed = ids[-1] & ids[-10]
    assert followed, "the same thing has the same id ten frames later"
    assert [frame[0] for frame in got] != [checksum(frame) for frame in frames_of(bikes(), 60)], "it was drawn on"


# ---- motion --------------------------------------------------------------------------------------


def square_at(x: int) -> np.ndarray:
    frame = np.zeros((120, 160, 3), np.uint8)
    frame[40:60, x : x + 30] = 200
    return frame


def test_motion_is_found_where_it_is_and_the_frame_is_forwarded_itself() -> None:
    detector = MotionDetector(min_area=100)
    detector.setup()
    for _ in range(20):
        still = detector.main_logic(np.zeros((120, 160, 3), np.uint8))
    frame = square_at(50)
    frame.flags.writeable = False  # as it comes from another process
    detected = detector.main_logic(frame)
    assert len(still.detections) == 0
    assert detected.frame is frame
    assert detected.get_frame() is frame
    assert detected.detections.boxes.tolist() == [[50, 40, 80, 60]]
    assert detector.main_logic(detected).frame is frame, "a frame that another detector has seen will do as well"


def test_what_is_smaller_than_min_area_does_not_count() -> None:
    detector = MotionDetector(min_area=2000)
    detector.setup()
    for _ in range(20):
        detector.detect(np.zeros((120, 160, 3), np.uint8))
    assert len(detector.detect(square_at(50))) == 0


def test_the_same_frames_give_the_same_boxes_after_each_start() -> None:
    detector = MotionDetector()
    runs = []
    for _ in range(2):
        detector.setup()
        runs.append([detector.detect(frame).boxes.tolist() for frame in frames_of(bikes(), 60)])
        detector.cleanup()
    assert runs[0] == runs[1]
    assert sum(len(boxes) for boxes in runs[0]) > 50


# ---- faces and people ----------------------------------------------------------------------------


@needs_haar
def test_the_face_is_found_where_it_is() -> None:
    detector = HaarDetector()
    detector.setup()
    boxes = [detector.detect(frame).boxes.tolist() for frame in frames_of(carphone(), 20)]
    assert [len(found) for found in boxes] == [1] * 20
    for ((left, top, right, bottom),) in boxes:
        assert left < 85 < right, "the nose"
        assert top < 70 < bottom
        assert right - left < 110


@needs_haar
@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "there is no Haar cascade '.*/mine.xml'"),
        ("<no/>", ValueError, "'.*/mine.xml' is no Haar cascade"),
    ],
)
def test_a_cascade_that_cannot_be_loaded(tmp_path: Path, content: str | None, error: type[Exception], message: str) -> None:
    path = tmp_path / "mine.xml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        HaarDetector(cascade=path).setup()


@needs_hog
def test_people_have_scores_and_a_name() -> None:
    detector = HogPeopleDetector()
    detector.setup()
    finds = [detector.detect(frame) for frame in list(frames_of(bikes(), 77))[68:]]
    for found in finds:
        assert found.boxes[:, 0].tolist() == sorted(found.boxes[:, 0].tolist()), "in an order that is not that of threads"
    found = max(finds, key=len)
    assert found.labels == ["person"] * len(found) != []
    assert found.scores is not None
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert ((found.boxes[:, 3] - found.boxes[:, 1]) >= 100).all(), "a window is 128 pixels high, with a margin"


@pytest.mark.parametrize(("detector", "name"), [(HaarDetector, "CascadeClassifier"), (HogPeopleDetector, "HOGDescriptor")])
def test_an_opencv_without_them_is_told_of_when_they_are_made(
    monkeypatch: pytest.MonkeyPatch, detector: type[Detector], name: str
) -> None:
    monkeypatch.delattr(cv2, name, raising=False)  # as in the wheel of OpenCV 5
    says = rf"{detector.__name__} needs OpenCV's {name}, which this OpenCV {cv2.__version__} lacks: pip install 'opencv-python"
    with pytest.raises(ImportError, match=says):
        detector()


def test_a_detector_without_a_detect_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Mine has no detect\(frame\)"):
        type("Mine", (Detector,), {})().main_logic(np.zeros((4, 4, 3), np.uint8))


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a frame is needed, as an array or in a FrameData .*, not a dict"):
        MotionDetector().main_logic({})  # type: ignore[arg-type]


# ---- other frames --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "copied_frames"),
    [
        (lambda: Resize((200, 100)), 0),
        (lambda: Resize((800, 600), interpolation=cv2.INTER_CUBIC), 0),
        (lambda: CvtColor(cv2.COLOR_BGR2GRAY), 1),
        (lambda: CvtColor(cv2.COLOR_BGR2HSV), 1),
        (lambda: Crop(100, 40, 320, 200), 0),
    ],
)
def test_frames_are_made_in_shared_memory(tmp_path: Path, make: Callable[[], MiddleRoutine], copied_frames: int) -> None:
    step, record = make(), Record("record", tmp_path / "got", lambda frame: (checksum(frame), frame.shape))
    with Pipe(policy="block") as pipe:
        chain(pipe, Beginning(bikes(), 20, "camera"), step, record)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    own = make()
    expected = [own.main_logic(frame) for frame in frames_of(bikes(), 20)]
    assert [message.value for message in received(tmp_path / "got")] == [(checksum(frame), frame.shape) for frame in expected]
    assert pipe.statistics().routines[step.name].copied_bytes == copied_frames * expected[0].nbytes


def test_what_a_crop_is_of_is_not_copied_but_too_small_a_frame_is_refused() -> None:
    frame = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    assert np.shares_memory(Crop(1, 2, 3, 4).main_logic(frame), frame)
    assert np.array_equal(Crop(1, 2, 3, 4).main_logic(frame), frame[2:6, 1:4])
    with pytest.raises(ValueError, match="a frame of 64x48 pixels has no part from 60, 2 to 65, 6"):
        Crop(60, 2, 5, 4).main_logic(frame)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(-1, 0, 1, 1), "at least 0 and width and height at least 1 pixel, not -1, 0, 1, 1"),
        (lambda: Crop(0, 0, 0, 1), "not 0, 0, 0, 1"),
        (lambda: Resize((0, 10)), r"size is a width and a height of at least 1 pixel, .* not \(0, 10\)"),
        (lambda: MotionDetector(threshold=0), "threshold is a squared distance above 0, not 0"),
        (lambda: MotionDetector(min_area=-1), "min_area is at least 0 pixels, not -1"),
    ],
)
def test_sizes_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_boxes_are_drawn_on_the_frame_that_goes_on_only() -> None:
    frame = np.full((96, 128, 3), 100, np.uint8)
    frame.flags.writeable = False
    drawn = Annotator().main_logic(DetectedFrame(frame, Detections([[32, 32, 96, 64]])))
    changed = (drawn.frame != frame).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (31, 31, 96, 64), "two pixels wide"
    assert not changed[40:56, 40:88].any(), "inside of the box"
    assert (frame == 100).all()
    assert drawn.detections.boxes.tolist() == [[32, 32, 96, 64]]


@pytest.mark.parametrize("by_supervision", [False, True])
def test_boxes_that_are_not_finite_are_not_drawn_and_go_on(by_supervision: bool) -> None:
    import supervision as sv

    annotators = [sv.BoxAnnotator(color_lookup=sv.ColorLookup.INDEX)] if by_supervision else []
    frame = np.zeros((48, 64, 3), np.uint8)
    good = Detections([[10, 10, 30, 30]])
    odd = Detections(np.array([[np.nan, 0, 5, 5], [10, 10, 30, 30], [0, 0, np.inf, 5]]))
    annotator = Annotator(*annotators)
    drawn = annotator.main_logic(DetectedFrame(frame, odd))
    if not by_supervision:
        assert np.array_equal(drawn.frame, Annotator().main_logic(DetectedFrame(frame, good)).frame)
    assert drawn.frame.any()
    assert drawn.detections is odd
    assert dict(annotator.counters) == {"not_finite": 2}


def test_a_box_far_outside_of_the_frame_is_drawn_as_far_as_it_is_seen() -> None:
    drawn = Annotator().main_logic(DetectedFrame(np.zeros((48, 64, 3), np.uint8), Detections([[-1e30, 10, 20, 1e30]])))
    assert drawn.frame[20, 19].tolist() == [0, 255, 0]


def test_annotators_of_supervision_find_what_the_frame_carries_besides() -> None:
    seen: list[Any] = []

    class Note:
        def annotate(self, scene: np.ndarray, detections: sv.Detections) -> np.ndarray:
            seen.append(dict(detections.metadata))
            return scene

    data = DetectedFrame(np.zeros((48, 64, 3), np.uint8), Detections([]))
    data.additional_data["weather"] = "fog"
    Annotator(Note()).main_logic(data)
    assert seen == [{"weather": "fog"}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda box: "annotator", r"not the text 'annotator'; where that is a name, write Annotator\(name='annotator'\)"),
        (lambda box: box, r"an object with annotate\(\), such as BoxAnnotator\(\), not <class"),
        (lambda box: 7, r"an object with annotate\(\), such as supervision.BoxAnnotator\(\), not 7"),
        (lambda box: [box()], r"an object with annotate\(\)"),
    ],
    ids=["text", "class", "number", "list"],
)
def test_what_can_not_annotate_is_refused_at_the_call(make: Callable[[type], Any], message: str) -> None:
    import supervision as sv

    argument = make(sv.BoxAnnotator)
    with pytest.raises(TypeError, match=message):
        Annotator(argument)


def test_an_annotator_without_a_detector_before_it_says_so() -> None:
    with pytest.raises(TypeError, match="a DetectedFrame is needed, not a ndarray: wire a detector before the annotator"):
        Annotator().main_logic(np.zeros((4, 4, 3), np.uint8))  # type: ignore[arg-type]


def test_tracker_says_what_a_function_returns() -> None:
    with pytest.raises(TypeError, match=r"not a Detections: .* a function returns DetectedFrame\(frame, detections\)"):
        Tracker().main_logic(Detections(np.zeros((1, 4))))  # type: ignore[arg-type]
