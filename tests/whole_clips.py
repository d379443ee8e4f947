"""Detectors over whole clips, through a pipe and in one loop: what they find must be the same, frame by frame, to the last bit.

Motion is looked for in frames of each format, too, and in small pictures of them.

python tests/whole_clips.py        # some minutes: the suite does the same with parts of the clips
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import test_formats_detected as formats
from media import bikes, frames_of, vtest
from pipert_shm.data import FORMATS, Format
from pipert_shm.video import Detector, HogPeopleDetector, MotionDetector
from test_detection import digest, in_a_pipe, in_one_loop


def compare(clip: Path, detector: type[Detector]) -> None:
    """:raises SystemExit: when a frame, or what was found in it, differs."""
    frames = sum(1 for _ in frames_of(clip))
    with tempfile.TemporaryDirectory() as directory:
        piped = in_a_pipe(clip, detector(), frames=frames, directory=Path(directory), make=digest)
    looped = in_one_loop(clip, detector(), frames=frames, make=digest)
    differing = [number for number, (one, other) in enumerate(zip(piped, looped, strict=True)) if one != other]
    if differing:
        raise SystemExit(f"{detector.__name__} on {clip.name}: frames {differing} differ")
    print(
        f"{detector.__name__} on {clip.name}: {frames} frames, {sum(len(boxes) for _, boxes, *_ in piped)} finds, all the same"
    )


def compare_format(clip: Path, half: tuple[int, int], format: Format) -> None:
    """:raises SystemExit: when what is found in a frame differs."""
    frames = sum(1 for _ in frames_of(clip))
    for size in (None, half):
        with tempfile.TemporaryDirectory() as directory:
            piped = formats.in_a_pipe(Path(directory, "got"), clip, frames, format, MotionDetector(size=size))
        looped = formats.motion(clip, frames, format, size)
        differing = [number for number, (one, other) in enumerate(zip(piped, looped, strict=True)) if one[0] != other]
        if differing:
            raise SystemExit(f"MotionDetector(size={size}) on {clip.name} in {format}: frames {differing} differ")
        print(
            f"MotionDetector(size={size}) on {clip.name} in {format}: {sum(map(len, looped))} finds, all the same", flush=True
        )


if __name__ == "__main__":
    for clip, half in ((bikes(), (320, 136)), (vtest(), (384, 288))):
        for format in FORMATS:
            compare_format(clip, half, format)
        for detector in (MotionDetector, HogPeopleDetector):
            compare(clip, detector)
