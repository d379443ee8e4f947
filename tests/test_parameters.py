"""Parameters in a pipeline's file: checked against type hints, objects in them made, each fault with line and field."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import CenterFaceHead, ConfigError, PipelineFile, YoloHead

CLASSES = """
from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional, Protocol, Union

from pydantic import Field
from pipert_shm import SourceRoutine

if TYPE_CHECKING:
    from nowhere import Thing

class Speed(enum.Enum):
    SLOW = 1
    FAST = "quick"

class Shape(Protocol):
    sides: int

    def area(self) -> float: ...

class Square:
    sides = 4

    def __init__(self, side: float, filled: bool = False) -> None:
        self.side, self.filled = side, filled

    def area(self) -> float:
        return self.side**2

class Add:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, number: int) -> int:
        return number + self.by

@dataclass
class Zone:
    corners: list[tuple[int, int]]

def double(number):
    return 2 * number

class Keen(SourceRoutine):
    def __init__(
        self,
        name: str,
        *shapes: Shape,
        flag: bool = False,
        maybe: bool | None = None,
        whole: int = 0,
        positive: Annotated[int, Field(ge=1)] = 1,
        rate: Optional[float] = None,
        either: Union[int, str] = 0,
        one_or_more: int | list[int] = 0,
        kind: Literal["dry", "wet"] = "dry",
        speed: Speed = Speed.SLOW,
        path: Path = Path(),
        file: str | os.PathLike[str] = "",
        size: tuple[int, int] | None = None,
        lengths: tuple[float, ...] = (),
        words: Sequence[str] = (),
        things: Iterable[str] = (),
        by_word: Mapping[str, int] = {},
        shape: Shape | None = None,
        shapes_by_name: dict[str, list[Shape]] = {},
        zones: list[Zone] = [],
        function: Callable[[int], int] | None = None,
        cls: type[Zone] | None = None,
        classes: list[type[Zone]] = [],
        unknown: Thing | None = None,
    ) -> None:
        super().__init__(name)
        self.got = {**locals()}

    def main_logic(self): ...

class Heir(Keen):
    pass

class Passing(Keen):
    def __init__(self, name, **options):
        super().__init__(name, **options)

class Bare(SourceRoutine):
    def __init__(self, name, loop=False, number=1, other=None):
        super().__init__(name)
        self.got = {"loop": loop, "number": number, "other": other}

    def main_logic(self): ...

class Nameless(SourceRoutine):
    def __init__(self):
        super().__init__("x")
"""

FILE = """
routines:
  it:
    class: {module}.{cls}
    parameters:
      {parameters}
  sink: {{class: pipert_shm.JsonLinesWriter, parameters: {{path: lines}}}}
flows: {{f: {{routines: [it, sink], auto_wire: true}}}}
"""
LINE = 6  # of the first parameter

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"parameters_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CLASSES)
    return name


@pytest.fixture
def make(tmp_path: Path, module: str) -> Make:
    """Makes a routine with these parameters, a line each, and returns what its class got. M stands for the module."""

    def make(*parameters: str, cls: str = "Keen") -> dict[str, Any]:
        path = tmp_path / "pipeline.yaml"
        lines = "\n      ".join(parameters).replace("M.", f"{module}.")
        path.write_text(FILE.format(module=module, cls=cls, parameters=lines))
        got: dict[str, Any] = PipelineFile(path).make_pipe().flows["f"].routines["it"].got  # type: ignore[attr-defined]
        return got

    return make


def faults_of(make: Make, *parameters: str, cls: str = "Keen") -> list[tuple[int, str, str]]:
    """Line, counted from the first parameter's; field, within the parameters; and message."""
    with pytest.raises(ConfigError) as refused:
        make(*parameters, cls=cls)
    return [
        (fault.line - LINE, fault.field.removeprefix("routines.it.parameters."), fault.message)
        for fault in refused.value.faults
    ]


# ---- what fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("flag: true", True),
        ("maybe: null", None),
        ("whole: 0o17", 15),
        ("rate: 25", 25.0),
        ("either: '3'", "3"),
        ("either: 3", 3),
        ("one_or_more: [1, 2]", [1, 2]),
        ("kind: wet", "wet"),
        ("path: out/x", Path("out/x")),
        ("file: out/x", "out/x"),
        ("size: [320, 180]", (320, 180)),
        ("lengths: [1, 2.5]", (1.0, 2.5)),
        ("words: [a, no]", ["a", "no"]),
        ("things: [a, b]", ["a", "b"]),
        ("by_word: {class: 3}", {"class": 3}),
        ("unknown: 7", 7),
    ],
)
def test_a_value_comes_as_its_hint_says(make: Make, written: str, value: Any) -> None:
    got = make(written)[written.partition(":")[0]]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("written", ["FAST", "quick"])
