"""Heads: against Ultralytics' own results, which `record_heads.py` has recorded, and which head is taken for a network."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm.video import (
    ClassificationHead,
    Detections,
    DetrHead,
    ModelDescription,
    Preprocessing,
    RtDetrHead,
    TensorInfo,
    UnknownModel,
    YoloHead,
    YoloObbHead,
    YoloPoseHead,
    YoloSegmentHead,
    head_for,
)
from pipert_shm.video.models.choosing import choose, extra_inputs
from pipert_shm.video.models.head import as_head
from record_heads import FRAMES, OVERLAP, SIDE, SIZES, THRESHOLD, output, prototypes

NAMES = ["a", "b", "c"]
EXPECTED = json.loads((Path(__file__).parent / "heads_expected.json").read_text())
HEADS: dict[str, YoloHead] = {
    "detect": YoloHead(NAMES, threshold=THRESHOLD, overlap=OVERLAP),
    "segment": YoloSegmentHead(NAMES, threshold=THRESHOLD, overlap=OVERLAP),
    "pose": YoloPoseHead(NAMES, keypoints=(5, 3), threshold=THRESHOLD, overlap=OVERLAP),
    "obb": YoloObbHead(NAMES, threshold=THRESHOLD, overlap=OVERLAP),
}


def read(task: str, outputs: list[np.ndarray] | None = None) -> Detections:
    given = [output(task)] if outputs is None else outputs
    (found,) = HEADS[task]([*given, prototypes()] if task == "segment" else given, (SIDE, SIDE))
    assert found.scores is not None
    return found.select(np.argsort(-found.scores, kind="stable"))


# ---- as Ultralytics itself -----------------------------------------------------------------------


@pytest.mark.parametrize("task", HEADS)
def test_yolo_outputs_are_read_as_ultralytics_reads_them(task: str) -> None:
    found, expected = read(task), EXPECTED[task]
    assert len(found) == len(expected["scores"])
    assert found.scores == pytest.approx(expected["scores"], abs=1e-4)
    assert found.class_ids is not None
    assert found.class_ids.tolist() == expected["classes"]
    if task == "obb":
        assert found.corners is not None
        assert np.allclose(found.corners.reshape(-1, 8), expected["corners"], atol=1e-3)
        assert np.allclose(found.boxes[:, :2], found.corners.min(axis=1))
    else:
        boxes = np.array(expected["boxes"])
        assert np.allclose(found.boxes, boxes.clip(0, SIDE) if task == "segment" else boxes, atol=1e-3)
    if task == "pose":
        assert found.keypoints is not None
        assert np.allclose(found.keypoints.reshape(-1, 15), expected["keypoints"], atol=1e-3)


def test_masks_are_those_of_ultralytics() -> None:
    found = read("segment")
    bits = np.unpackbits(np.frombuffer(base64.b64decode(EXPECTED["segment"]["masks"]), np.uint8))
    down, right = np.mgrid[:SIDE, :SIDE] + 0.5
    for number, theirs in enumerate(bits.reshape(8, SIDE, SIDE).astype(bool)):
        first, top, last, bottom = found.boxes[number]  # which pixels of its rim are in a box, the two see differently
        within = (right > first + 1) & (right < last - 1) & (down > top + 1) & (down < bottom - 1)
        assert (found.mask(number, (SIDE, SIDE)) ^ theirs)[within].mean() < 0.02
        assert found.mask(number, (SIDE, SIDE)).sum() == pytest.approx(theirs.sum(), rel=0.15)


def test_frames_are_letterboxed_where_ultralytics_puts_them() -> None:
    places = [list(Preprocessing().place(frame, size).region) for frame in FRAMES for size in SIZES]
    assert places == EXPECTED["places"]


# ---- forms of the output -------------------------------------------------------------------------


@pytest.mark.parametrize("task", HEADS)
def test_the_same_objects_are_read_from_every_form(task: str) -> None:
    found = read(task)
    rows = output(task)[0].T
    with_objectness = np.hstack([rows[:, :4], np.full((len(rows), 1), 1, np.float32), rows[:, 4:]])[None]
    assert same(read(task, [with_objectness]), found)
    best = rows[:, 4:7].argmax(axis=1)
    low, high = rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2
    boxes = rows[:, :4] if task == "obb" else np.hstack([low, high])
    finished = np.hstack([boxes, rows[:, 4:7].max(axis=1)[:, None], best[:, None], rows[:, 7:]])
    kept = [row for row in finished if any(abs(row[4] - score) < 1e-6 for score in np.asarray(found.scores))]
    padded = np.vstack([*kept, np.zeros((40, finished.shape[1]))])[None].astype(np.float32)
    assert same(read(task, [padded]), found), "end to end"


def same(one: Detections, other: Detections) -> bool:
    columns = ("boxes", "scores", "class_ids", "corners", "keypoints", "masks")
    pairs = [(getattr(one, name), getattr(other, name)) for name in columns]
    return all(left is right or np.allclose(left, right, atol=1e-3) for left, right in pairs)


def test_the_form_can_be_given_where_it_is_not_told() -> None:
    rows = np.zeros((1, 10, 6), np.float32)
    rows[0, 0] = [5, 6, 15, 26, 0.9, 0.8]
    (found,) = YoloHead(["a"], form="v5")([rows])
    assert found.scores == pytest.approx([0.72])
    with pytest.raises(ValueError, match=r"with 1 names and form='v8' .* not \(1, 10, 6\)"):
        YoloHead(["a"], form="v8")([rows])
    with pytest.raises(ValueError, match="form must be one of v8, v5, end-to-end, not 'v9'"):
        YoloHead(["a"], form="v9")  # type: ignore[arg-type]


def test_what_tensorrts_suppression_gives_is_read() -> None:
    boxes = np.array([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]]], np.float32)
    outputs = [np.array([[2]], np.int32), boxes, np.array([[0.9, 0.5, 0.9]], np.float32), np.array([[1, 0, 2]], np.int32)]
    (found,) = YoloHead(["a", "b"])(outputs)
    assert (found.boxes.tolist(), found.labels) == (boxes[0, :2].tolist(), ["b", "a"])


@pytest.mark.parametrize(
    ("task", "outputs", "message"),
    [
        ("segment", [np.zeros((1, 15, 60), np.float32)], r"prototypes \(batch, p, height, width\) and \(batch, 7 \+ p, n\)"),
        ("pose", [np.zeros((1, 21, 60), np.float32)], r"5 keypoints of 3 columns .* \(batch, 22, n\).*, not \(1, 21, 60\)"),
        ("obb", [np.zeros((1, 7, 60), np.float32)], r"\(batch, 8, n\), .* with the angle in its last column, not \(1, 7, 60\)"),
    ],
)
def test_outputs_of_another_task_are_refused(task: str, outputs: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HEADS[task](outputs, (SIDE, SIDE))


# ---- DETR ----------------------------------------------------------------------------------------

SHARES = np.array([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0], [0.1, 0.1, 0.1, 0.1]]], np.float32)
CORNERS = np.array([[80, 30, 120, 70], [0, 0, 100, 100]], np.float32)


def test_a_box_of_two_classes_is_told_twice_by_sigmoids_and_once_by_a_softmax() -> None:
    logits = np.array([[[3, 2, -9], [-9, 1, -9], [-9, -9, 9]]], np.float32)
    (found,) = DetrHead(["a", "b"])([SHARES, logits], (200, 100))
    assert found.labels == ["a", "b", "b"]
    assert np.allclose(found.boxes, CORNERS[[0, 0, 1]], atol=1e-4)
    assert found.scores == pytest.approx(1 / (1 + np.exp([-3, -2, -1])))
    (found,) = DetrHead(["a", "b"], scores="softmax", order=["logits", "boxes"])([logits, SHARES], (200, 100))
    assert found.labels == ["b", "a"], "the last logit stands for no object"


def test_names_of_a_detr_may_leave_ids_out() -> None:
    logits = np.full((1, 3, 91), -9, np.float32)
    logits[0, 0, 90], logits[0, 1, 12] = 5, 5
    (found,) = DetrHead({1: "person", 90: "toothbrush"})([SHARES, logits], (200, 100))
    assert found.labels == ["toothbrush"]


def test_masks_of_rf_detr_lie_in_their_boxes() -> None:
    masks = np.full((1, 3, 25, 50), -9, np.float32)
    masks[0, 0, :, :25] = 9  # the left half of the picture: of the first box, too
    logits = np.array([[[5], [-9], [-9]]], np.float32)
    head = DetrHead(["a"], order=["boxes", "logits", "masks"])
    (found,) = head([SHARES, logits, masks], (200, 100))
    rows, columns = np.nonzero(found.mask(0, (100, 200)))
    assert (rows.min(), rows.max(), columns.min()) == (30, 69, 80)
    assert columns.max() in (98, 99, 100)


def test_what_is_no_detr_is_refused() -> None:
    logits = np.zeros((1, 3, 5), np.float32)
    with pytest.raises(ValueError, match=r"with 2 names, .* logits \(batch, n, 2 or 3\), not \(1, 3, 4\), \(1, 3, 5\)"):
        DetrHead(["a", "b"])([SHARES, logits], (64, 64))
    with pytest.raises(ValueError, match="should be shares of its input, 0 to 1: it is of another kind"):
        DetrHead(["a", "b", "c", "d"])([SHARES * 100, logits + 9], (64, 64))


def test_rt_detr_of_its_authors_and_of_ultralytics_is_read() -> None:
    head = RtDetrHead(["a", "b", "c"])
    assert {name: value.tolist() for name, value in head.more_inputs(2, (640, 480)).items()} == {
        "orig_target_sizes": [[640, 480], [640, 480]]
    }
    labels, scores = np.array([[2, 0, 1]]), np.array([[0.9, 0.8, 0.1]], np.float32)
    boxes = np.vstack([CORNERS, [[0, 0, 1, 1]]])[None].astype(np.float32)
    finished = np.concatenate([SHARES, scores[..., None], labels[..., None]], axis=2).astype(np.float32)
    by_class = np.concatenate([SHARES, np.eye(3)[labels[0]][None] * scores[..., None]], axis=2).astype(np.float32)
    for outputs in ([labels, boxes, scores], [finished], [by_class]):
        (found,) = head(outputs, (200, 100))
        assert found.labels == ["c", "a"]
        assert np.allclose(found.boxes, CORNERS, atol=1e-4)
    with pytest.raises(ValueError, match="class ids from 0 to 7, and there are 3 names"):
        head([labels + np.array([[5, 0, 0]]), boxes, scores], (200, 100))


# ---- classes of pictures -------------------------------------------------------------------------


def test_a_picture_gets_its_likeliest_classes() -> None:
    (found,) = ClassificationHead(NAMES, top=2, threshold=0.1)([np.array([[0.2, 0.7, 0.1]], np.float32)], (224, 112))
    assert (found.labels, found.boxes.tolist()) == (["b", "a"], [[0, 0, 224, 112]] * 2)
    seen = Preprocessing(fit="crop").place((400, 200), (100, 100)).restored(Detections([[0, 0, 100, 100]]))
    assert seen.boxes.tolist() == [[100, 0, 300, 200]], "the middle of the frame"
    with pytest.raises(ValueError, match="scores are from -1 to 7, not from 0 to 1"):
        ClassificationHead(NAMES)([np.array([[-1, 7, 3]], np.float32)], (224, 224))


# ---- which head ----------------------------------------------------------------------------------


def network(*outputs: tuple[Any, ...], file: str = "some.onnx", extra: str | None = None, **metadata: Any) -> ModelDescription:
    """:param outputs: shapes, or a name and then a shape."""
    told = [each if isinstance(each[0], str) and len(each) == 2 else (f"output{i}", each) for i, each in enumerate(outputs)]
    inputs = [TensorInfo("images", "float32", (1, 3, 640, 640))]
    if extra is not None:
        inputs.append(TensorInfo(extra, "int64", ("N", 2)))
    infos = tuple(TensorInfo(name, "float32", shape) for name, shape in told)
    return ModelDescription(file, tuple(inputs), infos, {key: str(value) for key, value in metadata.items()})


def ultralytics(task: str, *outputs: tuple[int, ...], names: int = 80, **more: Any) -> ModelDescription:
    by_id = {number: f"class{number}" for number in range(names)}
    return network(*outputs, author="Ultralytics", task=task, names=by_id, **more)


@pytest.mark.parametrize(
    ("described", "kind", "form"),
    [
        (ultralytics("detect", (1, 84, 8400)), YoloHead, "v8"),
        (ultralytics("detect", (1, 300, 6), end2end=True), YoloHead, "end-to-end"),
        (ultralytics("detect", (1, 300, 6), names=1, args="{'nms': True}"), YoloHead, "end-to-end"),
        (ultralytics("segment", (1, 116, 8400), (1, 32, 160, 160)), YoloSegmentHead, "v8"),
        (ultralytics("segment", (1, 300, 38), (1, 32, 160, 160)), YoloSegmentHead, "end-to-end"),
        (ultralytics("pose", (1, 56, 8400), names=1, kpt_shape=[17, 3]), YoloPoseHead, "v8"),
        (ultralytics("pose", (1, 300, 57), names=1, kpt_shape=[17, 3]), YoloPoseHead, "end-to-end"),
        (ultralytics("obb", (1, 20, 8400), names=15), YoloObbHead, "v8"),
        (ultralytics("obb", (1, 300, 7), names=15), YoloObbHead, "end-to-end"),
        (ultralytics("classify", (1, 1000), names=1000), ClassificationHead, None),
        (ultralytics("detect", (1, 300, 84), head="RTDETRDecoder"), RtDetrHead, None),
        (network((1, 25200, 85), names=[f"class{number}" for number in range(80)], stride=32), YoloHead, "v5"),
    ],
)
def test_ultralytics_networks_tell_their_head(described: ModelDescription, kind: type, form: str | None) -> None:
    head = head_for(described, threshold=0.125)
    assert type(head) is kind
    assert getattr(head, "form", None) == form
    assert getattr(head, "threshold", None) == 0.125


def test_other_families_are_told_by_their_outputs() -> None:
    faces = network((1, 1, 160, 160), (1, 2, 160, 160), (1, 2, 160, 160), (1, 10, 160, 160))
    assert type(head_for(faces)).__name__ == "CenterFaceHead"
    rf = network(("dets", (1, 300, 4)), ("labels", (1, 300, 91)))
    head = head_for(rf, {1: "person", 90: "toothbrush"})
    assert isinstance(head, DetrHead)
    assert (head.order, head.preprocessing.fit, head.preprocessing.mean[0]) == (("boxes", "logits"), "stretch", 0.485)
    rt = network(("labels", (1, 300)), ("boxes", (1, 300, 4)), ("scores", (1, 300)), extra="orig_target_sizes")
    assert type(head_for(rt, NAMES)) is RtDetrHead
    assert extra_inputs(rt, 1, (640, 480))["orig_target_sizes"].tolist() == [[640, 480]]
    first = head_for(network(("logits", (1, 100, 4)), ("pred_boxes", (1, 100, 4))), NAMES)
    assert isinstance(first, DetrHead)
    assert (first.scores, first.order) == ("softmax", ("logits", "boxes"))


@pytest.mark.parametrize(
    ("described", "names", "why"),
    [
        (network((1, 84, 8400)), None, r"its file tells no class names.*: give names, such as names=\['person'\]"),
        (network((1, 84, 8400)), NAMES, r"\(1, 84, 8400\) does not go with 3 names: \(batch, 7, n\)"),
        (network((1, 300, 6)), ["a"], "may be of two forms: give the head form='v5' or form='end-to-end'"),
        (network((1, 1000)), None, r"it may tell of what kind a picture is.*ClassificationHead\(names"),
        (network(("logits", (1, 300, 3)), ("pred_boxes", (1, 300, 4))), NAMES, r"RT-DETR: DetrHead\(names, order="),
        (network((1, 3, 64, 64)), NAMES, "it may tell of what kind"),
        (network((1, 5, 5), (1, 5, 5)), NAMES, "its outputs are of no network that is known"),
        (ultralytics("depth", (1, 1, 640, 640)), None, "the task 'depth', for which there is no head: detect, segment"),
        (ultralytics("pose", (1, 56, 8400), names=1), None, r"do not tell how many keypoints there are \(kpt_shape\)"),
    ],
)
def test_a_network_that_does_not_say_its_head_is_refused(described: ModelDescription, names: Any, why: str) -> None:
    with pytest.raises(UnknownModel, match=why) as refusal:
        head_for(described, names)
    assert refusal.value.file == "some.onnx"
    assert "`pipert-shm model some.onnx`" in str(refusal.value)


def test_it_is_said_why_a_head_was_taken() -> None:
    choice = choose(network((1, 7, 8400)), NAMES)
    assert choice.why == "3 names that are given go with its output (1, 7, 8400), and its output is of the form 'v8'"


def test_metadata_that_is_damaged_says_nothing() -> None:
    for names in ("{0: 'a'", "[]", "{'x': 'a'}", "{0: 1}", "(" * 5000, "{-1: 'a'}"):
        assert network((1, 84, 8400), names=names).names is None
    assert network((1, 84, 8400), imgsz="[480, 640]").with_size((1, 1)).size == (640, 640), "the input says it"


# ---- heads of users ------------------------------------------------------------------------------


def test_heads_of_users_may_leave_out_what_they_do_not_need() -> None:
    class Earlier:
        scale = 1 / 128

        def __call__(self, outputs: Any) -> list[Detections]:
            return [Detections([[0, 0, 1, 1]])]

    class Brief:
        preprocessing = Preprocessing(colours="bgr")

        def __call__(self, outputs: Any, size: tuple[int, int]) -> list[Detections]:
            return [Detections([[0, 0, *size]])]

    earlier, brief = as_head(Earlier()), as_head(Brief())
    assert (earlier.preprocessing.scale, earlier.preprocessing.centred) == (1 / 128, False), "as it was"
    assert earlier([], (8, 9))[0].boxes.tolist() == [[0, 0, 1, 1]]
    assert brief([], (8, 9))[0].boxes.tolist() == [[0, 0, 8, 9]]
    assert (brief.names, brief.more_inputs(1, (8, 9))) == ((), {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": 255}, "scale is a factor for pixels, above 0 and up to 1, not 255"),
        ({"mean": 0.5}, "mean has three numbers, one for each channel, not 0.5"),
        ({"std": [1, 0, 1]}, "std is what the pixels are divided by"),
        ({"fit": "pad"}, "fit must be one of letterbox, stretch, crop, not 'pad'"),
        ({"colours": "yuv"}, "colours must be one of rgb, bgr, not 'yuv'"),
        ({"padding": 300}, "padding is a grey from 0 to 255, not 300"),
        ({"margin": 0}, "margin is a share above 0"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**given)
