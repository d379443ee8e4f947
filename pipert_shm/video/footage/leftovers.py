"""What a killed process has left: files that end with `.part`. Those with pictures are made whole, and get their name."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
from pathlib import Path

from pipert_shm.errors import describe
from pipert_shm.video.files import locked
from pipert_shm.video.footage.clip import description, write_whole
from pipert_shm.video.footage.packet_file import PART, PacketFile
from pipert_shm.video.footage.reading import mend
from pipert_shm.video.footage.shelf import ALL, CLIPS, segment_path, time_of_part
from pipert_shm.video.opencv import VideoError

KILLED = "the process that recorded it was killed"


def tidy(folder: Path, logger: logging.Logger) -> int:
    """Makes the files whole that a killed process has left, and removes what has no picture; returns how many are whole.

    :param folder: of a camera that nobody else records.
    """
    mended = 0
    told: list[Path] = []
    for part in sorted((*folder.glob(f"{CLIPS}/*/*{PART}"), *folder.glob(f"{ALL}/*/*/*{PART}"))):
        try:
            if part.name.endswith(f".json{PART}"):
                told.append(part)
            elif not _is_used(part):
                mended += _mend(folder, part, logger)
        except Exception as error:  # damaged files make libraries raise anything, and must not end what records
            logger.warning("%s, which a killed process has left, stays as it is: %s", part, describe(error))
    for part in told:
        try:
            _tell(part, logger)
        except Exception as error:  # likewise
            logger.warning("%s, which a killed process has left, stays as it is: %s", part, describe(error))
    return mended


def _is_used(part: Path) -> bool:
    """Whether another process writes it."""
    fd = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        return not locked(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def _mend(folder: Path, part: Path, logger: logging.Logger) -> int:
    if not re.search(r"\.mp4(-\d+)?\.part$", part.name) or not part.stat().st_size:
        part.unlink()
        return 0
    path = part.with_name(re.sub(r"\.mp4(-\d+)?\.part$", r"\1.mp4", part.name))
    target = part.with_name(f"{part.name}.mp4")
    try:
        file = mend(part, target)
    except VideoError as error:
        if isinstance(error.__cause__, OSError):
            raise  # too many open files, for example: it may be read another time
        file = None  # it has not even a beginning
    except BaseException:
        target.unlink(missing_ok=True)  # as far as it got: else each start would leave another one on a full disk
        raise
    if file is not None:
        _name(folder, file, path)
    part.unlink()
    if file is None:
        logger.info("%s, which a killed process has left, had no picture", part)
        return 0
    logger.info("%s is whole again up to %.1f s: the process that wrote it was killed", file.path, file.span.seconds)
    return 1


def _name(folder: Path, file: PacketFile, path: Path) -> None:
    """Gives a mended file the name that it would have got."""
    start = time_of_part(path) if path.parent.parent.parent.name == ALL else None
    wanted = path if start is None else segment_path(folder, start, file.span.seconds)
    if wanted.exists():
        return
    file.path = file.path.rename(wanted)


def _tell(part: Path, logger: logging.Logger) -> None:
    """Finishes the description of a clip.

    :raises ValueError: when it can't be read.
    """
    path = part.with_name(part.name.removesuffix(PART))
    if path.exists():
        part.unlink()
        return
    told = json.loads(part.read_bytes())
    files = []
    for each in told["files"]:
        clip = part.with_name(each["file"])
        if not clip.exists():
            continue
        if "start" not in each:
            seconds = _seconds_of(clip)
            each.update(start=each["key_frame"], end=each["key_frame"] + seconds, bytes=clip.stat().st_size)
        files.append(each)
    if files:
        cut = [*told["cut"], KILLED]
        write_whole(path, description(told["camera"], told["event"], files, told["thumbnail"], cut, told["wanted_from"]))
    else:
        path.with_suffix(".jpg").unlink(missing_ok=True)
        logger.info("nothing is left of the clip %s: the process that wrote it was killed", path.stem)
    part.unlink()


def _seconds_of(path: Path) -> float:
    import av

    with av.open(str(path.absolute())) as container:
        return (container.duration or 0) / av.time_base
