"""What a network's file tells of it: inputs, outputs, and what its maker wrote there."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipert_shm.extras import to_install

_TYPES = {"float": "float32", "double": "float64"}
_OF_PYTORCH = (".pt", ".pth", ".pt2")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or an output of a network.

    Attributes:
        name: in the network.
        dtype: as NumPy names it, such as `float32`.
        shape: its sides. One that may be of any length is a text: the name that the network gives to it, or `?`.

    >>> str(TensorInfo("images", "float32", ("batch", 3, 640, 640)))
    'images float32 (batch, 3, 640, 640)'
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known of a network without its weights.

    Attributes:
        file: its path.
        inputs, outputs: in its order.
        metadata: texts by their keys, as the file has them.
        sums: of each output with two axes after a trial run, whether each row is 0 to 1 and adds up to 1: then it has
            probabilities.
    """

    file: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    sums: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of_session(cls, session: Any, file: str | os.PathLike[str]) -> ModelDescription:
        """Makes it of a session of onnxruntime."""
        inputs, outputs = (tuple(map(_tensor, there)) for there in (session.get_inputs(), session.get_outputs()))
        return cls(os.fspath(file), inputs, outputs, dict(session.get_modelmeta().custom_metadata_map))

    def with_outputs(self, arrays: Sequence[np.ndarray]) -> ModelDescription:
        """Returns it with the shapes of a trial run, of one image, in place of sides that may be of any length.

        A first side stays as it is, since that is the batch.
        """
        outputs = tuple(
            replace(told, shape=(*told.shape[:1], *each.shape[1:]) if told.shape else each.shape, dtype=str(each.dtype))
            for told, each in zip(self.outputs, arrays, strict=True)
        )
        flat = {
            told.name: each.reshape(len(each), -1) for told, each in zip(outputs, arrays, strict=True) if each.ndim in (2, 4)
        }
        return replace(self, outputs=outputs, sums={name: _adds_up(each) for name, each in flat.items()})

    def with_size(self, size: tuple[int, int]) -> ModelDescription:
        """Returns it with a width and height of the pictures, where the file leaves these open."""
        there = self.picture
        if there is None:
            return self
        sides = (side if isinstance(side, int) else wanted for side, wanted in zip(there.shape[2:], size[::-1], strict=True))
        fixed = replace(there, shape=(*there.shape[:2], *sides))
        return replace(self, inputs=tuple(fixed if each is there else each for each in self.inputs))

    @property
    def picture(self) -> TensorInfo | None:
        """The input that takes pictures, (batch, 3, height, width); None if there is none, or more than one."""
        found = [
            each for each in self.inputs if len(each.shape) == 4 and (each.shape[1] == 3 or isinstance(each.shape[1], str))
        ]
        return found[0] if len(found) == 1 else None

    @property
    def more_inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs besides the pictures."""
        return tuple(each for each in self.inputs if each is not self.picture)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height that the input has, or that the metadata tell of; None if neither says it."""
        if self.picture is not None:
            height, width = self.picture.shape[2:]
            if isinstance(height, int) and isinstance(width, int):
                return width, height
        told = self.told("imgsz")
        if isinstance(told, int):
            return told, told
        if isinstance(told, list | tuple) and len(told) == 2 and all(isinstance(side, int) and side > 0 for side in told):
            return told[1], told[0]  # Ultralytics tells the height first
        return None

    def told(self, key: str) -> Any:
        """A value of the metadata, read as Python or JSON write it; the text, if it is neither; None if it is not there."""
        text = self.metadata.get(key)
        if text is None:
            return None
        for read in (ast.literal_eval, json.loads):
            try:
                return read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        return text

    @property
    def names(self) -> dict[int, str] | None:
        """The class names that the metadata tell of, by id; None if there are none that can be read."""
        told = self.told("names")
        if isinstance(told, list | tuple):
            told = dict(enumerate(told))
        if not isinstance(told, dict) or not told:
            return None
        try:
            by_id = {int(number): name for number, name in told.items()}
        except (TypeError, ValueError):
            return None
        return by_id if all(isinstance(name, str) for name in by_id.values()) and min(by_id) >= 0 else None

    @property
    def task(self) -> str | None:
        """What the network was trained for, as Ultralytics tells: detect, segment, pose, obb, classify …"""
        told = self.told("task")
        return told if isinstance(told, str) else None


def describe_model(path: str | os.PathLike[str]) -> ModelDescription:
    """Returns what an ONNX file tells of its network. It is not run.

    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when the file can't be read.
    :raises ImportError: when onnxruntime is not installed.
    """
    check_file(path)
    return ModelDescription.of_session(open_session(path), path)


def check_file(path: str | os.PathLike[str]) -> None:
    """Checks that there is such a file, and that its name is not that of PyTorch's files.

    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is a file of PyTorch's.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model {str(path)!r}; check the path")
    if Path(path).suffix in _OF_PYTORCH:
        raise ValueError(
            f"the model {str(path)!r} is a file of PyTorch's: export it to ONNX, such as by `yolo export "
            f"model={Path(path).name} format=onnx`, or use TorchDetector"
        )


def open_session(path: str | os.PathLike[str]) -> Any:
    """Opens an ONNX file by onnxruntime, on the CPU.

    :raises ValueError: when the file can't be read.
    :raises ImportError: when onnxruntime is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a database, and report to its maker
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(f"onnxruntime is not installed ({error}): {to_install('onnx')}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so they need not be printed
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class of their own
        raise ValueError(f"onnxruntime can't read the model {str(path)!r}: {error}") from error


def _tensor(told: Any) -> TensorInfo:
    kind = told.type.removeprefix("tensor(").removesuffix(")")
    return TensorInfo(told.name, _TYPES.get(kind, kind), tuple(side if side is not None else "?" for side in told.shape))


def _adds_up(rows: np.ndarray) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1, dtype=np.float64), 1, atol=0.01))
