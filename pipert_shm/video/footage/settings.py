"""What a source is to keep: checked values of the option `footage=`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipert_shm.errors import shown
from pipert_shm.limits import is_number

LATEST = 15.0
"""Seconds: an event may come so long after the frame that it is about, and its clip still begins where it should."""

MEMORY_MB = 64.0
GB, MB, DAY_S = 1e9, 1e6, 86400.0

_DIRECTORY = "footage={'directory': '/var/lib/footage'}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept of one camera's clips, or of its continuous recording.

    Attributes:
        days: of how many days; None for no limit.
        gb: how many gigabytes (10⁹ bytes); None for no limit.
    """

    days: float | None = None
    gb: float | None = None


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """How clips are cut.

    Attributes:
        before: seconds before what happened.
        after: seconds after it.
        longest: seconds of a clip at most; what lasts longer is cut.
        kept: how many clips stay on the disk.
    """

    before: float = 5.0
    after: float = 5.0
    longest: float = 300.0
    kept: Limits = Limits()


@dataclass(frozen=True, slots=True)
class ContinuousSettings:
    """How everything is recorded.

    Attributes:
        segment: seconds of a file; it ends with the next key frame.
        kept: how much stays on the disk.
    """

    segment: float = 60.0
    kept: Limits = Limits()


@dataclass(frozen=True, slots=True)
class FootageSettings:
    """All that `footage=` says.

    Attributes:
        directory: where files go, in a folder for each camera.
        clips: None for no clips.
        continuous: None for no continuous recording.
        gb: gigabytes (10⁹ bytes) that all cameras may have in this directory; None for no limit.
        camera: whose footage it is, for a source that reads another stream of that camera; None: the source's own.
        memory_mb: megabytes of packets that are kept in memory at most.
    """

    directory: Path
    clips: ClipSettings | None = ClipSettings()
    continuous: ContinuousSettings | None = None
    gb: float | None = None
    camera: str | None = None
    memory_mb: float = MEMORY_MB

    @property
    def seconds(self) -> float:
        """How long packets are kept in memory."""
        return LATEST + (self.clips.before if self.clips is not None else 0.0)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FootageSettings:
        """Checks what was given.

        :raises TypeError, ValueError: when something is not what it should be; the error names the key.
        """
        values = _mapping("footage", given, ("directory", "clips", "continuous", "gb", "camera", "memory_mb"))
        directory = values.get("directory")
        if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
            raise ValueError(f"footage needs a directory, such as {_DIRECTORY}, not {shown(directory)}")
        camera = values.get("camera")
        if camera is not None and (not isinstance(camera, str) or not camera):
            raise TypeError(f"footage.camera must be the name of the camera's other routine, not {shown(camera)}")
        clips = continuous = None
        if (wanted := values.get("clips", True)) is not False:
            clips = _clips({} if wanted is True else wanted)
        if (wanted := values.get("continuous", False)) is not False:
            continuous = _continuous({} if wanted is True else wanted)
        if clips is None and continuous is None:
            raise ValueError("footage keeps nothing with clips=False and without continuous: leave it away")
        return cls(
            Path(os.fspath(directory)),
            clips,
            continuous,
            _number("footage.gb", values.get("gb"), 0.001, 1e6) if values.get("gb") is not None else None,
            camera,
            _number("footage.memory_mb", values.get("memory_mb", MEMORY_MB), 1, 1e5),
        )


def _clips(given: object) -> ClipSettings:
    values = _mapping("footage.clips", given, ("before", "after", "longest", "days", "gb"))
    usual = ClipSettings()
    before = _number("footage.clips.before", values.get("before", usual.before), 0, 600)
    after = _number("footage.clips.after", values.get("after", usual.after), 0, 600)
    longest = _number("footage.clips.longest", values.get("longest", max(usual.longest, before + after)), 1, 3600)
    if longest < before + after:
        raise ValueError(f"footage.clips.longest is {longest:g} s, less than before and after, which are {before + after:g} s")
    return ClipSettings(before, after, longest, _limits("footage.clips", values))


def _continuous(given: object) -> ContinuousSettings:
    values = _mapping("footage.continuous", given, ("segment", "days", "gb"))
    segment = _number("footage.continuous.segment", values.get("segment", ContinuousSettings().segment), 1, 3600)
    return ContinuousSettings(segment, _limits("footage.continuous", values))


def _limits(where: str, values: Mapping[str, Any]) -> Limits:
    days, gb = values.get("days"), values.get("gb")
    return Limits(
        None if days is None else _number(f"{where}.days", days, 0.001, 36500),
        None if gb is None else _number(f"{where}.gb", gb, 0.001, 1e6),
    )


def _mapping(where: str, given: object, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{where} must be a dict, such as {_DIRECTORY if where == 'footage' else '{}'}, not {shown(given)}")
    unknown = [key for key in given if key not in keys]
    if unknown:
        raise ValueError(f"{where} has no key {shown(unknown[0])}: there are {', '.join(keys)}")
    return given


def _number(where: str, value: Any, least: float, most: float) -> float:
    if not is_number(value) or not least <= value <= most:
        raise ValueError(f"{where} must be a number from {least:g} to {most:g}, not {shown(value)}")
    return float(value)
