"""What is special of each sink, on its real server: signatures, entities of Home Assistant, what is refused, who gets in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import KafkaSink, Letter, MqttSink, OtelLogsSink, PostgresSink, RedisSink, Sink, WebhookSink
from pipert_shm.analytics.event import DetectionEvent
from pipert_shm.sinks import sender
from pipert_shm.sinks.home_assistant import HomeAssistant
from sink_servers import Program, Subscriber, consumed, kafka, mosquitto, needed, redis_server, requests_of, web_server
from waiting import eventually

SECRET = "Xy7kQ2pW"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.05)


@pytest.fixture
def running() -> Iterator[list[Sink | Program | Subscriber]]:
    """Sinks and servers that are ended after the test, the last one first."""
    started: list[Sink | Program | Subscriber] = []
    yield started
    for one in reversed(started):
        if isinstance(one, Sink):
            one.cleanup()
        elif isinstance(one, Program):
            one.kill()
        else:
            one.close()


@pytest.fixture(scope="module")
def _web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    server, port, file = web_server(tmp_path_factory.mktemp("web"))
    yield port, file
    server.kill()


@pytest.fixture
def web(_web: tuple[int, Path]) -> tuple[int, Path]:
    """The port of a web server, and the file that tells what it has got in this test."""
    for file in _web[1].parent.iterdir():
        file.unlink()
    return _web


def event(id: str, phase: str = "start", **more: Any) -> DetectionEvent:
    given: dict[str, Any] = {"rule": "gate", "kind": "enter", "camera": "yard", "sequence": 7, "time": 2.0, "started": 1.0}
    return DetectionEvent(**{"id": id, "phase": phase, **given, **more})


def begin(sink: Sink, running: list[Any]) -> None:
    sink.setup()
    running.append(sink)


def is_empty(sink: Sink, accepted: int) -> bool:
    return sink.counters["accepted"] == accepted and sink.counters["waiting"] == 0


# ---- webhooks ------------------------------------------------------------------------------------


def test_a_webhook_is_signed_and_what_the_server_answers_decides(
    tmp_path: Path, web: tuple[int, Path], running: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("httpx")
    port, file = web
    file.with_name("answer.json").write_text(json.dumps({"poison": {"status": 422, "text": "what is this?"}}))
    url = f"http://127.0.0.1:{port}/hook?token={SECRET}"
    secret = "whsec_" + base64.b64encode(b"\x00\xffbytes").decode()
    sink = WebhookSink(url, "one", secret=secret, headers={"X-From": "me"}, spool=tmp_path / "one", tries=2)
    begin(sink, running)
    sink.main_logic([event("a"), event("poison"), event("ü.b", "instant")])
    eventually(lambda: is_empty(sink, 3))
    got = requests_of(file)
    assert [json.loads(request["body"])["id"] for request in got] == ["a", "ü.b"]
    assert [request["headers"]["idempotency-key"] for request in got] == ["a-start", "%C3%BC.b-instant"]
    for request in got:
        key, stamp = request["headers"]["webhook-id"], request["headers"]["webhook-timestamp"]
        signed = hmac.new(b"\x00\xffbytes", f"{key}.{stamp}.".encode() + request["body"], hashlib.sha256).digest()
        assert request["headers"]["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"
        assert request["headers"]["x-from"] == "me"
    assert (sink.counters["refused"], sink.counters["retried"]) == (1, 1)
    assert "answers 422" in json.loads((tmp_path / "one" / "refused.jsonl").read_text())["why"]

    # What may be put right is not given up, and the server says when it wants to be asked again.
    file.with_name("answer.json").write_text(json.dumps({"": {"status": 429, "headers": {"Retry-After": "1"}}}))
    sink.main_logic(event("later"))
    eventually(lambda: sink.counters["retried"] == 2)
    file.with_name("answer.json").write_text(json.dumps({"": {"status": 403}}))
    eventually(lambda: "answers 403" in caplog.text)
    file.with_name("answer.json").unlink()
    eventually(lambda: is_empty(sink, 4))
    *_, before, _, last = [json.loads(line) for line in file.read_text().splitlines()]
    assert (before["status"], last["status"]) == (429, 200)
    assert last["time"] - before["time"] > 1
    assert sink.counters["refused"] == 1
    assert SECRET not in caplog.text


def test_an_answer_that_is_huge_slow_or_broken_off_holds_up_nobody(tmp_path: Path, running: list[Any]) -> None:
    pytest.importorskip("httpx")
    pytest.importorskip("requests")
    ends = (b"x" * (20 << 20), b"drip", b"broken off")  # of the three answers
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        answering = threading.Thread(target=_answer_badly, args=(server, ends * 2))
        answering.start()
        for sink in (
            WebhookSink(f"http://127.0.0.1:{port}", "hook", timeout=0.5, spool=tmp_path / "hook"),
            OtelLogsSink(f"http://127.0.0.1:{port}/v1/logs", "otel", timeout=0.5, spool=tmp_path / "otel"),
        ):
            begin(sink, running)
            for count in range(1, len(ends) + 1):  # each in a request of its own
                sink.main_logic({"number": count})
                eventually(lambda sink=sink, count=count: is_empty(sink, count), timeout=5)  # type: ignore[misc]
            assert sink.counters["retried"] == 0, "the status has said that they have arrived"
        answering.join()


def _answer_badly(server: socket.socket, ends: Sequence[bytes]) -> None:
    """Says 200 to each request, on a connection of its own, and then sends something that ends never, or too early."""
    for end in ends:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + end)
            while end == b"drip":
                connection.sendall(b"x")
                time.sleep(0.05)


def test_a_webhook_may_take_lists(tmp_path: Path, web: tuple[int, Path], running: list[Any]) -> None:
    pytest.importorskip("httpx")
    port, file = web
    file.with_name("answer.json").write_text(json.dumps({"poison": {"status": 400}, "first": {"status": 503}}))
    sink = WebhookSink(f"http://127.0.0.1:{port}", "lists", batch=10, spool=tmp_path / "lists", tries=2)
    begin(sink, running)
    sink.main_logic(event("first"))
    sink.main_logic([event("a"), event("b"), event("poison"), event("c")])
    eventually(lambda: sink.counters["retried"] > 0)
    file.with_name("answer.json").write_text(json.dumps({"poison": {"status": 400}}))
    eventually(lambda: is_empty(sink, 5))
    assert [[told["id"] for told in json.loads(request["body"])] for request in requests_of(file)] == [
        ["first"],
        ["a"],
        ["b"],
        ["c"],
    ]
    assert sink.counters["refused"] == 1


# ---- OpenTelemetry -------------------------------------------------------------------------------


def test_a_record_that_the_collector_rejects_is_told_from_the_others(
    tmp_path: Path, web: tuple[int, Path], running: list[Any]
) -> None:
    logs = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    port, file = web
    partial = logs.ExportLogsServiceResponse()
    partial.partial_success.rejected_log_records = 1
    answer = {"status": 200, "text": partial.SerializeToString().decode()}
    file.with_name("answer.json").write_text(json.dumps({"poison": answer}))
    sink = OtelLogsSink(f"http://127.0.0.1:{port}/v1/logs", "otel", spool=tmp_path / "otel", tries=2)
    begin(sink, running)
    sink.main_logic([event("a"), event("poison"), {"deep": {"list": [1, None, True, "\ud800", 2.5]}}])
    eventually(lambda: is_empty(sink, 3))
    assert (sink.counters["sent"], sink.counters["refused"]) == (2, 1)
    (last,) = logs.ExportLogsServiceRequest.FromString(requests_of(file)[-1]["body"]).resource_logs
    assert "service.name" in [pair.key for pair in last.resource.attributes]
    (record,) = last.scope_logs[0].log_records
    (deep,) = record.body.kvlist_value.values
    values = deep.value.kvlist_value.values[0].value.array_value.values
    assert [value.WhichOneof("value") for value in values] == ["int_value", None, "bool_value", "string_value", "double_value"]


# ---- MQTT ----------------------------------------------------------------------------------------


def test_home_assistant_finds_what_rules_tell_and_knows_when_the_sink_is_gone(tmp_path: Path, running: list[Any]) -> None:
    pytest.importorskip("paho.mqtt")
    broker, port = mosquitto(tmp_path)
    running.append(broker)
    everything = Subscriber(port)
    running.append(everything)
    sink = MqttSink(f"mqtt://127.0.0.1:{port}", "mqtt", home_assistant="homeassistant", spool=tmp_path / "spool")
    begin(sink, running)
    counted, other = (
        event("n", rule="crowd", kind="count", count=count, camera=name) for name, count in (("Tür/1", 3), ("Tür_1", 4))
    )
    sink.main_logic(
        [event("a"), event("b"), event("a", "end"), counted, other, event("c", "instant", rule="fence", kind="line")]
    )
    eventually(lambda: is_empty(sink, 6))
    eventually(lambda: bool(everything.of("pipert/yard/rules/fence/event")))
    assert [told["id"] for told in everything.of("pipert/yard/enter")] == ["a", "b", "a"]
    assert [told["active"] for told in everything.of("pipert/yard/rules/gate")] == ["ON", "ON", "ON"]  # b has not ended
    sink.main_logic(event("b", "end"))
    eventually(lambda: is_empty(sink, 7))

    late = Subscriber(port, client="late")  # as Home Assistant that is started afterwards: it gets what is retained
    running.append(late)
    eventually(lambda: len(late.got) == 10)
    assert all(retained for _, _, retained in late.got)
    assert late.of("pipert/yard/rules/gate")[0]["active"] == "OFF"
    counts = {topic: json.loads(payload)["count"] for topic, payload, _ in late.got if topic.endswith("/rules/crowd")}
    assert counts == {"pipert/Tür_1-cb7b0c02/rules/crowd": 3, "pipert/Tür_1/rules/crowd": 4}
    assert [told["camera"] for told in everything.of("pipert/Tür_1/count")] == ["Tür_1"]
    (sensor,) = late.of("homeassistant/binary_sensor/pipert_yard/pipert_yard_gate/config")
    assert (sensor["state_topic"], sensor["availability_topic"]) == ("pipert/yard/rules/gate", "pipert/status")
    assert sensor["device"]["name"] == "yard"
    assert [sum(part in topic for topic, _, _ in late.got) for part in ("/sensor/", "/event/")] == [2, 1]

    def status() -> list[bytes]:
        return [payload for topic, payload, _ in late.got if topic == "pipert/status"]

    assert sink._sender is not None
    courier: Any = sink._sender._courier
    courier._client.socket().shutdown(2)  # as when its host has lost power, but the broker notices at once
    eventually(lambda: status() == [b"online", b"offline"])
    sink.main_logic(event("d"))
    eventually(lambda: is_empty(sink, 8))
    eventually(lambda: status()[-1] == b"online")
    sink.cleanup()
    eventually(lambda: status()[-1] == b"offline")


# paho-mqtt leaves the socket of a failed handshake to be closed when the error is let go of.
@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_a_broker_lets_in_who_has_the_password_and_the_certificate(
    tmp_path: Path, running: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("paho.mqtt")
    pytest.importorskip("cryptography")
    certificate(tmp_path)
    passwords = tmp_path / "passwords"
    subprocess.run([needed("mosquitto_passwd"), "-b", "-c", passwords, "me", SECRET], check=True, capture_output=True)
    more = [f"password_file {passwords}", f"certfile {tmp_path}/cert.pem", f"keyfile {tmp_path}/key.pem"]
    broker, port = mosquitto(tmp_path, *more)
    running.append(broker)
    url = f"mqtts://127.0.0.1:{port}"
    (tmp_path / "password").write_text(SECRET + "\n")
    wrong = MqttSink(
        url, "wrong", user="me", password=SECRET[:-1], ca=tmp_path / "cert.pem", spool=tmp_path / "w", version="3.1.1"
    )
    unknown = MqttSink(url, "unknown", user="me", password=SECRET, spool=tmp_path / "u")
    right = MqttSink(
        url, "right", user="me", password={"file": str(tmp_path / "password")}, ca=tmp_path / "cert.pem", spool=tmp_path / "r"
    )
    for sink in (wrong, unknown, right):
        begin(sink, running)
        sink.main_logic(event("a"))
    eventually(lambda: is_empty(right, 1))
    eventually(lambda: "the broker lets nobody in: Not authorized" in caplog.text)
    eventually(lambda: "certificate verify failed" in caplog.text)
    assert wrong.counters["sent"] == unknown.counters["sent"] == 0
    assert SECRET[:-1] not in caplog.text


def certificate(directory: Path) -> None:
    """Writes a certificate for 127.0.0.1 that signs itself, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    (directory / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(key.private_bytes(*form))


def test_a_binary_sensor_is_on_until_all_that_has_started_has_ended_and_forgets_the_oldest() -> None:
    entities = HomeAssistant("homeassistant", "pipert")

    def active(id: str, phase: str) -> str:
        told = event(id, phase)
        return str(json.loads(entities.of(Letter("k", "yard", "enter", told.to_dict()))[-1].payload)["active"])

    assert [active("a", "start"), active("b", "start"), active("a", "start")] == ["ON"] * 3
    assert [active("a", "end"), active("unknown", "end"), active("b", "end")] == ["ON", "ON", "OFF"]
    assert entities.of(Letter("k", "yard", "data", {"rule": 3})) == []
    for number in range(1100):
        entities.of(Letter("k", f"camera {number}", "enter", event("a").to_dict()))
    assert len(entities._rules) == 1000


# ---- Kafka, Redis --------------------------------------------------------------------------------


def test_kafka_keeps_a_cameras_order_by_its_key_and_what_is_too_large_is_refused(tmp_path: Path, running: list[Any]) -> None:
    pytest.importorskip("confluent_kafka")
    broker, address = kafka(tmp_path)
    running.append(broker)
    sink = KafkaSink(address, "kafka", topic="t-{camera}", config={"message.max.bytes": 2000}, spool=tmp_path / "spool")
    begin(sink, running)
    sink.main_logic([event("a"), {"camera": "yard", "text": "x" * 3000}, event("b", camera="yard")])
    eventually(lambda: is_empty(sink, 3))
    assert (sink.counters["sent"], sink.counters["refused"], sink.counters["retried"]) == (2, 1, 0)
    assert [told["id"] for told in consumed(address, lambda found: len(found) == 2, "t-yard")] == ["a", "b"]


def test_a_redis_stream_is_kept_short_and_a_wrong_password_is_not_told(
    tmp_path: Path, running: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    redis = pytest.importorskip("redis")
    server, port = redis_server(tmp_path, "--requirepass", SECRET)
    running.append(server)
    url = f"redis://127.0.0.1:{port}"
    sink = RedisSink(url, "redis", password=SECRET, stream="s:{camera}:{kind}", length=100, spool=tmp_path / "spool")
    wrong = RedisSink(url, "wrong", password=SECRET[:-1], spool=tmp_path / "wrong")
    for one in (sink, wrong):
        begin(one, running)
        one.main_logic([event(f"e{number}") for number in range(1000)])
    eventually(lambda: is_empty(sink, 1000))
    client = redis.Redis(port=port, password=SECRET)
    client.set("s:gate:enter", "not a stream")
    sink.main_logic([event("f"), event("g", camera="gate"), event("h", camera="lawn")])
    eventually(lambda: is_empty(sink, 1003))
    assert (sink.counters["refused"], client.xlen("s:lawn:enter")) == (1, 1)
    assert "WRONGTYPE" in (tmp_path / "spool" / "refused.jsonl").read_text()
    length, (_, newest) = client.xlen("s:yard:enter"), client.xrevrange("s:yard:enter", count=1)[0]
    client.close()
    assert 100 <= length < 400
    assert (newest[b"key"], newest[b"camera"], json.loads(newest[b"json"])["id"]) == (b"f-start", b"yard", "f")
    eventually(lambda: "AuthenticationError" in caplog.text)
    assert SECRET[:-1] not in caplog.text


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (
            lambda: MqttSink("http://broker"),
            "'http://broker' is no address of such a server; write it as mqtt://broker.example",
        ),
        (lambda: MqttSink("mqtt://broker:99999"), "is no address: Port out of range"),
        (lambda: MqttSink("mqtt://broker", topic="a/{camra}"), r"there is no \{camra\}; .*did you mean 'camera'\?"),
        (lambda: MqttSink("mqtt://broker", topic="a/{"), "is not whole"),
        (lambda: MqttSink("mqtt://broker", base="a/+"), "base is the beginning of a topic"),
        (lambda: MqttSink("mqtt://broker", ca="ca.pem"), "for TLS: write the address as mqtts://"),
        (lambda: MqttSink("mqtts://broker", key="key.pem"), "belong together"),
        (lambda: MqttSink("mqtt://broker", password="x"), "a password needs a user"),
        (lambda: MqttSink("mqtt://broker", version="4"), "unknown version '4'"),  # type: ignore[arg-type]
        (lambda: WebhookSink("ftp://host"), "write it as https://hooks.example.org"),
        (lambda: WebhookSink("http://host", secret={"vault": "x"}), r"secret is a text, \{env: NAME\} or \{file: PATH\}"),
        (lambda: WebhookSink("http://host", batch=0), "batch must be"),
        (lambda: WebhookSink("http://host", tries=0), "tries must be"),
        (lambda: KafkaSink("host:1", config={"acks": 1}), "config: acks can't be set, since a message has arrived when"),
        (lambda: KafkaSink(""), "servers is a text"),
        (lambda: RedisSink("redis://host", length=0), "length must be"),
        (lambda: PostgresSink("postgresql://host", table="a.b.c"), "table is a name, or schema.name"),
        (lambda: OtelLogsSink("collector:4318"), "write it as http://collector:4318/v1/logs"),
    ],
)
def test_what_a_sink_is_given_is_looked_at(make: Any, error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        make()


def test_what_only_its_library_can_tell_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinks = {
        "config: No such configuration property": KafkaSink("host:1", config={"sasl.pasword": SECRET}, spool=tmp_path),
        "url is no address of a PostgreSQL database": PostgresSink("postgresql://host?x=1", spool=tmp_path),
        "the environment variable NOT_SET is not set": RedisSink("redis://host", password={"env": "NOT_SET"}, spool=tmp_path),
        "Incorrect padding|base64": WebhookSink("http://host", secret="whsec_a", spool=tmp_path),
    }
    for error, sink in sinks.items():
        with pytest.raises(ValueError, match=error) as caught:
            sink.setup()
        assert SECRET not in str(caught.value)
    assert not list(tmp_path.iterdir())
    logging.getLogger("httpx").setLevel(logging.NOTSET)
