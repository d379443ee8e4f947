"""A pipe of a program whose flows run on several hosts: how routines are described, and what is refused by name.

`tests/test_agents.py` runs such a program over two agents.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipert_shm import (
    BasicTransmitter,
    ConfigError,
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    PipelineFile,
    PipeStateError,
    RoutineError,
    SharedMemoryFull,
    SourceRoutine,
    VideoSource,
    Wire,
    WiresValidation,
    from_callable,
)
from pipert_shm.agents.beside import Brought
from pipert_shm.agents.describing import check_twin, described
from pipert_shm.agents.splitting import reachable, split
from pipert_shm.hosts import Hub
from pipert_shm.routine import Routine

HUB = {"hub": "tcp/127.0.0.1:1", "name": "desk"}


class Detector(MiddleRoutine):
    """Has parameters of all kinds."""

    def __init__(self, name: str | None = None, *labels: str, threshold: float = 0.5, model: Any = None, **more: Any) -> None:
        super().__init__(name)
        self.labels, self.threshold, self.model, self.more = labels, threshold, model, more
        self.seed = random.random()

    def main_logic(self, data: Any) -> Any:
        return data


class Screen(DestinationRoutine):
    """Is needed."""

    def main_logic(self, data: Any) -> None: ...


class Outer:
    """Has a class in it."""

    class Inner(Screen):
        """Can't be found by a file."""


def test_a_routine_is_described_by_what_its_constructor_was_given() -> None:
    detector = Detector("detector", "cat", "dog", model=Path("nets/a.onnx"), sizes=(1, [2.5, None]), of={"a": True})
    detector.set_const_fps(5)
    detector.hang_timeout, detector.max_errors = 7.5, 3
    assert described(detector) == {
        "class": f"{__name__}.Detector",
        "parameters": {"labels": ["cat", "dog"], "model": "nets/a.onnx", "sizes": [1, [2.5, None]], "of": {"a": True}},
        "hang_timeout": 7.5,
        "max_errors": 3,
        "fps": 5.0,
    }
    assert described(VideoSource("walk.mp4", name="camera")) == {
        "class": "pipert_shm.video.source.VideoSource",
        "parameters": {"source": "walk.mp4"},
    }


def local() -> Routine:
    class Local(Screen):
        """Is in no module."""

    return Local("local")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (local, r"routine 'local': its class can't be imported as .*test_a?.*Local.*at the top of a module"),
        (lambda: Outer.Inner("inner"), r"routine 'inner': its class can't be imported as .*Outer\.Inner"),
        (lambda: from_callable(len), r"routine 'len': it is made of .*len.*functions don't travel: write a class"),
        (lambda: from_callable(lambda frame, meta: frame, "two"), r"routine 'two': it is made of .*functions don't travel"),
        (
            lambda: Detector("odd", model=object()),
            r"'odd': its constructor was given model=<object .*let it make the rest",
        ),
        (lambda: Detector("odd", sizes=[1, {"a": {2}}]), r"was given sizes\[1\]\['a'\]=\{2\}"),
        (lambda: Detector("odd", of={"class": "os.system"}), r"was given of="),
    ],
)
def test_what_can_not_be_described_is_refused_by_name(make: Callable[[], Routine], message: str) -> None:
    with pytest.raises(RoutineError, match=message.replace("test_a?", "local")):
        described(make())


def test_what_was_set_after_the_constructor_would_be_lost_and_is_refused() -> None:
    detector = Detector("detector", threshold=0.3)

    def twin() -> Routine:
        return Detector("detector", threshold=0.3)

    check_twin(detector, twin)  # though each has another seed
    detector.threshold = 0.4
    with pytest.raises(RoutineError, match=r"'detector': its attribute 'threshold' is 0.4, and .* makes it is 0.3: only what"):
        check_twin(detector, twin)


class Divided(Brought):
    """What hosts have applied, had there been any."""

    taken_back: ClassVar[list[str]] = []

    def take_back(self) -> None:
        self.taken_back.append(self.pipe)


class Camera(SourceRoutine):
    """Says how large its frames are."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.declare_output((480, 640, 3))

    def main_logic(self) -> Any:
        return None


def pipe_with(detector: Routine, wire: dict[str, Any], **settings: Any) -> Pipe:
    camera, screen = Camera("camera"), Screen("screen")
    pipe = Pipe(hosts=HUB, **settings)
    pipe.create_flow("gate", False, camera)
    pipe.create_flow("detect", False, detector, host={"gpu": "true"})
    pipe.create_flow("output", False, screen)
    pipe.link(Wire(camera, detector, **wire), Wire(detector, screen))
    return pipe


@pytest.mark.parametrize(
    ("wire", "settings", "error", "message"),
    [
        (
            {"data_transmitter": BasicTransmitter()},
            {},
            WiresValidation,
            r"-> 'detector'.*: a data_transmitter can't go",
        ),
        ({}, {"data_transmitter": BasicTransmitter()}, WiresValidation, "data_transmitter: an object can't go"),
    ],
)
def test_build_says_what_can_not_be(
    wire: dict[str, Any], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    pipe = pipe_with(Detector("detector", threshold=0.3), wire, **settings)
    with pytest.raises(error, match=message):
        pipe.build()


def test_if_the_own_part_can_not_be_built_the_others_are_put_back_and_the_pipe_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brought: list[Divided] = []

    def bring(path: str, text: str, made_by: str) -> Divided:
        file = PipelineFile(path, text)
        placement = {name: {"gpu-1" if flow.host else "desk": flow.replicas} for name, flow in file.settings.flows.items()}
        part = split(file, placement, "desk")["desk"]
        way = reachable(part.text, part.remotes, Hub(connect=HUB["hub"]))
        brought.append(Divided(path, text, file.pipe_name, {"gpu-1": "1"}, [], way, part.wires, []))
        return brought[-1]

    monkeypatch.setattr("pipert_shm.agents.program.bring_beside", bring)
    pipe = pipe_with(Detector("detector", threshold=0.3), {"window": 4}, memory_budget=1)
    for count in (1, 2):
        with pytest.raises(SharedMemoryFull):
            pipe.build()
        assert len(Divided.taken_back) == count
    assert [routine["routine_name"] for routine in pipe.get_pipe_structure()["Routines"]] == ["camera", "detector", "screen"]
    assert "camera-to-detector@gpu-1" in str(brought[0].text)


def test_hosts_that_are_not_told_right_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hosts\.hubs: there is no such setting.*did you mean 'hub'"):
        Pipe(hosts={"hubs": "tcp/a:1"})
    with pytest.raises(TypeError, match="hosts is a dict such as"):
        Pipe(hosts="tcp/a:1")  # type: ignore[arg-type]
    pipe = Pipe()
    with pytest.raises(PipeStateError, match=r"create_flow\('detect', …, host='gpu-1'\): say how hosts find each other"):
        pipe.create_flow("detect", True, SourceRoutine("camera"), host="gpu-1")
    with pytest.raises(TypeError, match="give a host's name, or its labels"):
        pipe.create_flow("detect", True, SourceRoutine("camera"), host=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window must be 'auto', or a whole number from 1 to 64, not 65"):
        Wire(SourceRoutine("camera"), Screen("screen"), window=65)
    camera, screen = Camera("camera"), Screen("screen")
    pipe.create_flow("all", False, camera, screen)
    pipe.link(Wire(camera, screen, codec="jpeg"))
    with pytest.raises(WiresValidation, match=r"codec='jpeg'\): codec and window are for wires between hosts"):
        pipe.build()
