"""The sink that sends messages to a topic of Kafka."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.sinks.courier import Undelivered
from pipert_shm.sinks.letter import Letter, encoded
from pipert_shm.sinks.sender import MOST_TRIES
from pipert_shm.sinks.settings import check_secret, read_secret
from pipert_shm.sinks.sink import Sink
from pipert_shm.sinks.template import Template

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

BATCH = 500
PATIENCE = 10.0  # seconds in which no message arrives, after which the attempt counts as failed
_OWN = {
    "enable.idempotence": "a message that the client sends again is no second one",
    "acks": "a message has arrived when all replicas have it",
    "message.timeout.ms": "a message is sent until it arrives",
}


class KafkaSink(Sink):
    """Sends messages to a topic of Kafka (the extra `kafka`).

    A message's key is the camera, so that the messages of a camera stay in order in one partition. Its value is the JSON, and
    its headers are `key` and `kind`. All replicas that are in sync must have a message before it counts as sent, and what the
    client sends again within one connection is not doubled (`acks=all`, an idempotent producer).

    A message that is too large for the broker, or that it can't read, counts as refused, with no second try.

    :param servers: `host:9092`, several with commas between.
    :param topic: its name, in which `{camera}`, `{kind}`, `{phase}`, `{rule}`, `{zone}` and `{label}` stand for the message's
        own. A `_` stands for each character that topics can't have, and a check sum follows then.
    :param config: more settings of librdkafka, such as `security.protocol`; each value may stand elsewhere, as `{"env": NAME}`
        or `{"file": PATH}`.
    :param spool, tries, grace: see `Sink`.
    :raises TypeError, ValueError: when one of these is out of range.
    """

    def __init__(
        self,
        servers: str,
        name: str | None = None,
        *,
        topic: str = "pipert",
        config: Mapping[str, Any] | None = None,
        spool: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        tries: int = MOST_TRIES,
        grace: float = 2.0,
    ) -> None:
        super().__init__(name, spool=spool, tries=tries, grace=grace)
        if not isinstance(servers, str) or not servers.strip():
            raise TypeError(f"servers is a text such as broker-1:9092,broker-2:9092, not {shown(servers)}")
        for key, value in (config or {}).items():
            if key in _OWN:
                raise ValueError(f"config: {key} can't be set, since {_OWN[key]}")
            if isinstance(value, Mapping):
                check_secret(f"config: {key}", value)
        self._servers = servers
        self._topic = Template("topic", topic, r"[^A-Za-z0-9._-]")
        self._config = dict(config or {})

    def setup(self) -> None:
        """Reads the secrets, and opens the spool.

        :raises ImportError: when confluent-kafka is not installed.
        :raises OSError, ValueError: when a secret can't be read.
        :raises ValueError: when librdkafka does not take a setting.
        :raises SinkError: when another process uses the spool.
        """
        try:
            import confluent_kafka
        except ImportError as error:
            raise ImportError(f"confluent-kafka is not installed ({error}): {to_install('kafka')}") from error
        given = {
            key: read_secret(f"config: {key}", value) if isinstance(value, Mapping) else value
            for key, value in self._config.items()
        }
        self._client_settings = {
            "bootstrap.servers": self._servers,
            "client.id": f"pipert_shm-{self.name}",
            "linger.ms": 5,
            "log_level": 2,  # what goes wrong is told by the sender
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 1_000,
            **given,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": 0,  # which is never
        }
        try:
            confluent_kafka.Producer(self._client_settings, logger=self._logger)
        except confluent_kafka.KafkaException as error:
            raise ValueError(f"config: {error.args[0].str()}") from None
        super().setup()

    def connect(self) -> KafkaCourier:
        """Makes a producer; it connects by itself."""
        return KafkaCourier(self._client_settings, self._logger, self._topic, self.is_over)


class KafkaCourier:
    """A producer.

    :param is_over: whether it shall give up.
    """

    most = BATCH

    def __init__(
        self, settings: Mapping[str, Any], logger: logging.Logger, topic: Template, is_over: Callable[[], bool]
    ) -> None:
        from confluent_kafka import KafkaError, Producer

        self._producer = Producer({**settings, "error_cb": self._note}, logger=logger)
        self._refusals = (
            KafkaError.MSG_SIZE_TOO_LARGE,
            KafkaError.RECORD_LIST_TOO_LARGE,
            KafkaError.INVALID_MSG,
            KafkaError.INVALID_RECORD,
        )
        self._topic = topic
        self._is_over = is_over
        self._trouble = "no broker answers"

    def _note(self, error: KafkaError) -> None:
        self._trouble = error.str()

    def deliver(self, letters: Sequence[Letter]) -> dict[int, str]:
        """Sends them, and waits until each has arrived or is refused."""
        reports: dict[int, KafkaError | None] = {}
        for place, letter in enumerate(letters):
            self._produce(letter, place, reports)
        self._wait(reports, len(letters))
        refused: dict[int, str] = {}
        for place in range(len(letters)):
            if place not in reports:
                raise Undelivered(f"Kafka: {self._trouble}", arrived=0 if refused else place)
            error = reports[place]
            if error is not None and error.code() not in self._refusals:
                raise Undelivered(f"Kafka: {error.str()}", arrived=0 if refused else place)
            if error is not None:
                refused[place] = f"Kafka does not take the message: {error.str()}"
        return refused

    def _produce(self, letter: Letter, place: int, reports: dict[int, KafkaError | None]) -> None:
        from confluent_kafka import KafkaException

        def report(error: KafkaError | None, message: Message) -> None:
            reports[place] = error

        headers: list[tuple[str, str | bytes | None]] = [("key", encoded(letter.key)), ("kind", encoded(letter.kind))]
        while True:
            try:
                self._producer.produce(
                    self._topic.of(letter),
                    letter.to_json(),
                    encoded(letter.camera),
                    headers=headers,
                    on_delivery=report,
                )
                return
            except BufferError:  # the client's queue is full
                self._producer.poll(0.1)
                if self._is_over():
                    return
            except KafkaException as error:
                reports[place] = error.args[0]
                return

    def _wait(self, reports: Mapping[int, object], count: int) -> None:
        last, since = len(reports), time.monotonic()
        while len(reports) < count and time.monotonic() - since < PATIENCE and not self._is_over():
            self._producer.poll(0.2)
            if len(reports) > last:
                last, since = len(reports), time.monotonic()

    def close(self) -> None:
        """Forgets what has not arrived; the spool has it."""
        self._producer.purge()
        self._producer.poll(0)
