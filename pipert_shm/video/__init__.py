"""Routines for video: a source that decodes into shared memory, a motion detector, and a writer of what was detected.

Importing this package loads OpenCV.
"""

from pipert_shm.video.capture import VideoInfo, open_video
from pipert_shm.video.detection import DetectedFrame, MotionDetector
from pipert_shm.video.opencv import VideoError
from pipert_shm.video.output import DetectionWriter
from pipert_shm.video.source import VideoSource, video_sources

__all__ = [
    "DetectedFrame",
    "DetectionWriter",
    "MotionDetector",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "open_video",
    "video_sources",
]
