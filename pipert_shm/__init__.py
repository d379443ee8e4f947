"""A shared-memory, zero-copy frame pipeline for video analytics.

What users write with stands here, a noun a module. Each folder answers one question, which its `__init__` says. From below:
`display`, `binding`, `system`, `web`, `shm`, `graph`, `message`, `control`, `flow`, `launcher`, `parent`; then what needs a
whole pipe: `testing`, `pipeline_file`, `video`, `bridges`, `analytics`, `sinks`, `streaming`, `applying`, `api`, `compat`,
`cli`. Imports point down only (import-linter, in pyproject.toml).

Every public name has one home, and is re-exported here once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipert_shm.control.log_output import JsonFormatter
from pipert_shm.data import Data, FrameData, Hop, Meta
from pipert_shm.errors import (
    ConfigError,
    EndOfStream,
    Fault,
    FloatingRoutine,
    FlowDied,
    HostsError,
    NoFreeSlot,
    NotApplied,
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
from pipert_shm.flow_statistics import FlowStatistics
from pipert_shm.functions import FunctionalMiddleRoutine, from_callable
from pipert_shm.join import Join
from pipert_shm.origins import PerOrigin
from pipert_shm.parameters import parameter
from pipert_shm.pipe import Pipe
from pipert_shm.routine import (
    BatchRoutine,
    DestinationRoutine,
    FPSRoutine,
    MiddleRoutine,
    Routine,
    SourceRoutine,
    writable,
)
from pipert_shm.statistics import Latency, PipeStatistics, RoutineStatistics, WireStatistics
from pipert_shm.tap import Tap
from pipert_shm.transmitters import BasicTransmitter, DataTransmitter, SharedMemoryTransmitter
from pipert_shm.wire import QueueNetwork, Wire

if TYPE_CHECKING:
    from pipert_shm.agents.remote_pipe import RemotePipe
    from pipert_shm.agents.remote_tap import RemoteTap
    from pipert_shm.analytics.event import DetectionEvent
    from pipert_shm.analytics.event_source import EventSource
    from pipert_shm.analytics.zones import Zones
    from pipert_shm.api.app import create_app
    from pipert_shm.api.server import APIWrapper
    from pipert_shm.applying.apply import Applied, apply_pipeline
    from pipert_shm.applying.difference import Difference
    from pipert_shm.attached import Attached, attach
    from pipert_shm.attached_source import AttachedSource
    from pipert_shm.bridges.cockpit import get_socket_logger
    from pipert_shm.bridges.rpc import RPCPipeWrapper
    from pipert_shm.bridges.telemetry import export_spans
    from pipert_shm.pipeline_file.loading import PipelineFile
    from pipert_shm.sinks.courier import Courier, LetterRefused, Undelivered
    from pipert_shm.sinks.kafka import KafkaSink
    from pipert_shm.sinks.letter import Letter
    from pipert_shm.sinks.mqtt import MqttSink
    from pipert_shm.sinks.otel import OtelLogsSink
    from pipert_shm.sinks.postgres import PostgresSink
    from pipert_shm.sinks.redis import RedisSink
    from pipert_shm.sinks.sink import Sink
    from pipert_shm.sinks.spool import SinkError
    from pipert_shm.sinks.webhook import WebhookSink
    from pipert_shm.streaming.pushing import StreamingError
    from pipert_shm.streaming.routines import HlsWriter, RtspPush, WhipPush
    from pipert_shm.trace.recording import TraceReport
    from pipert_shm.video.annotation import Annotator
    from pipert_shm.video.capture import VideoInfo
    from pipert_shm.video.classic import HaarDetector, HogPeopleDetector, MotionDetector
    from pipert_shm.video.detection import DetectedFrame, Detections
    from pipert_shm.video.detection_output import JsonLinesWriter, SqliteWriter
    from pipert_shm.video.detector import Detector
    from pipert_shm.video.image import Convert, Crop, CvtColor, Resize
    from pipert_shm.video.models.cascade import Cascade
    from pipert_shm.video.models.centerface import CenterFaceHead
    from pipert_shm.video.models.choosing import UnknownModel, head_for
    from pipert_shm.video.models.classification import ClassificationHead
    from pipert_shm.video.models.detr import DetrHead, RtDetrHead
    from pipert_shm.video.models.dnn import DnnDetector
    from pipert_shm.video.models.preprocessing import Preprocessing
    from pipert_shm.video.models.tiles import Tiles
    from pipert_shm.video.models.torch_detector import TorchDetector
    from pipert_shm.video.models.torchvision_head import TorchvisionHead
    from pipert_shm.video.models.yolo import YoloHead
    from pipert_shm.video.models.yolo_tasks import YoloObbHead, YoloPoseHead, YoloSegmentHead
    from pipert_shm.video.opencv import VideoError
    from pipert_shm.video.output import SnapshotWriter
    from pipert_shm.video.record import Recorder
    from pipert_shm.video.recording import UntrustedRecording
    from pipert_shm.video.replay import Replay
    from pipert_shm.video.rerun import RerunWriter
    from pipert_shm.video.screen import Display, MjpegServer
    from pipert_shm.video.source import VideoSource, video_sources
    from pipert_shm.video.tracking import Tracker
    from pipert_shm.video.twin import TwinSource
    from pipert_shm.video.twin_frame import ToMain, TwinFrame
    from pipert_shm.video.writer import VideoWriter

__version__ = "0.1.0"

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
    "Annotator",
    "Applied",
    "Attached",
    "AttachedSource",
    "BasicTransmitter",
    "BatchRoutine",
    "Cascade",
    "CenterFaceHead",
    "ClassificationHead",
    "ConfigError",
    "Convert",
    "Courier",
    "Crop",
    "CvtColor",
    "Data",
    "DataTransmitter",
    "DestinationRoutine",
    "DetectedFrame",
    "DetectionEvent",
    "Detections",
    "Detector",
    "DetrHead",
    "Difference",
    "Display",
    "DnnDetector",
    "EndOfStream",
    "EventSource",
    "FPSRoutine",
    "Fault",
    "FloatingRoutine",
    "FlowDied",
    "FlowStatistics",
    "FrameData",
    "FunctionalMiddleRoutine",
    "HaarDetector",
    "HlsWriter",
    "HogPeopleDetector",
    "Hop",
    "HostsError",
    "Join",
    "JsonFormatter",
    "JsonLinesWriter",
    "KafkaSink",
    "Latency",
    "Letter",
    "LetterRefused",
    "Meta",
    "MiddleRoutine",
    "MjpegServer",
    "MotionDetector",
    "MqttSink",
    "NoFreeSlot",
    "NotApplied",
    "OtelLogsSink",
    "PayloadError",
    "PerOrigin",
    "Pipe",
    "PipeFailed",
    "PipeStateError",
    "PipeStatistics",
    "PipelineFile",
    "PipertError",
    "PostgresSink",
    "Preprocessing",
    "QueueNetwork",
    "RPCPipeWrapper",
    "Recorder",
    "RedisSink",
    "RemotePipe",
    "RemoteRefusal",
    "RemoteTap",
    "Replay",
    "RerunWriter",
    "Resize",
    "Routine",
    "RoutineError",
    "RoutineStatistics",
    "RtDetrHead",
    "RtspPush",
    "SharedMemoryFull",
    "SharedMemoryTransmitter",
    "Sink",
    "SinkError",
    "SnapshotWriter",
    "SourceRoutine",
    "SqliteWriter",
    "StreamingError",
    "Tap",
    "Tiles",
    "ToMain",
    "TorchDetector",
    "TorchvisionHead",
    "TraceReport",
    "Tracker",
    "TwinFrame",
    "TwinSource",
    "Undelivered",
    "UniqueRoutineName",
    "UnknownEvent",
    "UnknownModel",
    "UnknownTarget",
    "UntrustedRecording",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "VideoWriter",
    "WebhookSink",
    "WhipPush",
    "Wire",
    "WireStatistics",
    "WiresValidation",
    "YoloHead",
    "YoloObbHead",
    "YoloPoseHead",
    "YoloSegmentHead",
    "Zones",
    "apply_pipeline",
    "attach",
    "create_app",
    "events",
    "export_spans",
    "from_callable",
    "get_socket_logger",
    "head_for",
    "parameter",
    "video_sources",
    "writable",
]

_LAZY = {
    "APIWrapper": "pipert_shm.api.server",
    "attach": "pipert_shm.attached",
    "Attached": "pipert_shm.attached",
    "AttachedSource": "pipert_shm.attached_source",
    "create_app": "pipert_shm.api.app",
    "export_spans": "pipert_shm.bridges.telemetry",
    "get_socket_logger": "pipert_shm.bridges.cockpit",
    "Applied": "pipert_shm.applying.apply",
    "Difference": "pipert_shm.applying.difference",
    "PipelineFile": "pipert_shm.pipeline_file.loading",
    "apply_pipeline": "pipert_shm.applying.apply",
    "RPCPipeWrapper": "pipert_shm.bridges.rpc",
    "HlsWriter": "pipert_shm.streaming.routines",
    "RtspPush": "pipert_shm.streaming.routines",
    "WhipPush": "pipert_shm.streaming.routines",
    "Annotator": "pipert_shm.video.annotation",
    "Cascade": "pipert_shm.video.models.cascade",
    "CenterFaceHead": "pipert_shm.video.models.centerface",
    "Convert": "pipert_shm.video.image",
    "Crop": "pipert_shm.video.image",
    "CvtColor": "pipert_shm.video.image",
    "DetectedFrame": "pipert_shm.video.detection",
    "DetectionEvent": "pipert_shm.analytics.event",
    "Detections": "pipert_shm.video.detection",
    "Detector": "pipert_shm.video.detector",
    "Display": "pipert_shm.video.screen",
    "DnnDetector": "pipert_shm.video.models.dnn",
    "EventSource": "pipert_shm.analytics.event_source",
    "HaarDetector": "pipert_shm.video.classic",
    "HogPeopleDetector": "pipert_shm.video.classic",
    "JsonLinesWriter": "pipert_shm.video.detection_output",
    "MjpegServer": "pipert_shm.video.screen",
    "MotionDetector": "pipert_shm.video.classic",
    "Recorder": "pipert_shm.video.record",
    "RemotePipe": "pipert_shm.agents.remote_pipe",
    "RemoteTap": "pipert_shm.agents.remote_tap",
    "Replay": "pipert_shm.video.replay",
    "RerunWriter": "pipert_shm.video.rerun",
    "Resize": "pipert_shm.video.image",
    "SnapshotWriter": "pipert_shm.video.output",
    "SqliteWriter": "pipert_shm.video.detection_output",
    "ToMain": "pipert_shm.video.twin_frame",
    "Tiles": "pipert_shm.video.models.tiles",
    "TorchDetector": "pipert_shm.video.models.torch_detector",
    "TorchvisionHead": "pipert_shm.video.models.torchvision_head",
    "TraceReport": "pipert_shm.trace.recording",
    "Courier": "pipert_shm.sinks.courier",
    "KafkaSink": "pipert_shm.sinks.kafka",
    "Letter": "pipert_shm.sinks.letter",
    "MqttSink": "pipert_shm.sinks.mqtt",
    "OtelLogsSink": "pipert_shm.sinks.otel",
    "PostgresSink": "pipert_shm.sinks.postgres",
    "RedisSink": "pipert_shm.sinks.redis",
    "LetterRefused": "pipert_shm.sinks.courier",
    "Sink": "pipert_shm.sinks.sink",
    "SinkError": "pipert_shm.sinks.spool",
    "StreamingError": "pipert_shm.streaming.pushing",
    "Undelivered": "pipert_shm.sinks.courier",
    "WebhookSink": "pipert_shm.sinks.webhook",
    "Tracker": "pipert_shm.video.tracking",
    "TwinFrame": "pipert_shm.video.twin_frame",
    "TwinSource": "pipert_shm.video.twin",
    "UntrustedRecording": "pipert_shm.video.recording",
    "VideoError": "pipert_shm.video.opencv",
    "VideoInfo": "pipert_shm.video.capture",
    "VideoSource": "pipert_shm.video.source",
    "video_sources": "pipert_shm.video.source",
    "VideoWriter": "pipert_shm.video.writer",
    "YoloHead": "pipert_shm.video.models.yolo",
    "ClassificationHead": "pipert_shm.video.models.classification",
    "DetrHead": "pipert_shm.video.models.detr",
    "Preprocessing": "pipert_shm.video.models.preprocessing",
    "RtDetrHead": "pipert_shm.video.models.detr",
    "UnknownModel": "pipert_shm.video.models.choosing",
    "YoloObbHead": "pipert_shm.video.models.yolo_tasks",
    "YoloPoseHead": "pipert_shm.video.models.yolo_tasks",
    "YoloSegmentHead": "pipert_shm.video.models.yolo_tasks",
    "head_for": "pipert_shm.video.models.choosing",
    "Zones": "pipert_shm.analytics.zones",
}


def __getattr__(name: str) -> Any:
    """OpenCV, FastAPI and the like load when they are first asked for."""
    import importlib

    if name == "native":  # the name of `binding` before it was a folder, by which people's own tools still ask for it
        return importlib.import_module("pipert_shm.binding")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """All public names, loaded or not."""
    return [*globals(), *_LAZY]
