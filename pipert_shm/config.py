"""Pipelines in YAML: what a file may say, and how it becomes a pipe. An error names file, line and field.

routines:
camera: {class: pipert_shm.VideoSource, parameters: {source: walk.mp4}}
detector: {class: pipert_shm.MotionDetector}
writer: {class: pipert_shm.JsonLinesWriter, parameters: {path: out/detections.jsonl}}
flows:
camera: {routines: [camera]}
detect: {routines: [detector, writer], auto_wire: true}
wires:
- {source: camera, destinations: [detector], policy: block}
"""

from __future__ import annotations

import inspect
import logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError
from ruamel.yaml import YAML, MappingNode, SequenceNode
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipert_shm.errors import ConfigError, Fault, PipertError, RoutineError, describe
from pipert_shm.pipe import Pipe
from pipert_shm.routine import Routine
from pipert_shm.settings import (
    ApiSettings,
    FlowSettings,
    LoggingSettings,
    MadeOf,
    Pipeline,
    PipeSettings,
    RoutineSettings,
    Section,
    WireSettings,
)
from pipert_shm.transmit import DataTransmitter
from pipert_shm.wire import Wire

Where: TypeAlias = tuple[str | int, ...]  # a field: ("wires", 0, "policy")

_SECTIONS: dict[str | int, type[Section]] = {
    "routines": RoutineSettings,
    "flows": FlowSettings,
    "wires": WireSettings,
    "pipe": PipeSettings,
    "api": ApiSettings,
    "logging": LoggingSettings,
}


