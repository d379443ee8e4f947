"""PyTorch modules as detectors. PyTorch is 700 MB, so that CI does without it: these tests run where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm.video import TorchDetector, YoloHead
from test_dnn import BLUE, FINDS, LEFT, RED, RIGHT

NAMES = ["red", "blue"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "model is a file, a module, or a function that makes one: 'package.module:function', not 3"),
        (("yolo.pt2", YoloHead(NAMES), "name"), ValueError, "threads must be a whole number from 1 to 1024, not 0"),
    ],
)
def test_arguments_that_can_not_be_meant(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TorchDetector(*arguments, threads=0)


def test_without_pytorch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"PyTorch is not installed .*: pip install torch"):
        TorchDetector("yolo.pt2", YoloHead(NAMES)).setup()


def finder() -> Any:
    """A module that finds the boxes of `FINDS`, as far as the image has that colour."""
    torch = pytest.importorskip("torch")

    class Finder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.nn.Parameter(torch.from_numpy(FINDS))

        def forward(self, images: Any) -> Any:
            shares = images.mean((2, 3))[:, [0, 2]].float()
            scores = torch.cat([shares, torch.zeros_like(shares)], 1)
            rows = self.rows.float().expand(images.shape[0], -1, -1)  # len() would fix the batch at export
            return torch.cat([rows[..., :4], scores[..., None], rows[..., 5:]], 2)

    return Finder()


def found(detector: TorchDetector) -> list[list[list[float]]]:
    detector.setup()
    return [each.boxes.tolist() for each in detector.detect([RED, BLUE, RED])]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("given", ["module", "function", "path"])
def test_a_module_is_run_wherever_it_comes_from(given: str, half: bool) -> None:
    model = {"module": finder(), "function": finder, "path": "test_torch_detector:finder"}[given]
    detector = TorchDetector(model, YoloHead(["red", "blue", "green"]), size=(64, 64), device="cpu", half=half, threads=1)
    assert found(detector) == [[LEFT], [RIGHT], [LEFT]]
    assert {name for name, value in detector.counters.items() if value} == {"torch", "cpu"}


@pytest.mark.parametrize("batch", [1, 3])
def test_an_archive_of_torch_export_is_run(tmp_path: Path, batch: int) -> None:
    torch = pytest.importorskip("torch")
    free = ({0: torch.export.Dim("batch", min=1, max=8)},) if batch > 1 else None
    program = torch.export.export(finder(), (torch.zeros(batch, 3, 64, 64),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "finder.pt2")
    assert found(TorchDetector(tmp_path / "finder.pt2", YoloHead(["red", "blue", "green"]), device="cpu")) == [
        [LEFT],
        [RIGHT],
        [LEFT],
    ], "with the size of the network"
    with pytest.raises(ValueError, match=r"takes 64x64 pixels, not 32x32: give size=\(64, 64\)"):
        TorchDetector(tmp_path / "finder.pt2", YoloHead(["red", "blue", "green"]), size=(32, 32), device="cpu").setup()


def test_torchvisions_dicts_need_no_head() -> None:
    torch = pytest.importorskip("torch")
    inner = finder()

    class Dicts(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: Any) -> Any:
            rows = [image[image[:, 4] > 0] for image in inner(images)]
            return [{"boxes": each[:, :4], "scores": each[:, 4], "labels": each[:, 5].long() + 1} for each in rows]

    detector = TorchDetector(Dicts(), names={1: "red", 2: "blue"}, classes=["red"], size=(64, 64), device="cpu")
    assert found(detector) == [[LEFT], [], [LEFT]]


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("nothing_here:make", {}, "model 'nothing_here:make' is neither a file nor a function that can be imported"),
        ("test_torch_detector:FINDS", {}, "FINDS|returned|callable"),
        (finder, {"device": "cuda:9"}, "this PyTorch has no device 'cuda:9'"),
        (lambda: 3, {}, "returned 3; it must return a torch.nn.Module"),
    ],
)
def test_what_can_not_be_run_is_told_at_the_start(model: Any, settings: dict[str, Any], message: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises((ValueError, TypeError), match=message):
        TorchDetector(model, YoloHead(NAMES), **settings).setup()


def test_a_file_of_weights_is_no_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="a file of weights alone needs the function that makes the network"):
        TorchDetector(tmp_path / "weights.pt", YoloHead(NAMES)).setup()
    with pytest.raises(FileNotFoundError, match="there is no model"):
        TorchDetector(np.str_("nowhere.pt2"), YoloHead(NAMES)).setup()
