"""Servers that sinks send to, real ones, each a process: brokers, databases, a web server. And what has arrived there.

Run as a script it is the web server, `python sink_servers.py web PORT FILE`, or a cluster of Kafka's own mock brokers,
`python sink_servers.py kafka FILE`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from streams import free_port, listens
from waiting import eventually

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]  # PostgreSQL does not run as root
INITDB = ("-A", "trust", "-U", "pipert", "-N", "--no-locale", "-E", "UTF8", "--wal-segsize=1")
TOPIC = "pipert"


def needed(program: str) -> str:
    """The path of a program, which Debian keeps where not every user's PATH leads; without it the test is skipped."""
    found = shutil.which(program, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, POSTGRES[-1:])]))
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


class Program:
    """A server process that can be killed and started again.

    :param ready: whether it takes connections.
    """

    def __init__(self, command: Sequence[str | Path], ready: Callable[[], bool], end: int = signal.SIGKILL) -> None:
        self._command = list(map(str, command))
        self._ready = ready
        self._end = end
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._ready, f"a start of {self._command[0]}")

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(self._end)
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def mosquitto(directory: Path, *more: str) -> tuple[Program, int]:
    """A broker that keeps what it has over a restart; and its port."""
    port = free_port()
    config = directory / "mosquitto.conf"
    lines = [
        f"listener {port} 127.0.0.1",
        *(more or ["allow_anonymous true"]),
        "persistence true",
        f"persistence_location {directory}/",
        "autosave_on_changes true",
        "autosave_interval 1",
        "user root",
    ]
    config.write_text("\n".join(lines) + "\n")
    return Program([needed("mosquitto"), "-c", config], lambda: listens(port)), port


def redis_server(directory: Path, *more: str) -> tuple[Program, int]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--appendonly", "yes"]
    command = [needed("redis-server"), *options, "--appendfsync", "always", "--save", "", *more]
    return Program(command, lambda: listens(port)), port


def postgres(directory: Path) -> tuple[Program, str]:
    """A database server; and the address of a database."""
    as_user = [] if os.geteuid() else AS_USER
    data, port = directory / "data", free_port()
    made = subprocess.run(
        [
            *as_user,
            needed("initdb"),
            "-D",
            data,
            *["-A", "trust", "-U", "pipert", "-N", "--no-locale", "-E", "UTF8", "--wal-segsize=1"],
        ],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"initdb can't run here: {made.stderr}")
    small = ["max_connections=8", "shared_buffers=1MB", "fsync=off", "autovacuum=off", "listen_addresses=127.0.0.1"]
    small.append("dynamic_shared_memory_type=mmap")  # else a crash leaves a segment in /dev/shm
    options = [part for setting in small for part in ("-c", setting)]
    command: list[str | Path] = [*as_user, needed("postgres"), "-D", data, "-p", str(port), "-k", str(directory), *options]
    program = Program(command, lambda: listens(port), signal.SIGQUIT)  # an immediate shutdown, as by a crash
    return program, f"postgresql://pipert@127.0.0.1:{port}/postgres"


def web_server(directory: Path) -> tuple[Program, int, Path]:
    """A web server which writes what it gets to a file; its port, and the file. It answers as `answer.json` in there says."""
    port = free_port()
    command = [sys.executable, __file__, "web", str(port), str(directory / "requests.jsonl")]
    return Program(command, lambda: listens(port)), port, directory / "requests.jsonl"


def kafka(directory: Path) -> tuple[Program, str]:
    """A broker; and its address. It can't be started again, but it can be frozen."""
    place = directory / "broker"
    program = Program([sys.executable, __file__, "kafka", place], place.exists)
    return program, place.read_text()


# ---- what has arrived ----------------------------------------------------------------------------


def requests_of(file: Path) -> list[dict[str, Any]]:
    """What the web server has got and accepted: `path`, `headers`, `body` (bytes)."""
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{**request, "body": base64.b64decode(request["body"])} for request in found if request["status"] < 300]


def consumed(servers: str, is_all: Callable[[list[Any]], bool], topic: str = TOPIC) -> list[Any]:
    """The messages of a topic of Kafka, from its beginning, until these are all."""
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "auto.offset.reset": "earliest", "log_level": 0})
    consumer.subscribe([topic])
    found: list[Any] = []

    def read() -> bool:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(json.loads(message.value() or b""))
        return is_all(found)

    try:
        eventually(read, "all messages in Kafka")
    finally:
        consumer.close()
    return found


class Subscriber:
    """Gets all that is published by MQTT, also over a restart of the broker, since the broker keeps its session."""

    def __init__(self, port: int, topic: str = "#", client: str = "everything") -> None:
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        self.got: list[tuple[str, bytes, bool]] = []
        self.subscribed = 0
        session: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        self._client = Client(CallbackAPIVersion.VERSION2, client, protocol=MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda _, __, message: self.got.append(
            (message.topic, bytes(message.payload), message.retain)
        )
        self._client.connect("127.0.0.1", port, clean_start=False, properties=session)
        self._client.loop_start()
        eventually(lambda: self.subscribed > 0, "a subscription")

    def _on_subscribe(self, *_: object) -> None:
        self.subscribed += 1

    def of(self, topic: str) -> list[Any]:
        """What was published there, in order."""
        return [json.loads(payload) for name, payload, _ in self.got if name == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


# ---- the processes -------------------------------------------------------------------------------


def _serve_web(port: int, file: Path) -> None:
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status, headers, text = _answer(file.with_name("answer.json"), body)
        headers_got = {name.decode(): value.decode() for name, value in scope["headers"]}
        line = {"path": scope["path"], "headers": headers_got, "body": base64.b64encode(body).decode(), "status": status}
        with file.open("ab", buffering=0) as out:  # in one piece, or none if this process is killed
            out.write(json.dumps({**line, "time": time.time()}).encode() + b"\n")
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": text.encode()})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off")


def _answer(file: Path, body: bytes) -> tuple[int, dict[str, str], str]:
    """Status, headers and text: what the file says for the first word that the request has in it; 200 otherwise."""
    for word, answer in (json.loads(file.read_text()) if file.exists() else {}).items():
        if word.encode() in body:
            return answer["status"], answer.get("headers", {}), answer.get("text", "")
    return 200, {}, ""


def _serve_kafka(place: Path) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    new = place.with_suffix(".new")
    new.write_text(f"{broker.host}:{broker.port}")
    new.rename(place)
    while True:
        signal.pause()


if __name__ == "__main__":
    if sys.argv[1] == "web":
        _serve_web(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        _serve_kafka(Path(sys.argv[2]))
