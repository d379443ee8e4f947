"""A connection to an MQTT broker, over which letters are published."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipert_shm.sinks.courier import Refused, Undelivered
from pipert_shm.sinks.home_assistant import HomeAssistant, Publication
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.template import Template

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

BATCH = 50
PATIENCE = 10.0  # seconds in which nothing is acknowledged, after which the connection counts as broken
KEEP_ALIVE = 30  # seconds
# Reasons of MQTT 5 that are of this one message.
REFUSALS = (0x90, 0x95, 0x99)  # topic name invalid, packet too large, payload format invalid


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect; see `MqttSink`.

    Attributes:
        place: what errors call the broker.
        status: the topic of `online` and `offline`.
    """

    host: str
    port: int
    place: str
    is_version_5: bool
    client_id: str
    is_encrypted: bool
    ca: str | None
    certificate: str | None
    key: str | None
    status: str
    topic: Template


class MqttCourier:
    """A connection; the client has a thread for it.

    :param entities: what Home Assistant is told; None: nothing.
    :param is_over: whether it shall give up.
    :raises Undelivered: when the broker can't be reached, or lets nobody in.
    """

    most = BATCH

    def __init__(
        self,
        options: Options,
        user: str | None,
        password: str | None,
        entities: HomeAssistant | None,
        is_over: Callable[[], bool],
    ) -> None:
        self._options = options
        self._entities = entities
        self._is_over = is_over
        self._changed = threading.Condition()
        self._acknowledged: dict[int, int] = {}  # by the client's number of a publication: the broker's reason code
        self._broken = ""  # why
        self._is_connected = self._is_refused = self._is_closing = False
        self._largest: int | None = None  # bytes of a packet that the broker takes
        self._client = self._made(user, password)
        try:
            self._client.connect(options.host, options.port, KEEP_ALIVE)
            self._client.loop_start()
            self._await(lambda: self._is_connected)
            self._publish([Publication(options.status, b"online", True)])
            self._client.subscribe(options.status, 1)
        except (OSError, ValueError) as error:
            self.close()
            raise Undelivered(f"{options.place}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _made(self, user: str | None, password: str | None) -> Client:
        from paho.mqtt.client import Client, MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        options = self._options
        client = Client(
            CallbackAPIVersion.VERSION2,
            options.client_id,
            protocol=MQTTv5 if options.is_version_5 else MQTTv311,
            reconnect_on_failure=False,  # what was not acknowledged is sent from the spool, over a new connection
        )
        client.connect_timeout = PATIENCE
        if user is not None:
            client.username_pw_set(user, password)
        if options.is_encrypted:
            client.tls_set(options.ca, options.certificate, options.key)
        client.will_set(options.status, b"offline", 1, True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    # ---- what the client's thread calls ----------------------------------------------------------

    def _on_connect(
        self, client: Client, data: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._changed:
            if reason.is_failure:
                hint = "; try version='3.1.1'" if self._options.is_version_5 and "protocol version" in str(reason) else ""
                self._broken = f"the broker lets nobody in: {reason}{hint}"
            else:
                self._is_connected = True
                self._largest = getattr(properties, "MaximumPacketSize", None)
            self._changed.notify_all()

    def _on_disconnect(
        self, client: Client, data: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._changed:
            self._broken = self._broken or f"the connection is broken: {reason}"
            self._is_refused = reason.value in REFUSALS
            self._changed.notify_all()

    def _on_publish(self, client: Client, data: Any, number: int, reason: ReasonCode, properties: Properties) -> None:
        with self._changed:
            self._acknowledged[number] = reason.value
            self._changed.notify_all()

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        """The will of a connection that was lost before may come late: then it is not true any more."""
        if message.payload == b"offline" and not self._is_closing:
            client.publish(self._options.status, b"online", 1, True)

    # ---- what the sender's thread calls ----------------------------------------------------------

    def _await(self, condition: Callable[[], bool]) -> None:
        """Waits for an acknowledgement, or for the end.

        :raises Undelivered: when the connection breaks, or nothing comes in time.
        """
        until = time.monotonic() + PATIENCE
        with self._changed:
            while not condition():
                if self._broken:
                    raise Undelivered(f"{self._options.place}: {self._broken}")
                if time.monotonic() > until or self._is_over():
                    raise Undelivered(f"{self._options.place}: the broker does not answer")
                self._changed.wait(0.2)

    def _publish(self, publications: Sequence[Publication]) -> list[int]:
        numbers = []
        for topic, payload, retain in publications:
            numbers.append(self._client.publish(topic, payload, 1, retain).mid)
        return numbers

    def deliver(self, letters: Sequence[Letter]) -> dict[int, str]:
        """Publishes them, and waits until the broker has acknowledged all."""
        refused: dict[int, str] = {}
        self._acknowledged.clear()
        sent: list[list[int]] = []
        for place, letter in enumerate(letters):
            topic = self._options.topic.of(letter)
            publications = [Publication(topic, letter.to_json(), False)]
            if self._entities is not None:
                publications += self._entities.of(letter)
            if why := self._too_large(publications):
                refused[place] = why
                publications = []
            sent.append(self._publish(publications))
        for place, numbers in enumerate(sent):
            try:
                for number in numbers:
                    self._await(lambda number=number: number in self._acknowledged)  # type: ignore[misc]
            except Undelivered as error:
                if self._is_refused:
                    raise Refused(str(error)) from error
                error.arrived = 0 if refused else place
                raise
            self._judge(place, numbers, refused)
        return refused

    def _too_large(self, publications: Sequence[Publication]) -> str:
        size = max(
            len(publication.payload) + len(publication.topic.encode("utf-8", "replace")) + 16 for publication in publications
        )
        if self._largest is not None and size > self._largest:
            return f"it is larger than the broker takes, {self._largest:,} bytes"
        return ""

    def _judge(self, place: int, numbers: list[int], refused: dict[int, str]) -> None:
        """Looks at what the broker said of a letter that it has acknowledged."""
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.reasoncodes import ReasonCode

        for reason in (self._acknowledged[number] for number in numbers):
            if reason < 0x80:
                continue
            said = ReasonCode(PacketTypes.PUBACK, identifier=reason)
            why = f"{self._options.place}: the broker does not take the message: {said}"
            if reason not in REFUSALS:
                raise Undelivered(why, arrived=0 if refused else place)
            refused[place] = why

    def close(self) -> None:
        """Says `offline`, and ends the connection."""
        self._is_closing = True
        if self._is_connected and not self._broken:
            said = self._client.publish(self._options.status, b"offline", 1, True).mid
            with self._changed:
                self._changed.wait_for(lambda: said in self._acknowledged or self._broken, 1.0)
        self._client.disconnect()
        self._client.loop_stop()
        del self._client  # it and this one hold each other, and it closes its sockets when it dies
