"""The sink that publishes messages by MQTT, and makes entities of Home Assistant of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, Literal

from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.limits import check_choice
from pipert_shm.sinks.address import Address
from pipert_shm.sinks.home_assistant import HomeAssistant
from pipert_shm.sinks.mqtt_courier import MqttCourier, Options
from pipert_shm.sinks.sender import MOST_TRIES
from pipert_shm.sinks.settings import Secret, check_secret, read_secret
from pipert_shm.sinks.sink import Sink
from pipert_shm.sinks.template import Template

FORBIDDEN = r"[+#/\0]"  # in a level of a topic
PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttSink(Sink):
    """Publishes messages to an MQTT broker (the extra `mqtt`), with quality of service 1.

    A message goes to the topic `<base>/<camera>/<kind>`, or another one. `<base>/status` is `online` while the sink is
    connected, and else `offline`: the broker says so by itself when the connection breaks (a last will). Both are retained.

    With `home_assistant`, Home Assistant finds a device for each camera, by MQTT discovery: for each rule that has told of
    something a binary sensor that is on from the start of it until its end, or an event entity for what happens in a moment;
    and a sensor for the number of objects if the rule counts. The state of a rule is retained at
    `<base>/<camera>/rules/<rule>`. Give each pipe its own `base` if several use one broker.

    A message that the broker finds too large, or that it can't read, counts as refused.

    :param url: `mqtt://host:1883`, or `mqtts://host:8883` for TLS. It may have a user.
    :param user: instead of one in the address.
    :param password: a text, `{"env": NAME}` or `{"file": PATH}`.
    :param base: what all topics begin with.
    :param topic: of messages, by default `<base>/{camera}/{kind}`; `{phase}`, `{rule}`, `{zone}` and `{label}` stand for the
        message's own, too. A `_` stands for each character that a level of a topic can't have, and a check sum follows then, so
        that the cameras `a/b` and `a_b` have a topic each.
    :param home_assistant: its discovery prefix, which is `homeassistant` unless you have changed it; None: no discovery.
    :param version: of the protocol.
    :param client_id: by which the broker knows this sink: no two clients may have the same. By default it is made of the
        host's name and the sink's.
    :param ca: file of the authority's certificate, for TLS; by default those that the system knows.
    :param certificate, key: files of a certificate of one's own, if the broker asks for one.
    :param spool, tries, grace: see `Sink`.
    :raises TypeError, ValueError: when one of these is out of range.
    """

    # longer than 40 lines: its parameters
    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        user: str | None = None,
        password: Secret | None = None,
        base: str = "pipert",
        topic: str | None = None,
        home_assistant: str | None = None,
        version: Literal["3.1.1", "5"] = "5",
        client_id: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        spool: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        tries: int = MOST_TRIES,
        grace: float = 2.0,
    ) -> None:
        super().__init__(name, spool=spool, tries=tries, grace=grace)
        self._address = Address.of(url, PORTS, "mqtt://broker.example:1883")
        check_secret("password", password)
        check_choice("version", version, ("3.1.1", "5"))
        if self._address.scheme == "mqtt" and (ca or certificate or key):
            raise ValueError("ca, certificate and key are for TLS: write the address as mqtts://…")
        if bool(certificate) != bool(key):
            raise ValueError("certificate and key belong together: give both, or none")
        _check_levels("base", base)
        if home_assistant is not None:
            _check_levels("home_assistant", home_assistant)
        template = Template("topic", topic or f"{base.replace('{', '{{').replace('}', '}}')}/{{camera}}/{{kind}}", FORBIDDEN)
        self._user = user if user is not None else self._address.user
        self._password = password if password is not None else self._address.password
        if self._password is not None and self._user is None:
            raise ValueError("a password needs a user")
        self._options = Options(
            host=self._address.host,
            port=self._address.port or PORTS[self._address.scheme],
            place=self._address.place,
            is_version_5=version == "5",
            client_id=client_id if client_id is not None else f"pipert-{socket.gethostname()}-{self.name}",
            is_encrypted=self._address.scheme == "mqtts",
            ca=None if ca is None else os.fspath(ca),
            certificate=None if certificate is None else os.fspath(certificate),
            key=None if key is None else os.fspath(key),
            status=f"{base}/status",
            topic=template,
        )
        self._base = base
        self._prefix = home_assistant

    def setup(self) -> None:
        """Reads the password, and opens the spool.

        :raises ImportError: when paho-mqtt is not installed.
        :raises OSError, ValueError: when the password can't be read.
        :raises SinkError: when another process uses the spool.
        """
        try:
            import paho.mqtt.client  # noqa: F401 - connect() needs it
        except ModuleNotFoundError as error:
            raise ImportError(f"paho-mqtt is not installed ({error}): {to_install('mqtt')}") from error
        self._given_password = read_secret("password", self._password)
        self._entities = None if self._prefix is None else HomeAssistant(self._prefix, self._base)
        super().setup()

    def connect(self) -> MqttCourier:
        """Connects, and says `online`."""
        if self._entities is not None:
            self._entities.forget()  # the broker may have lost what it retained
        return MqttCourier(self._options, self._user, self._given_password, self._entities, self.is_over)


def _check_levels(what: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip("/") or text[0] in "/$" or text[-1] == "/" or set("+#\0") & set(text):
        raise ValueError(f"{what} is the beginning of a topic such as house/cameras, without +, # and $, not {shown(text)}")
