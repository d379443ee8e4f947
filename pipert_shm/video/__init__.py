"""How do videos get in and out? A source, detectors, drawing, writers and displays, as routines.

Importing this package loads OpenCV.
"""

from pipert_shm.video.annotation import Annotator
from pipert_shm.video.capture import VideoInfo, open_video
from pipert_shm.video.classic import HaarDetector, HogPeopleDetector, MotionDetector
from pipert_shm.video.clips import default_clip, packaged_clip
from pipert_shm.video.detection import DetectedFrame, Detections
from pipert_shm.video.detection_output import JsonLinesWriter, SqliteWriter
from pipert_shm.video.detector import Detector
from pipert_shm.video.formats import format_of, luma, planes, to_bgr, to_gray
from pipert_shm.video.image import Convert, Crop, CvtColor, Resize
from pipert_shm.video.models.centerface import CenterFaceHead
from pipert_shm.video.models.choosing import UnknownModel, head_for
from pipert_shm.video.models.classification import ClassificationHead
from pipert_shm.video.models.description import ModelDescription, TensorInfo, describe_model
from pipert_shm.video.models.detr import DetrHead, RtDetrHead
from pipert_shm.video.models.dnn import DnnDetector
from pipert_shm.video.models.head import Head
from pipert_shm.video.models.preprocessing import Placement, Preprocessing
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

__all__ = [
    "Annotator",
    "CenterFaceHead",
    "ClassificationHead",
    "Convert",
    "Crop",
    "CvtColor",
    "DetectedFrame",
    "Detections",
    "Detector",
    "DetrHead",
    "Display",
    "DnnDetector",
    "HaarDetector",
    "Head",
    "HogPeopleDetector",
    "JsonLinesWriter",
    "MjpegServer",
    "ModelDescription",
    "MotionDetector",
    "Placement",
    "Preprocessing",
    "Recorder",
    "Replay",
    "RerunWriter",
    "Resize",
    "RtDetrHead",
    "SnapshotWriter",
    "SqliteWriter",
    "TensorInfo",
    "ToMain",
    "TorchDetector",
    "TorchvisionHead",
    "Tracker",
    "TwinFrame",
    "TwinSource",
    "UnknownModel",
    "UntrustedRecording",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "VideoWriter",
    "YoloHead",
    "YoloObbHead",
    "YoloPoseHead",
    "YoloSegmentHead",
    "default_clip",
    "describe_model",
    "format_of",
    "head_for",
    "luma",
    "open_video",
    "packaged_clip",
    "planes",
    "to_bgr",
    "to_gray",
    "video_sources",
]