def test_an_enum_is_written_by_name_or_by_value(make: Make, written: str) -> None:
    speed = make(f"speed: {written}")["speed"]
    assert isinstance(speed, Enum)
    assert speed.name == "FAST"


def test_objects_are_made_at_any_depth(make: Make) -> None:
    square = "{class: M.Square, parameters: {side: 2}}"
    got = make(
        f"shape: {square}",
        f"shapes_by_name: {{a: [{square}, {square}], b: []}}",
        "zones: [{class: M.Zone, parameters: {corners: [[1, 2], [3, 4]]}}]",
        f"shapes: [{square}]",
    )
    assert got["shape"].area() == 4.0
    assert [shape.side for shape in got["shapes_by_name"]["a"]] == [2.0, 2.0]
    assert got["shapes_by_name"]["b"] == []
    assert got["zones"][0].corners == [(1, 2), (3, 4)]
    assert [shape.side for shape in got["shapes"]] == [2.0], "as *shapes"


def test_a_function_or_a_class_is_written_by_its_path_or_made(make: Make, module: str) -> None:
    assert make("function: M.double")["function"](4) == 8
    assert make("function: {class: M.Add, parameters: {by: 3}}")["function"](4) == 7
    maker = make("function: {class: M.Square, parameters: {side: 3}}")["function"]
    assert isinstance(maker, functools.partial)
    assert maker().side == 3.0
    assert maker() is not maker(), "each call makes one"
    assert make("cls: M.Zone")["cls"] is sys.modules[module].Zone


def test_without_hints_only_names_are_checked(make: Make) -> None:
    got = make("number: '7'", "other: {class: M.Square, parameters: {side: 1}}", cls="Bare")
    assert (got["number"], got["other"].side) == ("7", 1.0)
    ((_, field, message),) = faults_of(make, "numbr: 7", cls="Bare")
    assert field == "numbr"
    assert message.endswith("takes no 'numbr'; it takes: loop, number, other; did you mean 'number'?")


