"""Compares heads with Ultralytics' own code, on outputs of real networks. It is run by hand: it takes minutes, and PyTorch:

    python -m venv /tmp/compare && /tmp/compare/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu \
        torch torchvision ultralytics onnx onnxruntime -e .
    /tmp/compare/bin/python tests/compare_heads.py [NAME …]

Each network is made of Ultralytics' configuration, with random weights. A picture sets its normalisations, so that its outputs
differ from place to place, as those of a trained network. It is exported as a user would, and run once by onnxruntime. Both get
these outputs: the head that `head_for` chooses, and the predictor of Ultralytics. The threshold lies in a wide gap near the
fortieth score. The scores above it should all differ, so that each detection has one counterpart; ties are told.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipert_shm.video import Detections, ModelDescription, head_for
from pipert_shm.video.models.letterbox import Letterbox

OVERLAP, WANTED = 0.7, 40


@dataclass(frozen=True)
class Case:
    """A network, and how it is exported."""

    name: str
    size: tuple[int, int] = (320, 320)  # width, height
    export: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        more = [f"{key}={value}" for key, value in self.export.items()]
        return " ".join([self.name, *([f"{self.size[0]}x{self.size[1]}"] if self.size != (320, 320) else []), *more])


ENDS: dict[str, Any] = {"nms": False}  # Ultralytics' word for a network that needs no suppression
WITHIN: dict[str, Any] = {"nms": True}  # suppression is part of the network
CASES = [
    *(Case(f"yolo{name}") for name in ("v3-tiny", "v5n", "v6n", "v8n", "v9t", "11n", "12n", "26n")),
    Case("yolov8n", (320, 192)),
    Case("yolov10n", export=ENDS),
    Case("yolo26n", export=ENDS),
    Case("yolo11n", export=WITHIN),
    *(Case(f"yolo{name}-seg") for name in ("v8n", "11n", "26n")),
    Case("yolov8n-seg", (192, 320)),
    Case("yolo26n-seg", export=ENDS),
    Case("yolo11n-seg", export=WITHIN),
    *(Case(f"yolo{name}-pose") for name in ("v8n", "11n", "26n")),
    Case("yolo26n-pose", export=ENDS),
    Case("yolo11n-pose", export=WITHIN),
    *(Case(f"yolo{name}-obb") for name in ("v8n", "11n", "26n")),
    Case("yolo26n-obb", export=ENDS),
    Case("yolo11n-obb", export=WITHIN),
    *(Case(f"yolo{name}-cls", (224, 224)) for name in ("v8n", "11n", "26n")),
    Case("rtdetr-l"),
    Case("yolov8n-rtdetr"),
]


# ---- networks ------------------------------------------------------------------------------------


def made(case: Case, picture: np.ndarray) -> Path:
    """Makes a network with random weights, and returns its ONNX file."""
    import torch
    from ultralytics import RTDETR, YOLO

    torch.manual_seed(5)
    network = (RTDETR if "rtdetr" in case.name else YOLO)(f"{case.name}.yaml")
    image = torch.from_numpy(pixels(case, picture))
    core = network.model.eval()
    for module in core.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0  # their means become those of this picture
    with torch.no_grad():
        core(image)
        for name, bias in core.named_parameters():
            if ("score_head" in name or "cv3" in name) and name.endswith("bias"):
                bias.fill_(-1.0)  # of the classes: they start with a bias for which next to nothing would be found
            if "score_head" in name and name.endswith("weight"):
                bias.mul_(2)
    core.eval()
    wide, high = case.size
    return Path(network.export(format="onnx", imgsz=(high, wide), simplify=False, verbose=False, **case.export))


def predictor(case: Case, description: ModelDescription, picture: np.ndarray) -> Any:
    """Returns what makes Ultralytics' results of outputs."""
    from ultralytics.models.rtdetr.predict import RTDETRPredictor
    from ultralytics.models.yolo.classify import ClassificationPredictor
    from ultralytics.models.yolo.detect import DetectionPredictor
    from ultralytics.models.yolo.obb import OBBPredictor
    from ultralytics.models.yolo.pose import PosePredictor
    from ultralytics.models.yolo.segment import SegmentationPredictor

    task = str(description.task)
    kinds = {"pose": PosePredictor, "obb": OBBPredictor, "segment": SegmentationPredictor, "classify": ClassificationPredictor}
    kind = RTDETRPredictor if "rtdetr" in case.name else kinds.get(task, DetectionPredictor)
    found = kind(overrides={"task": task, "imgsz": case.size[::-1], "iou": OVERLAP, "max_det": 300, "save": False})
    ends = case.export == WITHIN or description.told("end2end") is True
    shape = description.told("kpt_shape")
    found.model = SimpleNamespace(names=description.names, end2end=ends, kpt_shape=shape, format="onnx", fp16=False)
    found.model.device, found.imgsz, found.batch = "cpu", case.size[::-1], [["bus.jpg"]]
    return found


