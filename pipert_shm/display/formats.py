"""The names of the formats of frames. `pipert_shm/video/formats.py` says how the pixels lie in each."""

from __future__ import annotations

from typing import Literal, get_args

Format = Literal["bgr", "rgb", "gray", "i420", "nv12"]
FORMATS: tuple[Format, ...] = get_args(Format)

PLANAR: tuple[Format, ...] = ("i420", "nv12")
"""Those whose arrays have half as many rows more than the picture."""
