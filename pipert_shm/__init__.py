"""A shared-memory, zero-copy frame pipeline for video analytics.

Layers, each importing only from those before it:

    errors -> native -> memory -> codec -> data, events, transmit, counters -> join -> routine -> wire -> plan
    -> channel, logs, ports -> order -> intake -> runner -> flow -> links, nursery -> growth -> launcher -> statistics, tap
    -> session -> pipe -> rpc, video, config -> api -> demo, run, top, doctor, remote -> cli; cockpit and segments beside

Every public name has one home, and is re-exported here once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipert_shm.data import Data, FrameData, Hop, Meta
from pipert_shm.errors import (
    ConfigError,
    EndOfStream,
    Fault,
    FloatingRoutine,
    FlowDied,
    NoFreeSlot,
    PayloadError,
    PipeFailed,
    PipertError,
    PipeStateError,
    RemoteRefusal,
    RoutineError,
    SharedMemoryFull,
    UniqueRoutineName,
    UnknownEvent,
    UnknownTarget,
    WiresValidation,
)
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LINK,
    LINK_EVENT_NAME,
    LOG_DATA,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK,
    UNLINK_EVENT_NAME,
    events,
)
from pipert_shm.join import Join
from pipert_shm.logs import JsonFormatter
from pipert_shm.pipe import Pipe
from pipert_shm.routine import BatchRoutine, DestinationRoutine, FPSRoutine, MiddleRoutine, Routine, SourceRoutine, writable
from pipert_shm.statistics import FlowStatistics, Latency, PipeStatistics, RoutineStatistics, WireStatistics
from pipert_shm.tap import Tap
from pipert_shm.transmit import BasicTransmitter, DataTransmitter, SharedMemoryTransmitter
from pipert_shm.wire import QueueNetwork, Wire

if TYPE_CHECKING:
    from pipert_shm.api.app import create_app
    from pipert_shm.api.server import APIWrapper
    from pipert_shm.cockpit import get_socket_logger
    from pipert_shm.config import PipelineFile
    from pipert_shm.rpc import RPCPipeWrapper
    from pipert_shm.video.capture import VideoInfo
    from pipert_shm.video.detection import DetectedFrame, MotionDetector
    from pipert_shm.video.opencv import VideoError
    from pipert_shm.video.output import DetectionWriter
    from pipert_shm.video.source import VideoSource, video_sources

__all__ = [
    "KILL_EVENT_NAME",
    "LINK",
    "LINK_EVENT_NAME",
    "LOG_DATA",
    "START_EVENT_NAME",
    "STOP_EVENT_NAME",
    "UNLINK",
    "UNLINK_EVENT_NAME",
    "APIWrapper",
    "BasicTransmitter",
    "BatchRoutine",
    "ConfigError",
    "Data",
    "DataTransmitter",
    "DestinationRoutine",
    "DetectedFrame",
    "DetectionWriter",
    "EndOfStream",
    "FPSRoutine",
    "Fault",
    "FloatingRoutine",
    "FlowDied",
    "FlowStatistics",
    "FrameData",
    "Hop",
    "Join",
    "JsonFormatter",
    "Latency",
    "Meta",
    "MiddleRoutine",
    "MotionDetector",
    "NoFreeSlot",
    "PayloadError",
    "Pipe",
    "PipeFailed",
    "PipeStateError",
    "PipeStatistics",
    "PipelineFile",
    "PipertError",
    "QueueNetwork",
    "RPCPipeWrapper",
    "RemoteRefusal",
    "Routine",
    "RoutineError",
    "RoutineStatistics",
    "SharedMemoryFull",
    "SharedMemoryTransmitter",
    "SourceRoutine",
    "Tap",
    "UniqueRoutineName",
    "UnknownEvent",
    "UnknownTarget",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "Wire",
    "WireStatistics",
    "WiresValidation",
    "create_app",
    "events",
    "get_socket_logger",
    "video_sources",
    "writable",
]

_LAZY = {
    "APIWrapper": "pipert_shm.api.server",
    "create_app": "pipert_shm.api.app",
    "get_socket_logger": "pipert_shm.cockpit",
    "PipelineFile": "pipert_shm.config",
    "RPCPipeWrapper": "pipert_shm.rpc",
    "DetectedFrame": "pipert_shm.video.detection",
    "DetectionWriter": "pipert_shm.video.output",
    "MotionDetector": "pipert_shm.video.detection",
    "VideoError": "pipert_shm.video.opencv",
    "VideoInfo": "pipert_shm.video.capture",
    "VideoSource": "pipert_shm.video.source",
    "video_sources": "pipert_shm.video.source",
}


def __getattr__(name: str) -> Any:
    """OpenCV, FastAPI and the like load when they are first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
