"""The command that tells how a network is read: `pipert-shm model`. What it needs is imported when it is called."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipert_shm.cli.remote import examples, print_json

if TYPE_CHECKING:
    import numpy as np

    from pipert_shm.video import Detections, ModelDescription
    from pipert_shm.video.models.choosing import Choice

EXAMPLES = examples(
    "pipert-shm model yolo11n.onnx                           what it takes and gives, and which head reads it",
    "pipert-shm model yolo11n.onnx --picture street.jpg      what it finds there",
    "pipert-shm model faces.onnx --names face                class names that the file does not tell",
)
SIDE = 640  # pixels of an input that may have any size
_MOST_NAMES = 5  # that are shown
_MOST_TEXT = 100  # characters of a value of the metadata
_MOST_FOUND = 50  # detections that are listed


def model(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.onnx")],
    picture: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, metavar="FILE", help="A picture to run the network on, once."),
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="NAME,NAME…", help="The class names, where the file does not tell them.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the network's input, where the file leaves it open.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> int:
    """Show what a network takes and gives, which head reads it and why, and the lines that use it.

    The network is run once, on a grey picture or on yours. Where it does not say which head reads it, this says what is
    possible, and ends with 1. Needs the extra `onnx`.
    """
    from pipert_shm.video.models.choosing import UnknownModel, choose

    description = _tried(file, _size(size))
    try:
        choice = choose(description, None if names is None else [name.strip() for name in names.split(",")])
    except UnknownModel as error:
        report = _facts(description) | {"head": None, "why": error.why}
        _show(report, description, None, None, as_json=as_json)
        return 1
    found = None if picture is None else _found(file, choice, description, picture)
    _show(_facts(description) | _of_head(description, choice), description, choice, found, as_json=as_json)
    return 0


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, such as 640x640")
    return int(width), int(height)


def _tried(file: Path, size: tuple[int, int] | None) -> ModelDescription:
    """The description, with the shapes of a run.

    :raises OSError: when the network can't be read or run, as the command line shows it.
    """
    import numpy as np

    from pipert_shm.video.models.choosing import extra_inputs
    from pipert_shm.video.models.description import ModelDescription, check_file, open_session
    from pipert_shm.video.models.runtime import check_input

    try:
        check_file(file)
        session = open_session(file)
        description = ModelDescription.of_session(session, file)
        if description.picture is None:
            check_input(description, file, {each.name: np.empty(0) for each in description.inputs[1:]})
            return description
        fixed = description.picture.shape[:1:-1]
        if size is not None and all(isinstance(side, int) for side in fixed) and size != fixed:
            raise ValueError(f"{str(file)!r} takes pictures of {fixed[0]}x{fixed[1]} only: leave --size away")
        description = description.with_size(size or description.size or (SIDE, SIDE))
        assert description.picture is not None, "as before"
        width, height = description.size or (SIDE, SIDE)
        grey = np.full((_batch(description) or 1, 3, height, width), 0.5, description.picture.dtype)
        inputs = {description.picture.name: grey} | extra_inputs(description, len(grey), (width, height))
        outputs = _run(session, inputs, f"{str(file)!r} can't be run on pictures of {width}x{height}", size)
        return description.with_outputs(outputs)
    except ImportError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        raise OSError(str(error)) from error


def _run(session: Any, inputs: dict[str, np.ndarray], failure: str, size: tuple[int, int] | None) -> Any:
    try:
        return session.run(None, inputs)
    except Exception as error:  # as above
        advice = ": give another --size; many networks take multiples of 32 only" if size is not None else ""
        raise OSError(f"{failure}{advice} ({error})") from error


def _batch(description: ModelDescription) -> int | None:
    """How many pictures the network takes at once, if the file says that."""
    sides = () if description.picture is None else description.picture.shape
    return sides[0] if sides and isinstance(sides[0], int) else None


def _found(file: Path, choice: Choice, description: ModelDescription, picture: Path) -> Detections:
    import cv2

    from pipert_shm.video import DnnDetector

    frame = cv2.imread(str(picture))
    if frame is None:
        raise OSError(f"{str(picture)!r} is no picture that OpenCV reads")
    detector = DnnDetector(file, choice.head, size=description.size or (SIDE, SIDE), backend="onnxruntime")
    detector.setup()
    (found,) = detector.detect([frame])
    return found


# ---- what is shown -------------------------------------------------------------------------------


def _facts(description: ModelDescription) -> dict[str, Any]:
    names = description.names
    return {
        "file": description.file,
        "inputs": [str(each) for each in description.inputs],
        "outputs": [str(each) for each in description.outputs],
        "size": description.size,
        "batch": _batch(description),
        "names": None if names is None else {str(number): name for number, name in names.items()},
        "metadata": dict(description.metadata),
    }


def _of_head(description: ModelDescription, choice: Choice) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "head": type(choice.head).__name__,
        "why": choice.why,
        "preprocessing": asdict(choice.head.preprocessing),
        "python": _python(description, choice),
        "yaml": _yaml(description, choice),
    }


def _python(description: ModelDescription, choice: Choice) -> str:
    head = f", {type(choice.head).__name__}({_arguments(choice)})" if _is_needed(description, choice) else ""
    return f"DnnDetector({description.file!r}{head}, size={description.size})"


def _arguments(choice: Choice) -> str:
    return ", ".join([repr(list(choice.head.names)), *(f"{name}={value!r}" for name, value in choice.arguments.items())])


def _is_needed(description: ModelDescription, choice: Choice) -> bool:
    """Whether the detector has to be told the head, since the file alone does not say it."""
    return choice.named and description.names is None


def _yaml(description: ModelDescription, choice: Choice) -> str:
    parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in choice.arguments.items()}
    head = {"class": f"pipert_shm.{type(choice.head).__name__}", "parameters": {"names": list(choice.head.names), **parameters}}
    told = f"head: {json.dumps(head)}, " if _is_needed(description, choice) else ""
    size = list(description.size or (SIDE, SIDE))
    return f"detector: {{class: pipert_shm.DnnDetector, parameters: {{model: {description.file}, {told}size: {size}}}}}"


def _show(
    report: dict[str, Any], description: ModelDescription, choice: Choice | None, found: Detections | None, *, as_json: bool
) -> None:
    if as_json:
        print_json(report if found is None else report | {"found": list(_rows(found))})
        return
    for line in _lines(report, choice):
        print(line)
    if found is not None:
        print(f"found    {len(found)} with scores above {getattr(choice and choice.head, 'threshold', 0)}")
        for row in list(_rows(found))[:_MOST_FOUND]:
            print(f"         {row['label']} {row['score']:.2f}  {row['box']}")


def _lines(report: dict[str, Any], choice: Choice | None) -> Iterator[str]:
    """What is known, line by line."""
    for what in ("inputs", "outputs"):
        for number, text in enumerate(report[what]):
            yield f"{what if not number else '':8} {text}"
    if report["size"] is not None:
        yield f"size     {report['size'][0]}x{report['size'][1]}"
    if (report["batch"] or 1) > 1:
        yield f"         the file fixes a batch of {report['batch']} of this size: only OpenCV (backend='opencv') takes another"
    if report["names"] is not None:
        names = list(report["names"].values())
        more = f" … ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
        yield f"names    {', '.join(names[:_MOST_NAMES])}{more}"
    for key, text in report["metadata"].items():
        if key != "names":
            shown = " ".join(text.split())
            yield f"metadata {key}: {shown if len(shown) <= _MOST_TEXT else shown[:_MOST_TEXT] + '…'}"
    if choice is None:
        yield f"head     not told: {report['why']}"
        return
    yield f"head     {report['head']}: {report['why']}"
    told = ", ".join(f"{name}={value!r}" for name, value in report["preprocessing"].items())
    yield f"pictures {told}"
    yield f"Python   {report['python']}"
    yield f"YAML     {report['yaml']}"


def _rows(found: Detections) -> Iterator[dict[str, Any]]:
    scores: np.ndarray | None = found.scores
    for number, (label, box) in enumerate(zip(found.labels, found.boxes.round(1).tolist(), strict=True)):
        score = math.nan if scores is None else round(float(scores[number]), 4)
        yield {"label": label, "score": score, "box": box}
