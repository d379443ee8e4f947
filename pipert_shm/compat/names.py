"""Which module of PipeRT2's has which names, and what they are here. Written by its 2.4.0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pipert_shm
from pipert_shm.compat import classes
from pipert_shm.events import UPDATE_FPS_NAME

Namespace = dict[str, Any]

# Internal names that users may have imported, and that have no counterpart here.
NO_COUNTERPARTS = {
    "EventHandler", "Flow", "Message", "MessageHandler", "Network", "Payload", "QueueHandler", "SharedMemoryManager",
}  # fmt: skip

EVENT_NAMES: Namespace = {
    "STOP_EVENT_NAME": pipert_shm.STOP_EVENT_NAME,
    "KILL_EVENT_NAME": pipert_shm.KILL_EVENT_NAME,
    "START_EVENT_NAME": pipert_shm.START_EVENT_NAME,
    "UPDATE_FPS_NAME": UPDATE_FPS_NAME,
    "LOG_DATA": pipert_shm.LOG_DATA,
    "UNLINK": pipert_shm.UNLINK,
}
SYNCHRONISER: Namespace = {"NULL_FPS": -1.0, "FPS_MULTIPLIER": 2, "ROUTINE_NOTIFY_DURATIONS_INTERVAL": 4}
SOCKET_NAMES: Namespace = {"CREATION_LOG_NAME": "pipe_creation", "LOG_NAME": "log"}


_RENAMED = {"Pipe": "LegacyPipe", "APIWrapper": "LegacyAPIWrapper"}


def _ours(*names: str) -> Callable[[], Namespace]:
    return lambda: {name: getattr(pipert_shm, name) for name in names}


def _theirs(*names: str) -> Callable[[], Namespace]:
    return lambda: {name: getattr(classes, _RENAMED.get(name, name)) for name in names}


def _all_of(*parts: Callable[[], Namespace] | Namespace) -> Callable[[], Namespace]:
    return lambda: {name: value for part in parts for name, value in (part() if callable(part) else part).items()}


def _annotations() -> Namespace:
    return {"class_functions_dictionary": classes.ClassFunctions}


def _not_built() -> Namespace:
    return {"QueueNotInitialized": pipert_shm.PipeStateError}


def _root() -> Namespace:
    classes.add_pipe_log_level()
    return {
        "__version__": "2.4.0",
        "dataclass": dataclasses.dataclass,
        "field": dataclasses.field,
        "fields": dataclasses.fields,
        **_TRANSMITTERS(),
        **_ours("Wire", "Data", "FPSRoutine", "SourceRoutine", "MiddleRoutine", "DestinationRoutine", "QueueNetwork")(),
        **_theirs("Pipe")(),
        **{name: EVENT_NAMES[name] for name in ("START_EVENT_NAME", "STOP_EVENT_NAME", "KILL_EVENT_NAME")},
        **{name: SYNCHRONISER[name] for name in ("FPS_MULTIPLIER", "ROUTINE_NOTIFY_DURATIONS_INTERVAL")},
    }


_TRANSMITTERS = _ours("DataTransmitter", "BasicTransmitter", "SharedMemoryTransmitter")
_BASE = _all_of(_ours("Wire", "Data", "Routine", "FPSRoutine"), _TRANSMITTERS, _theirs("Pipe"))
_MANAGERS = _all_of(_ours("QueueNetwork"), _theirs("EventBoard"))
_EXCEPTIONS = _all_of(_ours("FloatingRoutine", "UniqueRoutineName", "WiresValidation"), _not_built)

MODULES: Mapping[str, Callable[[], Namespace]] = {
    "pipert2": _root,
    "pipert2.core": _all_of(_BASE, _MANAGERS),
    "pipert2.core.base": _BASE,
    "pipert2.core.base.data": _ours("Data", "FrameData"),
    "pipert2.core.base.data.data": _ours("Data"),
    "pipert2.core.base.data.frame_data": _ours("FrameData"),
    "pipert2.core.base.data_transmitter": _ours("DataTransmitter"),
    "pipert2.core.base.pipe": _theirs("Pipe"),
    "pipert2.core.base.routine": _ours("Routine"),
    "pipert2.core.base.routines": _ours("FPSRoutine"),
    "pipert2.core.base.routines.fps_routine": _ours("FPSRoutine"),
    "pipert2.core.base.routines.functional_middle_routine": _ours("FunctionalMiddleRoutine"),
    "pipert2.core.base.transmitters": _ours("BasicTransmitter", "SharedMemoryTransmitter"),
    "pipert2.core.base.transmitters.basic_transmitter": _ours("BasicTransmitter"),
    "pipert2.core.base.transmitters.shared_memory_transmitter": _ours("SharedMemoryTransmitter"),
    "pipert2.core.base.wire": _ours("Wire"),
    "pipert2.core.managers": _MANAGERS,
    "pipert2.core.managers.event_board": _theirs("EventBoard"),
    "pipert2.core.managers.networks": _ours("QueueNetwork"),
    "pipert2.core.managers.networks.queue_network": _ours("QueueNetwork"),
    "pipert2.core.wrappers": dict,
    "pipert2.core.wrappers.api_wrapper": _theirs("APIWrapper"),
    "pipert2.core.wrappers.rpc_pipe_wrapper": _ours("RPCPipeWrapper"),
    "pipert2.utils": _all_of(EVENT_NAMES, SYNCHRONISER),
    "pipert2.utils.annotations": _annotations,
    "pipert2.utils.consts": _all_of(EVENT_NAMES, SYNCHRONISER),
    "pipert2.utils.consts.emit_socket_names": _all_of(SOCKET_NAMES),
    "pipert2.utils.consts.event_names": _all_of(EVENT_NAMES),
    "pipert2.utils.consts.synchronise_routines": _all_of(SYNCHRONISER),
    "pipert2.utils.exceptions": _EXCEPTIONS,
    "pipert2.utils.exceptions.floating_routine": _ours("FloatingRoutine"),
    "pipert2.utils.exceptions.queue_not_initialized": _not_built,
    "pipert2.utils.exceptions.unique_routine_name": _ours("UniqueRoutineName"),
    "pipert2.utils.exceptions.wires_validation": _ours("WiresValidation"),
    "pipert2.utils.logging_module_modifiers": _theirs(
        "PIPE_INFRASTRUCTURE_LOG_LEVEL", "add_pipe_log_level", "get_default_print_logger"
    ),
    "pipert2.utils.socketio_logger": dict,
    "pipert2.utils.socketio_logger.frame_utils": _theirs("numpy_frame_to_base64", "create_log_record_of_extra_frame"),
    "pipert2.utils.socketio_logger.socket_logger": _ours("get_socket_logger"),
}
