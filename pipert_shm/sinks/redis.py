"""The sink that adds messages to streams of a Redis server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipert_shm.extras import to_install
from pipert_shm.limits import check_count
from pipert_shm.sinks.address import Address
from pipert_shm.sinks.courier import Undelivered
from pipert_shm.sinks.letter import Letter, encoded
from pipert_shm.sinks.sender import MOST_TRIES
from pipert_shm.sinks.settings import Secret, check_secret, read_secret
from pipert_shm.sinks.sink import Sink
from pipert_shm.sinks.template import Template

if TYPE_CHECKING:
    import redis

BATCH = 100
PATIENCE = 10.0  # seconds that the server may take


class RedisSink(Sink):
    """Adds messages to a stream of a Redis server (the extra `redis`).

    An entry has the fields `key`, `camera`, `kind` and `json`. A stream keeps about `length` entries, the newest ones. Those
    that are sent together are added together, or not at all. Where something else than a stream has the stream's name, the
    message counts as refused.

    :param url: `redis://host:6379/0`; `rediss://` for TLS. It may have a user.
    :param password: a text, `{"env": NAME}` or `{"file": PATH}`.
    :param stream: its name, in which `{camera}`, `{kind}`, `{phase}`, `{rule}`, `{zone}` and `{label}` stand for the message's
        own.
    :param length: how many entries a stream keeps, at least.
    :param spool, tries, grace: see `Sink`.
    :raises TypeError, ValueError: when one of these is out of range.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        password: Secret | None = None,
        stream: str = "pipert:{camera}",
        length: int = 100_000,
        spool: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        tries: int = MOST_TRIES,
        grace: float = 2.0,
    ) -> None:
        super().__init__(name, spool=spool, tries=tries, grace=grace)
        self._address = Address.of(url, ("redis", "rediss"), "redis://localhost:6379/0")
        check_secret("password", password)
        check_count("length", length)
        self._stream = Template("stream", stream)
        self._url = url
        self._password = password
        self._length = length

    def setup(self) -> None:
        """Reads the password, and opens the spool.

        :raises ImportError: when redis is not installed.
        :raises OSError, ValueError: when the password can't be read.
        :raises SinkError: when another process uses the spool.
        """
        try:
            import redis  # noqa: F401 - connect() needs it
        except ModuleNotFoundError as error:
            raise ImportError(f"redis is not installed ({error}): {to_install('redis')}") from error
        self._given_password = read_secret("password", self._password)
        super().setup()

    def connect(self) -> RedisCourier:
        """Makes a client; it connects with the first entries."""
        import redis

        more = {} if self._given_password is None else {"password": self._given_password}
        client = redis.Redis.from_url(self._url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, **more)
        return RedisCourier(client, self._address.place, self._stream, self._length)


class RedisCourier:
    """A client of the server.

    :param place: what errors call the server.
    """

    most = BATCH

    def __init__(self, client: redis.Redis, place: str, stream: Template, length: int) -> None:
        self._client = client
        self._place = place
        self._stream = stream
        self._length = length

    def deliver(self, letters: Sequence[Letter]) -> dict[int, str]:
        """Adds them in one transaction. One whose stream is something else there is refused: the server adds the others."""
        import redis

        try:
            with self._client.pipeline(transaction=True) as pipeline:
                for letter in letters:
                    texts = {"key": letter.key, "camera": letter.camera, "kind": letter.kind}
                    fields: Any = {name: encoded(text) for name, text in texts.items()} | {"json": letter.to_json()}
                    pipeline.xadd(encoded(self._stream.of(letter)), fields, maxlen=self._length, approximate=True)
                answers = pipeline.execute(raise_on_error=False)
        except redis.RedisError as error:
            raise Undelivered(f"{self._place}: {type(error).__name__}: {error}") from error
        return {
            place: f"{self._place}: {answer}" for place, answer in enumerate(answers) if isinstance(answer, redis.RedisError)
        }

    def close(self) -> None:
        """Closes the client's connections."""
        self._client.close()