def test_the_detector_of_this_package_gets_its_head(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    text = """
routines:
  camera: {class: pipert_shm.VideoSource, parameters: {source: walk.mp4, size: [320, 180]}}
  yolo:
    class: pipert_shm.DnnDetector
    parameters: {model: a.onnx, head: {class: pipert_shm.YoloHead, parameters: {names: [a, b]}}}
  face: {class: pipert_shm.DnnDetector, parameters: {model: a.onnx, head: {class: pipert_shm.CenterFaceHead}, size: [64, 64]}}
flows: {f: {routines: [camera, yolo, face], auto_wire: true}}
"""
    path.write_text(text)
    _, yolo, face = PipelineFile(path).make_pipe().flows["f"].routines.values()
    assert isinstance(yolo._head, YoloHead)  # type: ignore[attr-defined]
    assert yolo._head.names == ("a", "b")  # type: ignore[attr-defined]
    assert isinstance(face._head, CenterFaceHead)  # type: ignore[attr-defined]


# ---- what does not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "field", "message"),
    [
        (
            "flag: no",
            "flag",
            "Input should be a valid boolean, not 'no': in YAML 1.2 only true and false are booleans; write false",
        ),
        ("flag: On", "flag", "not 'On': in YAML 1.2 only true and false are booleans; write true"),
        ("flag: 1", "flag", "Input should be a valid boolean, not 1"),
        ("maybe: off", "maybe", "write false"),
        ("whole: '10'", "whole", "Input should be a valid integer, not '10'"),
        ("whole: true", "whole", "Input should be a valid integer, not True"),
        ("whole: 1.5", "whole", "Input should be a valid integer, not 1.5"),
        ("positive: 0", "positive", "Input should be greater than or equal to 1, not 0"),
        ("rate: '10'", "rate", "Input should be a valid number, not '10'"),
        ("either: [1]", "either", "Input should be a valid integer or a valid string"),
        ("one_or_more: [1, x]", "one_or_more[1]", "Input should be a valid integer, not 'x'"),
        ("kind: damp", "kind", "Input should be 'dry' or 'wet', not 'damp'"),
        ("speed: FASTER", "speed", "Input should be 1 or 'quick', not 'FASTER'"),
        ("path: 3", "path", "not a valid path"),
        ("size: [320]", "size", "item 1 is missing"),
        ("size: [320, '180']", "size[1]", "Input should be a valid integer, not '180'"),
        ("size: 320x180", "size", "Input should be a valid tuple, not '320x180'"),
        ("words: names.txt", "words", "Input should be a list, such as [names.txt], not 'names.txt'"),
        ("by_word: {1: 2}", "by_word[1]", "as a key: Input should be a valid string, not 1"),
        ("by_word: {a: b}", "by_word.a", "Input should be a valid integer, not 'b'"),
        ("shape: {class: builtins.dict}", "shape", "Input should be a Shape, but its type, dict, has no area, sides"),
        ("shape: square", "shape", "Input should be a Shape, but its type, str, has no area, sides, not 'square'"),
        ("shape: {class: M.Sqare}", "shape.class", "has no attribute 'Sqare'; did you mean 'Square'?"),
        ("shape: {class: M.__name__}", "shape.class", "M.__name__ is not a class"),
        ("shape: {class: 3}", "shape.class", "Input should be a valid string, not 3"),
        ("shape: {class: M.Square, params: {}}", "shape.params", "there are: class, parameters; did you mean 'parameters'?"),
        ("shape: {class: M.Square}", "shape.parameters.side", "is missing: M.Square needs it"),
        (
            "shapes_by_name: {a: [{class: M.Square, parameters: {side: x}}]}",
            "shapes_by_name.a[0].parameters.side",
            "a valid number",
        ),
        ("zones: [{class: M.Zone, parameters: {corner: 1}}]", "zones[0].parameters.corner", "did you mean 'corners'?"),
        ("shapes: [3]", "shapes[0]", "Input should be a Shape"),
        ("function: M.dubble", "function", "has no attribute 'dubble'; did you mean 'double'?"),
        ("function: 3", "function", "Input should be callable, not 3"),
        ("function: {class: M.Square, parameters: {side: no}}", "function.parameters.side", "a valid number, not 'no'"),
        ("classes: [M.Zone, M.Zome]", "classes[1]", "has no attribute 'Zome'; did you mean 'Zone'?"),
        ("cls: M.Square", "cls", "Input should be a subclass of Zone"),
        ("whle: 3", "whle", "M.Keen takes no 'whle'; it takes: shapes, flag, "),
        ("whle: 3", "whle", "; did you mean 'whole'?"),
        ("name: it", "name", "'name' is given by the file itself; leave it away"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_a_misfit_is_told_with_its_line_and_field(
    make: Make, module: str, before: int, written: str, field: str, message: str
) -> None:
    ((line, told_field, told),) = faults_of(make, *["unknown: 1", "things: [a]"][:before], written)
    assert (line, told_field) == (before, field)
    assert message in told.replace(module, "M")


def test_all_misfits_are_told_in_one_run(make: Make) -> None:
    faults = faults_of(
        make,
        "flag: no",
        "shapes_by_name:",
        "  a:",
        "    - {class: M.Square, parameters: {side: x, filled: off}}",
        "    - 3",
        "size: [a, b]",
        "speling: 1",
    )
    assert [(line, field) for line, field, _ in faults] == [
        (0, "flag"),
        (3, "shapes_by_name.a[0].parameters.side"),
        (3, "shapes_by_name.a[0].parameters.filled"),
        (4, "shapes_by_name.a[1]"),
        (5, "size[0]"),
        (5, "size[1]"),
        (6, "speling"),
    ]


def test_a_subclass_without_an_init_is_checked_as_its_base(make: Make) -> None:
    assert make("size: [1, 2]", cls="Heir")["size"] == (1, 2)
    assert [field for _, field, _ in faults_of(make, "flag: no", cls="Heir")] == ["flag"]


@pytest.mark.parametrize("word", ["no", "Off", "y", "YES"])
def test_a_boolean_of_yaml_1_1_is_not_taken_for_true_without_hints_either(make: Make, word: str) -> None:
    ((line, field, message),) = faults_of(make, f"loop: {word}", cls="Bare")
    assert (line, field) == (0, "loop")
    assert "is a text: in YAML 1.2 only true and false are booleans; write" in message


def test_nor_is_it_where_a_class_passes_it_on_to_its_base(make: Make) -> None:
    ((line, field, message),) = faults_of(make, "whole: 3", "flag: no", cls="Passing")
    assert (line, field) == (1, "flag")
    assert message.endswith("write false")
    assert make("flag: true", cls="Passing")["flag"] is True


def test_a_class_that_takes_no_name_is_told_to(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"routines\.it: .*Nameless takes no 'name': give its __init__ one, and pass it to"):
        make("{}", cls="Nameless")
