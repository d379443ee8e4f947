"""The sink that sends messages as log records of OpenTelemetry."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.limits import check_seconds
from pipert_shm.sinks.address import Address
from pipert_shm.sinks.courier import LetterRefused, Undelivered
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.sender import MOST_TRIES
from pipert_shm.sinks.settings import Secret, check_secret, read_headers
from pipert_shm.sinks.sink import Sink
from pipert_shm.sinks.webhook import MOST_READ, asked_pause

if TYPE_CHECKING:
    import requests
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

BATCH = 100
INFO = 9  # the number of this severity
REFUSALS = (400, 413)  # as the protocol has it: not to be sent again
TOLD = ("phase", "rule", "zone", "label", "track_id", "score", "count", "sequence")
LIBRARY = "pipert_shm"


class OtelLogsSink(Sink):
    """Sends messages as log records to a collector of OpenTelemetry, by OTLP over HTTP (the extra `telemetry`).

    A record's body is the whole message. Its time is that of the frame. Its attributes are `event.name`, such as
    `pipert.enter`, and `pipert.key`, `pipert.camera`, `pipert.kind`, and what the message has of `phase`, `rule`, `zone`,
    `label`, `track_id`, `score`, `count` and `sequence`, each after `pipert.`. The resource is that of the environment
    (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`).

    A record counts as sent when the collector has said that it has it. The SDK's own batch processor would forget records when
    its queue is full, and when an export fails.

    :param endpoint: of the collector, with its path: `http://collector:4318/v1/logs`.
    :param headers: such as `Authorization`; each value is a text, `{"env": NAME}` or `{"file": PATH}`.
    :param timeout: seconds for the collector to answer.
    :param spool, tries, grace: see `Sink`.
    :raises TypeError, ValueError: when one of these is out of range.
    """

    def __init__(
        self,
        endpoint: str,
        name: str | None = None,
        *,
        headers: Mapping[str, Secret] | None = None,
        timeout: float = 10.0,
        spool: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        tries: int = MOST_TRIES,
        grace: float = 2.0,
    ) -> None:
        super().__init__(name, spool=spool, tries=tries, grace=grace)
        self._address = Address.of(endpoint, ("http", "https"), "http://collector:4318/v1/logs")
        check_seconds("timeout", timeout, positive=True)
        for header, value in (headers or {}).items():
            check_secret(f"headers: {header}", value)
        self._endpoint = endpoint
        self._headers = dict(headers or {})
        self._timeout = timeout

    def setup(self) -> None:
        """Reads the secrets, and opens the spool.

        :raises ImportError: when OpenTelemetry is not installed.
        :raises OSError, ValueError: when a secret can't be read.
        :raises SinkError: when another process uses the spool.
        """
        try:
            import opentelemetry.proto.collector.logs.v1.logs_service_pb2  # noqa: F401 - connect() needs both
            import requests  # noqa: F401
        except ModuleNotFoundError as error:
            raise ImportError(f"OpenTelemetry is not installed ({error}): {to_install('telemetry')}") from error
        self._sent_headers = read_headers(self._headers)
        super().setup()

    def connect(self) -> OtelCourier:
        """Makes a client; it connects with the first records."""
        import requests

        session = requests.Session()
        session.headers.update({**self._sent_headers, "Content-Type": "application/x-protobuf"})
        return OtelCourier(session, self._endpoint, self._address.place, self._timeout)


class OtelCourier:
    """A client of the collector.

    :param place: what errors call it.
    """

    most = BATCH

    def __init__(self, session: requests.Session, endpoint: str, place: str, timeout: float) -> None:
        self._session = session
        self._endpoint = endpoint
        self._place = place
        self._timeout = timeout
        self._resource = _resource()

    def deliver(self, letters: Sequence[Letter]) -> None:
        """Exports them in one request, and reads the answer."""
        import requests
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        try:
            with self._session.post(
                self._endpoint, data=self._request(letters), timeout=self._timeout, allow_redirects=False, stream=True
            ) as answer:
                said = self._beginning(answer)
        except requests.RequestException as error:
            cause = (
                getattr(error.args[0], "reason", error) if error.args else error
            )  # without the address, which may tell secrets
            raise Undelivered(f"{self._place} does not answer: {type(error).__name__}: {cause}") from error
        if answer.status_code != 200:
            why = f"{self._place} answers {answer.status_code} {answer.reason}: {shown(said[:200])}"
            if answer.status_code in REFUSALS:
                raise LetterRefused(why)
            raise Undelivered(why, wait=asked_pause(answer.headers.get("Retry-After")))
        try:
            partial = ExportLogsServiceResponse.FromString(said).partial_success
        except DecodeError:
            return  # a collector that answers in JSON, for example, or more than is read: it has them
        if partial.rejected_log_records:  # it does not say which: they are sent one by one
            raise LetterRefused(f"{self._place} has rejected {partial.rejected_log_records} records: {partial.error_message}")

    def _beginning(self, answer: requests.Response) -> bytes:
        """Reads what follows the status, which may be endless, slow, or break off."""
        import requests

        said, until = b"", time.monotonic() + self._timeout
        with suppress(requests.RequestException):
            for byte in answer.iter_content(1):  # larger pieces are waited for
                said += byte
                if len(said) > MOST_READ or time.monotonic() > until:
                    break
        return said

    def _request(self, letters: Sequence[Letter]) -> bytes:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
        from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs, ScopeLogs

        records = ScopeLogs(scope=InstrumentationScope(name=LIBRARY), log_records=[_record(letter) for letter in letters])
        whole = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=self._resource, scope_logs=[records])])
        return bytes(whole.SerializeToString())

    def close(self) -> None:
        """Closes the client's connections."""
        self._session.close()


def _resource() -> Resource:
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.sdk.resources import Resource as Known

    return Resource(attributes=[_pair(name, value) for name, value in Known.create().attributes.items()])


def _record(letter: Letter) -> LogRecord:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

    body = letter.body
    told = {"key": letter.key, "camera": letter.camera, "kind": letter.kind}
    told |= {name: body[name] for name in TOLD if isinstance(body.get(name), str | int | float)}
    return LogRecord(
        time_unix_nano=int(letter.captured * 1e9),
        observed_time_unix_nano=int(letter.time * 1e9),
        severity_number=INFO,  # type: ignore[arg-type]  # an enum, by its number
        severity_text="INFO",
        body=_value(body),
        attributes=[
            _pair("event.name", f"pipert.{letter.kind}"),
            *(_pair(f"pipert.{name}", value) for name, value in told.items()),
        ],
    )


def _pair(name: str, value: Any) -> KeyValue:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

    return KeyValue(key=_text(name), value=_value(value))


def _value(value: Any) -> AnyValue:
    """A value that JSON knows, or a tuple, as the protocol has it."""
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValueList

    if value is None:
        return AnyValue()
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, Mapping):
        return AnyValue(kvlist_value=KeyValueList(values=[_pair(name, item) for name, item in value.items()]))
    if isinstance(value, list | tuple):
        return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))
    return AnyValue(string_value=_text(str(value)))


def _text(text: str) -> str:
    """Without lone surrogates, which protobuf does not take."""
    return text.encode("utf-8", "backslashreplace").decode()
