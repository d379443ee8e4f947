"""Which head reads a network: told by its outputs and its metadata, refused where these don't say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipert_shm.errors import PipertError
from pipert_shm.video.models import centerface
from pipert_shm.video.models.centerface import CenterFaceHead
from pipert_shm.video.models.classification import ClassificationHead
from pipert_shm.video.models.description import ModelDescription
from pipert_shm.video.models.detr import NORMALISED, SIZES, DetrHead, RtDetrHead
from pipert_shm.video.models.head import Head
from pipert_shm.video.models.preprocessing import Preprocessing
from pipert_shm.video.models.yolo import Form, YoloHead
from pipert_shm.video.models.yolo_tasks import YoloObbHead, YoloPoseHead, YoloSegmentHead
from pipert_shm.video.names import Names, checked_names

PIXEL_MASK = "pixel_mask"
"""An input of DETR by `transformers`: which pixels of the input are picture, and not padding. All of them are."""

_ANTIALIASED = Preprocessing(fit="stretch", antialias=True)
_YOLO_TASKS = ("detect", "segment", "pose", "obb", "classify")


class UnknownModel(PipertError, ValueError):
    """The network does not say which head reads it. The text says what may be, and how to say it.

    Attributes:
        file: of the network.
        why: it is not told.
    """

    def __init__(self, file: str, outputs: str, why: str) -> None:
        super().__init__(
            f"the model {file!r} (outputs {outputs}) does not say which head reads it: {why}. `pipert-shm model {file}` shows "
            "what is known of it"
        )
        self.file = file
        self.why = why


@dataclass(frozen=True, slots=True)
class Choice:
    """The head for a network, and why it is this one.

    Attributes:
        head: that reads it.
        why: what told so.
        arguments: with which the head was made, without its names.
        named: whether it was made with names.
    """

    head: Head
    why: str
    arguments: Mapping[str, Any]
    named: bool = True


def head_for(
    description: ModelDescription, names: Names | None = None, *, threshold: float | None = None, overlap: float | None = None
) -> Head:
    """Returns the head that reads a network.

    :param description: with the shapes of a trial run, where the file leaves them open: see `ModelDescription.with_outputs`.
    :param names: class names, for a network whose file does not tell them; they go before those of the file.
    :param threshold, overlap: of the head; None for its own defaults.
    :raises UnknownModel: when the network does not say which head reads it.
    :raises TypeError, ValueError: when the names, or a number, can't be meant.
    """
    return choose(description, names, threshold=threshold, overlap=overlap).head


def choose(
    description: ModelDescription, names: Names | None = None, *, threshold: float | None = None, overlap: float | None = None
) -> Choice:
    """Returns the head that reads a network, and why: see `head_for`."""
    network = _Network(description, names, {"threshold": threshold, "overlap": overlap})
    found = network.by_outputs() or network.by_task() or network.by_shape()
    if found is None:
        raise network.unknown("its outputs are of no network that is known")
    return found


def extra_inputs(description: ModelDescription, count: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns what a network takes besides the pictures, by the names of its inputs.

    :param count: how many pictures there are.
    :param size: width and height of the network's input.
    :raises ValueError: when it takes something that is not known.
    """
    made: dict[str, np.ndarray] = {}
    for tensor in description.more_inputs:
        if tensor.name == SIZES:
            made[tensor.name] = np.array([size] * count, np.int64).reshape(count, 2).astype(tensor.dtype)
        elif tensor.name == PIXEL_MASK:
            made[tensor.name] = np.ones((count, size[1], size[0]), tensor.dtype)
        else:
            raise ValueError(
                f"the model {description.file!r} takes {'; '.join(map(str, description.inputs))}: besides the pictures it may "
                f"take {SIZES} (RT-DETR) or {PIXEL_MASK} (DETR) only, and no {tensor.name}"
            )
    return made


