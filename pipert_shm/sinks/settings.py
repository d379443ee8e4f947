"""What a sink's spool may take of the disk, and secrets that need not stand in a pipeline's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pipert_shm.errors import shown, suggestion
from pipert_shm.limits import check_choice, check_count, is_number

WhenFull: TypeAlias = Literal["drop_oldest", "drop_newest"]
LEAST_BYTES = 1 << 16
SEGMENTS = 8  # into so many files a full spool is divided
LARGEST_LETTER = 1 << 20  # bytes

Secret: TypeAlias = str | Mapping[str, str]
"""A secret, or where it stands: `{"env": "NAME"}` or `{"file": "/run/secrets/name"}`."""


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Where a sink keeps what it has not delivered, and how much of it.

    Attributes:
        path: a directory, which no other sink uses; it is made if it is missing.
        max_bytes: the most that its messages take of the disk.
        max_messages: the most that wait.
        max_age: seconds after which a message is dropped rather than delivered; None: never.
        when_full: whether the oldest messages make room, or the newest are dropped.
    """

    path: Path
    max_bytes: int = 64 << 20
    max_messages: int = 1_000_000
    max_age: float | None = None
    when_full: WhenFull = "drop_oldest"

    def __post_init__(self) -> None:
        check_count("spool: max_bytes", self.max_bytes, LEAST_BYTES)
        check_count("spool: max_messages", self.max_messages)
        if self.max_age is not None and not (is_number(self.max_age) and self.max_age > 0):
            raise ValueError(f"spool: max_age must be seconds, more than 0, or None: for ever, not {shown(self.max_age)}")
        check_choice("spool: when_full", self.when_full, get_args(WhenFull))

    @property
    def segment_bytes(self) -> int:
        """How large one of its files gets."""
        return self.max_bytes // SEGMENTS

    @property
    def largest(self) -> int:
        """Bytes of the largest message that it takes."""
        return min(LARGEST_LETTER, self.segment_bytes)

    @classmethod
    def of(cls, given: str | os.PathLike[str] | Mapping[str, Any] | None, name: str) -> SpoolSettings:
        """Makes them of a sink's parameter `spool`.

        :param given: a path, or a mapping of these settings, or None; without a path it is `spool/<name>`.
        :raises TypeError, ValueError: when one of them is unknown, or of a wrong type, or out of range.

        >>> SpoolSettings.of({"max_age": 3600}, "mqtt").path
        PosixPath('spool/mqtt')
        """
        values = dict(given) if isinstance(given, Mapping) else {} if given is None else {"path": given}
        known = list(cls.__dataclass_fields__)
        if unknown := [key for key in values if key not in known]:
            raise ValueError(
                f"spool: there is no setting {shown(unknown[0])}; there are: {', '.join(known)}{suggestion(unknown[0], known)}"
            )
        path = values.pop("path", Path("spool") / name)
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise TypeError(f"spool: path is the path of a directory, not {shown(path)}")
        return cls(Path(path), **values)


def check_secret(what: str, value: Secret | None) -> None:
    """:raises TypeError: when it is neither a text, nor says where one stands, nor None."""
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in ("env", "file"):
        keys = list(value) if isinstance(value, Mapping) else type(value).__name__
        raise TypeError(f"{what} is a text, {{env: NAME}} or {{file: PATH}}; this has {shown(keys)}")
    (place,) = value.values()
    if not isinstance(place, str) or not place:
        raise TypeError(f"{what}: {next(iter(value))} is a text, not {shown(place)}")


def read_headers(headers: Mapping[str, Secret]) -> dict[str, str]:
    """Returns headers of requests with their values, wherever these stand.

    :raises ValueError: when a variable is not set, or a value is none of a header: libraries would tell it in their errors.
    :raises OSError: when a file can't be read.
    """
    found = {header: (read_secret(f"headers: {header}", value) or "").rstrip("\r\n") for header, value in headers.items()}
    for header, value in found.items():
        if not (value.isascii() and value == value.strip() and (value.isprintable() or not value)):
            raise ValueError(f"headers: {header}: its value has a blank at an end, a line's end, or a character beyond ASCII")
    return found


def read_secret(what: str, value: Secret | None) -> str | None:
    """Returns the secret, read from where it stands; a line's end behind it is no part of it.

    :raises ValueError: when the variable is not set.
    :raises OSError: when the file can't be read.
    """
    if value is None or isinstance(value, str):
        return value
    if "file" in value:
        return Path(value["file"]).read_text().rstrip("\r\n")
    found = os.environ.get(value["env"])
    if found is None:
        raise ValueError(f"{what}: the environment variable {value['env']} is not set")
    return found
