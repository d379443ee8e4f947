"""Finds hardware that decodes, or says that the CPU does it."""

from __future__ import annotations

import logging

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

AUTO = "auto"


def accelerator(kind: str | None, name: str, logger: logging.Logger) -> HWAccel | None:
    """What PyAV is to decode with; None for the CPU.

    A device that was asked for and is not there is warned of: PyAV itself raises an error for some, and silently decodes by the
    CPU for others.

    :param kind: FFmpeg's name of a kind of device, such as `cuda` or `vaapi`; `auto` for the first there is; None for none.
    :param name: of the video, for the log.
    """
    if kind is None:
        return None
    known = hwdevices_available()
    for each in known if kind == AUTO else [kind]:
        if each in known and (why := _why_not(each)) is None:
            logger.info("%r is decoded by %s", name, each)
            return HWAccel(each, allow_software_fallback=True)
    if kind == AUTO:
        logger.info("%r is decoded by the CPU: none of %s is there", name, ", ".join(known))
    else:
        why = why if kind in known else f"this PyAV knows {', '.join(known) or 'none'} only"
        logger.warning("%r is decoded by the CPU, since hwaccel=%r can't be used: %s", name, kind, why)
    return None


def _why_not(kind: str) -> str | None:
    """Why a kind of device can't be used; None if it can."""
    try:
        context = av.CodecContext.create("h264", "r", HWAccel(kind, allow_software_fallback=True))
        context.open()
    except av.error.FFmpegError as error:
        return f"there is no such device, or this user may not use it ({error.strerror})"
    return None if context.is_hwaccel else "there is no such device"