class _Network:
    """A network whose head is looked for."""

    def __init__(self, description: ModelDescription, names: Names | None, numbers: Mapping[str, float | None]) -> None:
        self._description = description
        self._given = names is not None
        self._names: Names | None = description.names if names is None else checked_names(names)
        self._numbers = {name: value for name, value in numbers.items() if value is not None}
        self._shapes = [each.shape for each in description.outputs]
        self._by_name = {each.name: each for each in description.outputs}

    # ---- what tells it ---------------------------------------------------------------------------

    def by_outputs(self) -> Choice | None:
        """By the names and shapes of outputs that no other family has."""
        if [shape[1] if len(shape) == 4 else 0 for shape in self._shapes] == centerface.CHANNELS:
            return self._chosen(CenterFaceHead, "four outputs of 1, 2, 2 and 10 channels are CenterFace's", named=False)
        named = set(self._by_name)
        if {"dets", "labels"} <= named <= {"dets", "labels", "masks"}:
            order = [{"dets": "boxes", "labels": "logits", "masks": "masks"}[each] for each in self._by_name]
            return self._chosen(DetrHead, f"outputs {_listed(self._by_name)} are RF-DETR's", order=order)
        if named == {"labels", "boxes", "scores"} and any(each.name == SIZES for each in self._description.inputs):
            why = f"outputs {_listed(self._by_name)} and an input {SIZES} are RT-DETR's by its authors, or D-FINE's"
            return self._chosen(RtDetrHead, why, preprocessing=_ANTIALIASED)
        if named == {"logits", "pred_boxes"}:
            return self._of_transformers()
        return None

    def _of_transformers(self) -> Choice:
        names, columns = self._needed_names(), self._by_name["logits"].shape[-1]
        order = ["logits" if each == "logits" else "boxes" for each in self._by_name]
        if isinstance(columns, int) and len(names) == columns - 1 and list(_ids(names)) == list(range(columns - 1)):
            why = "outputs logits and pred_boxes are those of transformers; one logit more than names stands for no object"
            return self._chosen(DetrHead, why, scores="softmax", order=order, preprocessing=NORMALISED)
        raise self.unknown(
            "outputs logits and pred_boxes are those of several networks of transformers, which want pictures and tell scores "
            f"in different ways. RT-DETR: DetrHead(names, order={order}, preprocessing=Preprocessing(fit='stretch')); "
            f"Deformable and Conditional DETR: DetrHead(names, order={order}); the first DETR, whose last logit stands for no "
            f"object: DetrHead(names, scores='softmax', order={order})"
        )

    def by_task(self) -> Choice | None:
        """By the task that Ultralytics writes into the metadata."""
        task = self._description.task
        if task is None or not self._is_ultralytics():
            return None
        if task not in _YOLO_TASKS:
            raise self.unknown(f"its metadata tell of the task {task!r}, for which there is no head: {_listed(_YOLO_TASKS)}")
        why = f"the metadata of Ultralytics tell of the task {task!r}"
        names = self._needed_names()
        if task == "classify":
            return self._chosen(ClassificationHead, why)
        if task == "detect" and self._is_rtdetr():
            return self._chosen(RtDetrHead, f"{why} and of RT-DETR")
        if task == "pose":
            points = self._description.told("kpt_shape")
            if not isinstance(points, list | tuple) or len(points) != 2:
                raise self.unknown(
                    "its metadata do not tell how many keypoints there are (kpt_shape): YoloPoseHead(names, keypoints=(17, 3))"
                )
            form = self._form(len(names), points[0] * points[1], newer=True)
            return self._chosen(YoloPoseHead, f"{why}{_of(form)}", keypoints=tuple(points), form=form)
        kind, more = {"detect": (YoloHead, 0), "obb": (YoloObbHead, 1), "segment": (YoloSegmentHead, self._prototypes())}[task]
        form = self._form(len(names), more, newer=True)
        return self._chosen(kind, f"{why}{_of(form)}", form=form)

    def by_shape(self) -> Choice | None:
        """By the names' number, and the shapes that belong to it."""
        if [len(shape) for shape in self._shapes] == [2, 3, 2, 2]:
            return self._chosen(YoloHead, "four outputs are those of TensorRT's operator for suppression")
        if len(self._shapes) == 1 and len(self._shapes[0]) in (2, 4):
            raise self._unknown_classifier()
        if [len(shape) for shape in self._shapes] not in ([3], [3, 4]):
            return None
        classes = len(self._needed_names())
        kind = YoloHead if len(self._shapes) == 1 else YoloSegmentHead
        form = self._form(classes, self._prototypes())
        told = "names that are given" if self._given else "names in its metadata"
        return self._chosen(kind, f"{classes} {told} go with its output {self._shapes[0]}{_of(form)}", form=form)

    # ---- details ---------------------------------------------------------------------------------

    def _is_ultralytics(self) -> bool:
        told = self._description.metadata
        return "ultralytics" in (told.get("author", "") + told.get("description", "")).lower()

    def _is_rtdetr(self) -> bool:
        told = self._description.metadata
        return told.get("head", "") == "RTDETRDecoder" or "rtdetr" in told.get("description", "").lower().replace("-", "")

    def _prototypes(self) -> int:
        """How many prototypes of masks there are."""
        found = [shape[1] for shape in self._shapes if len(shape) == 4]
        return found[0] if len(found) == 1 and isinstance(found[0], int) else 0

    def _form(self, classes: int, more: int, *, newer: bool = False) -> Form:
        """The form that the shape of the boxes' output has.

        :param newer: whether it is not of version 5, whose exports tell no task.
        :raises UnknownModel: when it has none, or may have two.
        """
        rows = next((shape for shape in self._shapes if len(shape) == 3), ())
        if len(rows) != 3:
            raise self.unknown("it has no output (batch, rows, columns)")
        forms: dict[Form, bool] = {
            "v8": rows[1] == 4 + classes + more,
            "v5": rows[2] == 5 + classes + more and not newer,
            "end-to-end": rows[2] == 6 + more,
        }
        fitting = [form for form, fits in forms.items() if fits]
        ends = self._description.told("end2end") is True or "'nms': True" in self._description.metadata.get("args", "")
        if "end-to-end" in fitting and ends:
            return "end-to-end"
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise self.unknown(
                f"its output {_sides(rows)} does not go with {classes} names: (batch, {4 + classes + more}, n), "
                f"(batch, n, {5 + classes + more}) or (batch, n, {6 + more}) would"
            )
        choices = " or ".join(f"form={form!r}" for form in fitting)
        raise self.unknown(f"with {classes} names its output {_sides(rows)} may be of two forms: give the head {choices}")

    def _unknown_classifier(self) -> UnknownModel:
        (output,) = self._description.outputs
        adds_up = self._description.sums.get(output.name)
        scores = "" if adds_up is None else ", scores='probabilities'" if adds_up else ", scores='logits'"
        return self.unknown(
            f"it may tell of what kind a picture is, but not which picture it wants. As torchvision's: ClassificationHead(names"
            f"{scores}, preprocessing=Preprocessing(fit='crop', antialias=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, "
            f"0.225), margin=0.875)); as Ultralytics': ClassificationHead(names{scores})"
        )

    def _needed_names(self) -> tuple[str, ...] | dict[int, str]:
        if self._names is None:
            raise self.unknown(
                "its file tells no class names, whose number says how to read its outputs: give names, such as "
                "names=['person'], or on the command line, --names person"
            )
        return checked_names(self._names)

    def _chosen(self, kind: Callable[..., Head], why: str, *, named: bool = True, **arguments: Any) -> Choice:
        arguments = {name: value for name, value in arguments.items() if value is not None}
        takes = kind.__init__.__kwdefaults__ or {}
        numbers = {name: value for name, value in self._numbers.items() if name in takes}
        given = (self._needed_names(),) if named else ()
        return Choice(kind(*given, **arguments, **numbers), why, arguments | numbers, named)

    def unknown(self, why: str) -> UnknownModel:
        """An error that tells which network it is about."""
        return UnknownModel(self._description.file, "; ".join(map(str, self._description.outputs)), why)


def _ids(names: Names) -> list[int]:
    by_id = checked_names(names)
    return sorted(by_id) if isinstance(by_id, dict) else list(range(len(by_id)))


def _of(form: Form) -> str:
    return f", and its output is of the form {form!r}"


def _listed(names: Any) -> str:
    return ", ".join(names)


def _sides(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