class PipelineFile:
    """A pipeline in a YAML file (YAML 1.2), read and validated.

    The classes that it names are imported by `make_pipe()`, from the file's own directory first. Relative paths in parameters
    are the routines' own: they start from the working directory.

    :param path: the file.
    :raises ConfigError: when it can't be read or does not fit; it tells every fault, with its line and field.

    Attributes:
        path: the file.
        settings: what it says.

    Not to be shared between threads.

    >>> import pathlib, tempfile
    >>> from pipert_shm import PipelineFile
    >>> directory = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(directory.name) / "motion.yaml"
    >>> _ = path.write_text('''
    ... routines:
    ...   camera: {class: pipert_shm.VideoSource, parameters: {source: walk.mp4}}
    ...   detector: {class: pipert_shm.MotionDetector}
    ... flows:
    ...   camera: {routines: [camera]}
    ...   detect: {routines: [detector]}
    ... wires:
    ...   - {source: camera, destinations: [detector], policy: block}
    ... ''')
    >>> pipe = PipelineFile(path).make_pipe()
    >>> [routine["routine_name"] for routine in pipe.get_pipe_structure()["Routines"]]
    ['camera', 'detector']
    >>> _ = path.write_text(path.read_text().replace("block", "wait"))
    >>> PipelineFile(path)                                                  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pipert_shm.errors.ConfigError: ...motion.yaml:9: wires[0].policy: Input should be 'drop_oldest', ... not 'wait'
    >>> directory.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lines: dict[Where, int] = {}
        data = self._read()
        try:
            self.settings = Pipeline.model_validate(data)
        except ValidationError as error:
            raise ConfigError([self._fault_of(dict(fault)) for fault in error.errors()]) from None
        self._refuse(list(self._unknown_names()))

    def _read(self) -> Any:
        yaml = YAML(typ="safe", pure=True)
        try:
            node = yaml.compose(self.path.read_text(encoding="utf-8"))
            if node is None:
                raise ConfigError([Fault(str(self.path), 0, "", "the file is empty; it needs routines and flows")])
            self._note_lines(node, ())
            return yaml.constructor.construct_document(node)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = ", ".join(part for part in (error.context, error.problem) if part)
            raise ConfigError([Fault(str(self.path), mark.line + 1 if mark else 0, "", f"this is not YAML: {said}")]) from None
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            said = error.strerror or "" if isinstance(error, OSError) else " ".join(str(error).split())
            raise ConfigError([Fault(str(self.path), 0, "", f"can't be read: {said}")]) from None

    def _note_lines(self, node: Any, path: Where) -> None:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            for key, value in node.value:
                self._lines[(*path, str(key.value))] = key.start_mark.line + 1
                self._note_lines(value, (*path, str(key.value)))
        elif isinstance(node, SequenceNode):
            for number, value in enumerate(node.value):
                self._note_lines(value, (*path, number))

    def _fault(self, path: Where, message: str) -> Fault:
        """At the field of this path, or at the section that lacks it."""
        known = path
        while known and known not in self._lines:
            known = known[:-1]
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        return Fault(str(self.path), self._lines[known], field.lstrip("."), message)

    def _fault_of(self, error: dict[str, Any]) -> Fault:
        """What pydantic found."""
        path = tuple(part for part in error["loc"] if part != "[key]")
        if error["type"] == "extra_forbidden":
            return self._fault(path, f"there is no such setting; there are: {', '.join(_fields_at(path[:-1]))}")
        if error["type"] == "missing":
            return self._fault(path, "is missing")
        given = error["input"]
        shown = f", not {given!r}" if given is None or isinstance(given, str | int | float | bool) else ""
        return self._fault(path, error["msg"] + shown)

    def _unknown_names(self) -> Iterator[Fault]:
        """Names of routines that don't exist, and routines that are in no flow or in two."""
        routines = self.settings.routines
        flow_of: dict[str, str] = {}
        there_are = f"there are: {', '.join(routines)}"
        for flow, settings in self.settings.flows.items():
            for number, name in enumerate(settings.routines):
                path: Where = ("flows", flow, "routines", number)
                if name not in routines:
                    yield self._fault(path, f"there is no routine {name!r}; {there_are}")
                elif name in flow_of:
                    yield self._fault(path, f"routine {name!r} is in flow {flow_of[name]!r} already")
                flow_of.setdefault(name, flow)
        for name in routines:
            if name not in flow_of:
                yield self._fault(("routines", name), "is in no flow; name it in the routines of one")
        for number, wire in enumerate(self.settings.wires):
            ends: list[tuple[Where, str]] = [(("source",), wire.source)]
            ends += [(("destinations", place), name) for place, name in enumerate(wire.destinations)]
            for end, name in ends:
                if name not in routines:
                    yield self._fault(("wires", number, *end), f"there is no routine {name!r}; {there_are}")

    def _refuse(self, faults: list[Fault]) -> None:
        if faults:
            raise ConfigError(faults)

    # ---- the pipe --------------------------------------------------------------------------------

    def make_pipe(self) -> Pipe:
        """Imports the classes, makes the routines, and puts them into a pipe, which is checked but not built.

        :raises ConfigError: when a class can't be imported, a parameter does not fit, or the wires don't make a pipeline.
        """
        directory = str(self.path.resolve().parent)
        if directory not in sys.path:
            sys.path.insert(0, directory)
        faults: list[Fault] = []
        routines: dict[str, Routine] = {}
        for name, settings in self.settings.routines.items():
            with self._collecting(faults):
                routines[name] = self._make_routine(name, settings)
        transmitters: dict[Where, DataTransmitter] = {}
        for path, made_of in self._transmitters():
            with self._collecting(faults):
                transmitters[path] = self._make(path, made_of, DataTransmitter)
        self._refuse(faults)
        pipe = self._assemble(routines, transmitters)
        try:
            pipe.check()
        except RoutineError as error:
            raise ConfigError([self._fault(("routines", error.routine), str(error))]) from error
        except (PipertError, ValueError) as error:
            raise ConfigError([self._fault(("wires",), str(error))]) from error
        return pipe

    def _assemble(self, routines: dict[str, Routine], transmitters: dict[Where, DataTransmitter]) -> Pipe:
        settings = self.settings.pipe
        with self._at(("pipe",), ValueError):
            options = settings.model_dump(exclude={"name", "data_transmitter"})
            pipe = Pipe(logger=logging.getLogger(settings.name), data_transmitter=transmitters.get(("pipe",)), **options)
        for flow, its in self.settings.flows.items():
            options = its.model_dump(exclude={"routines", "auto_wire", "data_transmitter"})
            with self._at(("flows", flow), PipertError, ValueError):
                members = [routines[name] for name in its.routines]
                pipe.create_flow(flow, its.auto_wire, *members, data_transmitter=transmitters.get(("flows", flow)), **options)
        for number, wire in enumerate(self.settings.wires):
            options = wire.model_dump(exclude={"source", "destinations", "data_transmitter"})
            with self._at(("wires", number), PipertError, ValueError):
                ends = routines[wire.source], [routines[name] for name in wire.destinations]
                pipe.link(Wire(*ends, data_transmitter=transmitters.get(("wires", number)), **options))
        return pipe

    def _transmitters(self) -> Iterator[tuple[Where, MadeOf]]:
        """Those that are asked for, by the section that asks."""
        sections: list[tuple[Where, PipeSettings | FlowSettings | WireSettings]] = [(("pipe",), self.settings.pipe)]
        sections += [(("flows", name), flow) for name, flow in self.settings.flows.items()]
        sections += [(("wires", number), wire) for number, wire in enumerate(self.settings.wires)]
        for path, section in sections:
            if section.data_transmitter is not None:
                yield path, section.data_transmitter

    def _make_routine(self, name: str, settings: RoutineSettings) -> Routine:
        path = ("routines", name)
        routine: Routine = self._make(path, settings, Routine, name=name)
        if settings.fps is not None:
            with self._at((*path, "fps"), ValueError):
                routine.set_const_fps(settings.fps)
        if settings.hang_timeout is not None:
            routine.hang_timeout = settings.hang_timeout
        if settings.max_errors is not None:
            routine.max_errors = settings.max_errors
        return routine

    def _make(self, path: Where, made_of: MadeOf, kind: type[Any], **more: Any) -> Any:
        """An object of the class.

        :param more: arguments beyond the parameters.
        """
        if kind is DataTransmitter:
            path = (*path, "data_transmitter")
        with self._at((*path, "class"), Exception):
            cls = pkgutil.resolve_name(made_of.cls)
        if not (inspect.isclass(cls) and issubclass(cls, kind)):
            raise ConfigError([self._fault((*path, "class"), f"{made_of.cls} is not a {kind.__name__}")])
        parameters = {**made_of.parameters, **more}
        accepted = inspect.signature(cls).parameters
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
            taken = [name for name in accepted if name not in more]
            for name in parameters.keys() - accepted.keys():
                there_are = f"it takes: {', '.join(taken)}" if taken else "it takes none"
                raise ConfigError([self._fault((*path, "parameters", name), f"{made_of.cls} takes no {name!r}; {there_are}")])
        with self._at((*path, "parameters"), Exception):
            return cls(**parameters)

    @contextmanager
    def _at(self, path: Where, *errors: type[Exception]) -> Iterator[None]:
        """Tells such an error as a fault of this field."""
        try:
            yield
        except ConfigError:
            raise
        except errors as error:
            raise ConfigError([self._fault(path, told(error))]) from error

    @contextmanager
    def _collecting(self, faults: list[Fault]) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            faults += error.faults


def told(error: Exception) -> str:
    """What it says; and where it was raised, if that is in the code that the file names."""
    if isinstance(error, PipertError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        frame for frame in frames if frame.filename not in (__file__, pkgutil.__file__) and "importlib" not in frame.filename
    ]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return describe(error) + place


def _fields_at(where: Where) -> list[str]:
    """The settings that the section there has."""
    section = Pipeline if not where else MadeOf if where[-1] == "data_transmitter" else _SECTIONS[where[0]]
    return [field.alias or name for name, field in section.model_fields.items()]
