"""Records what Ultralytics makes of outputs of YOLO networks, and where it puts frames, for test_heads.py: heads_expected.json.

The outputs are made of random numbers, so that the file has the results only. Run it where Ultralytics is installed:

    python tests/record_heads.py > tests/heads_expected.json
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np

SIDE, CLASSES, THRESHOLD, OVERLAP = 64, 3, 0.3, 0.45
MORE = {"detect": 0, "segment": 8, "pose": 15, "obb": 1}
FRAMES = [(1280, 720), (1920, 1080), (333, 500), (640, 640), (65, 1001), (3, 2)]
SIZES = [(640, 640), (320, 160), (416, 672)]


def output(task: str) -> np.ndarray:
    """(1, 4 + classes + more, 60): twenty objects, each seen three times."""
    random = np.random.default_rng(sorted(MORE).index(task))
    centres = np.repeat(random.uniform(8, 56, (20, 2)), 3, axis=0) + random.normal(0, 1, (60, 2))
    sizes = np.repeat(random.uniform(6, 30, (20, 2)), 3, axis=0) * random.uniform(0.9, 1.1, (60, 2))
    scores = random.uniform(0, 0.9, (60, CLASSES))
    more = random.normal(0, 1, (60, MORE[task]))
    if task == "pose":
        more = random.uniform(0, 60, (60, 15))
        more[:, 2::3] /= 60
    return np.hstack([centres, sizes, scores, more]).T[None].astype(np.float32)


def prototypes() -> np.ndarray:
    """(1, 8, 16, 16): waves, as smooth as a network's."""
    random = np.random.default_rng(9)
    down, right = np.mgrid[:16, :16]
    waves = [np.sin(a * down + b * right + c) for a, b, c in random.uniform(-0.5, 0.5, (8, 3))]
    return np.stack(waves)[None].astype(np.float32)


def found(task: str) -> dict[str, Any]:
    import torch
    from ultralytics.utils import ops
    from ultralytics.utils.nms import non_max_suppression

    (rows,) = non_max_suppression(
        torch.from_numpy(output(task)), THRESHOLD, OVERLAP, nc=CLASSES, rotated=task == "obb", max_det=300
    )
    told: dict[str, Any] = {"scores": rows[:, 4].tolist(), "classes": rows[:, 5].tolist()}
    if task == "obb":
        turned = torch.cat([rows[:, :4], rows[:, 6:]], dim=1)
        return told | {"corners": ops.xywhr2xyxyxyxy(turned).reshape(len(rows), 8).tolist()}
    told["boxes"] = rows[:, :4].tolist()
    if task == "pose":
        told["keypoints"] = rows[:, 6:].tolist()
    if task == "segment":
        boxes = ops.clip_boxes(rows[:, :4].clone(), (SIDE, SIDE))
        masks = ops.process_mask(torch.from_numpy(prototypes())[0], rows[:, 6:], boxes, (SIDE, SIDE), upsample=True)
        told["masks"] = base64.b64encode(np.packbits(masks[:8].numpy().astype(bool)).tobytes()).decode()  # of the best eight
    return told


def places() -> list[list[int]]:
    """Left, top, right and bottom of each of FRAMES in each of SIZES."""
    from ultralytics.data.augment import LetterBox

    told = []
    for frame in FRAMES:
        for size in SIZES:
            white = np.full((frame[1], frame[0], 3), 255, np.uint8)
            rows, columns = np.nonzero(LetterBox(size[::-1], auto=False)(image=white).min(axis=2) == 255)
            told.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    return told


if __name__ == "__main__":
    everything: dict[str, Any] = {task: found(task) for task in MORE}
    text = json.dumps(everything | {"places": places()}, indent=None, separators=(",", ":"))
    sys.stdout.write(json.dumps(json.loads(text, parse_float=lambda number: round(float(number), 4))) + "\n")
