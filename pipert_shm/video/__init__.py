"""How do videos get in and out? A source, detectors, drawing, writers and displays, as routines.

Importing this package loads OpenCV.
"""

from pipert_shm.video.annotation import Annotator
from pipert_shm.video.capture import VideoInfo, open_video
from pipert_shm.video.classic import HaarDetector, HogPeopleDetector, MotionDetector
from pipert_shm.video.clips import default_clip, packaged_clip
from pipert_shm.video.detection import DetectedFrame, Detections, Detector
from pipert_shm.video.detection_output import JsonLinesWriter, SqliteWriter
from pipert_shm.video.formats import format_of, luma, planes, to_bgr, to_gray
from pipert_shm.video.heads import CenterFaceHead, YoloHead
from pipert_shm.video.image import Convert, Crop, CvtColor, Resize
from pipert_shm.video.models.dnn import DnnDetector
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

__all__ = [
    "Annotator",
    "CenterFaceHead",
    "Convert",
    "Crop",
    "CvtColor",
    "DetectedFrame",
    "Detections",
    "Detector",
    "Display",
    "DnnDetector",
    "HaarDetector",
    "HogPeopleDetector",
    "JsonLinesWriter",
    "MjpegServer",
    "MotionDetector",
    "Recorder",
    "Replay",
    "RerunWriter",
    "Resize",
    "SnapshotWriter",
    "SqliteWriter",
    "ToMain",
    "Tracker",
    "TwinFrame",
    "TwinSource",
    "UntrustedRecording",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "VideoWriter",
    "YoloHead",
    "default_clip",
    "format_of",
    "luma",
    "open_video",
    "packaged_clip",
    "planes",
    "to_bgr",
    "to_gray",
    "video_sources",
]