def pixels(case: Case, picture: np.ndarray) -> np.ndarray:
    """The network's input, as Ultralytics makes it."""
    import cv2
    from PIL import Image
    from ultralytics.data.augment import LetterBox, classify_transforms

    if case.name.endswith("-cls"):
        return np.asarray(classify_transforms(case.size[0])(Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))))[None]
    placed = LetterBox(case.size[::-1], auto=False, scale_fill="rtdetr" in case.name)(image=picture)
    return np.ascontiguousarray(placed[None, ..., ::-1].transpose(0, 3, 1, 2), np.float32) / 255


def threshold_for(description: ModelDescription, outputs: Sequence[np.ndarray]) -> float:
    """Where about `WANTED` scores lie above."""
    rows = next(each for each in outputs if each.ndim == 3)[0]
    classes = len(description.names or ())
    centred = 4 + classes <= rows.shape[0] < rows.shape[1]
    scores = rows[4 : 4 + classes].max(axis=0) if centred else rows[:, 4]
    ordered = np.sort(scores)[::-1][: 2 * WANTED]
    gaps = ordered[WANTED // 2 : -1] - ordered[WANTED // 2 + 1 :]
    place = WANTED // 2 + int(gaps.argmax())
    return float(ordered[place] + ordered[place + 1]) / 2


# ---- comparison ----------------------------------------------------------------------------------


@dataclass
class Row:
    """What came of one network. Differences are in pixels of the picture."""

    title: str
    head: str = ""
    theirs: int = 0
    ours: int = 0
    matched: int = 0
    scores: str = ""
    input: float = 0  # largest difference of the inputs, 0 to 255
    box: float = 0
    corner: float | None = None
    keypoint: float | None = None
    mask: float | None = None  # least intersection over union
    problem: str = ""


def compare(case: Case, picture: np.ndarray) -> Row:
    import onnxruntime
    import torch

    row = Row(case.title)
    with contextlib.redirect_stdout(sys.stderr):
        file = made(case, picture)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    image = pixels(case, picture)
    outputs = session.run(None, {session.get_inputs()[0].name: image})
    described = ModelDescription.of_session(session, file).with_outputs(outputs)
    threshold = 0.0 if described.task == "classify" else threshold_for(described, outputs)
    head: Any = head_for(described, threshold=threshold, overlap=OVERLAP)
    row.head = f"{type(head).__name__} {getattr(head, 'form', '')}"
    if described.task == "classify":
        head.top = 5
    box = Letterbox(head.preprocessing, case.size)
    blob, (placement,) = box.blob([picture], ["bgr"])
    row.input = float(np.abs(blob - image).max() * 255)
    (found,) = head(outputs, case.size)
    ours = placement.restored(found)
    told = predictor(case, described, picture)
    told.args.conf = threshold
    given = [torch.from_numpy(each.copy()) for each in outputs]
    (theirs,) = told.postprocess(given if len(given) > 1 else given[0], torch.from_numpy(image), [picture])
    if described.task == "classify":
        return of_classes(row, ours, theirs)
    return of_objects(row, ours, theirs, found)


def of_classes(row: Row, ours: Detections, theirs: Any) -> Row:
    row.theirs, row.ours = len(theirs.probs.top5), len(ours)
    assert ours.class_ids is not None
    assert ours.scores is not None
    row.matched = sum(one == other for one, other in zip(ours.class_ids.tolist(), theirs.probs.top5, strict=True))
    row.scores = spread(ours.scores)
    assert np.allclose(ours.scores, theirs.probs.top5conf.numpy(), atol=1e-6)
    return row


def of_objects(row: Row, ours: Detections, theirs: Any, found: Detections) -> Row:
    """:param found: ours in pixels of the network's input, where their masks are."""
    told = theirs.boxes if theirs.obb is None else theirs.obb
    scores, classes, boxes = told.conf.numpy(), told.cls.numpy(), told.xyxy.numpy()
    row.theirs, row.ours = len(scores), len(ours)
    assert ours.scores is not None
    assert ours.class_ids is not None
    row.scores = spread(scores)
    height, width = theirs.orig_shape
    pairs = []
    for number, (score, kind) in enumerate(zip(scores, classes, strict=True)):
        same = np.flatnonzero((np.abs(ours.scores - score) < 1e-7) & (ours.class_ids == kind))
        if len(same) == 1:
            pairs.append((int(same[0]), number))
    row.matched = len(pairs)
    if not pairs:
        return row
    mine, other = (np.array(each) for each in zip(*pairs, strict=True))
    row.box = float(np.abs(ours.boxes[mine] - np.clip(boxes[other], 0, [width, height] * 2)).max())  # some of theirs reach out
    if theirs.obb is not None:
        assert ours.corners is not None
        row.corner = apart(ours.corners[mine], theirs.obb.xyxyxyxy.numpy()[other])
    if theirs.keypoints is not None:
        assert ours.keypoints is not None
        points = ours.keypoints[mine].copy()
        points[..., :2] = np.clip(points[..., :2], 0, [width, height])  # theirs are cut off
        row.keypoint = float(np.abs(points - theirs.keypoints.data.numpy()[other]).max())
    if theirs.masks is not None:
        agreed = [alike(found, one, theirs.masks.data[two].numpy() > 0) for one, two in pairs]
        row.mask = min(agreed)
    return row


def alike(found: Detections, one: int, theirs: np.ndarray) -> float:
    """Intersection over union of two masks, but for the pixels at the rim of the box: which of these belong to it, the two say
    differently (half a pixel).
    """
    left, top, right, bottom = found.boxes[one]
    down, across = np.mgrid[: theirs.shape[0], : theirs.shape[1]] + 0.5
    within = (across > left + 1) & (across < right - 1) & (down > top + 1) & (down < bottom - 1)
    mine = found.mask(one, theirs.shape) & within
    union = (mine | (theirs & within)).sum()
    return float((mine & theirs).sum() / union) if union else 1.0


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest distance of corners, (n, 4, 2), whichever corner comes first and whichever way round they go."""
    ways = [np.roll(theirs[:, ::way], turn, axis=1) for way in (1, -1) for turn in range(4)]
    return float(np.min([np.abs(ours - each).max(axis=(1, 2)) for each in ways], axis=0).max())


def spread(scores: np.ndarray) -> str:
    ties = len(scores) - len(np.unique(scores))
    return f"{scores.min():.3g}-{scores.max():.3g}" + (f" {ties} ties" if ties else "") if len(scores) else "none"


def shown(row: Row) -> str:
    numbers = [row.box, row.corner, row.keypoint, row.mask]
    told = ["" if each is None else f"{each:.4f}" for each in numbers]
    cells = [row.title, row.head, row.theirs, row.ours, row.matched, row.scores, f"{row.input:.1f}", *told, row.problem]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(wanted: Sequence[str]) -> None:
    import cv2
    from ultralytics.utils import ASSETS

    picture = cv2.imread(str(ASSETS / "bus.jpg"))
    assert picture is not None
    print("| network | head | theirs | ours | matched | scores | input | box | corner | keypoint | mask | problem |")
    print("|" + " --- |" * 12)
    for case in CASES:
        if wanted and case.title not in wanted and case.name not in wanted:
            continue
        try:
            row = compare(case, picture)
        except Exception as error:  # the next network is compared all the same
            if os.environ.get("RAISE"):
                raise
            row = Row(case.title, problem=f"{type(error).__name__}: {error}"[:300])
        print(shown(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
