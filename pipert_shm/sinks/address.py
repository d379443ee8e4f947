"""Addresses of servers, as sinks are given them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from pipert_shm.errors import shown


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a server's URL.

    Attributes:
        place: `scheme://host:port`, which may be told to anybody.
    """

    scheme: str
    host: str
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    place: str

    @classmethod
    def of(cls, url: object, schemes: Collection[str], example: str) -> Address:
        """Takes a URL apart.

        :param schemes: those that it may have.
        :raises TypeError: when it is no text.
        :raises ValueError: when it has another scheme, no host, or a port that is none.
        """
        if not isinstance(url, str):
            raise TypeError(f"a server's address is a text such as {example}, not {shown(url)}")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{shown(url)} is no address: {error}; write it as {example}") from None
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"{shown(url)} is no address of such a server; write it as {example}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        place = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
        user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
        return cls(parts.scheme, parts.hostname, port, user, password, place)
