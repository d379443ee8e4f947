"""What every sink promises, on its real server: nothing is lost while that is away or the flow is killed, and order stays.

One pipe has them all, in one flow. Their servers go away; events come meanwhile; the flow is killed; more events come; the
servers come back.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import (
    START_EVENT_NAME,
    EndOfStream,
    KafkaSink,
    MqttSink,
    OtelLogsSink,
    Pipe,
    PostgresSink,
    RedisSink,
    Sink,
    SourceRoutine,
    WebhookSink,
    Wire,
)
from pipert_shm.analytics.event import DetectionEvent
from sink_servers import Program, Subscriber, consumed, kafka, mosquitto, postgres, redis_server, requests_of, web_server
from waiting import Board, eventually

KINDS = ("mqtt", "redis", "postgres", "webhook", "kafka", "otel")
ROUND = 40  # events
CAMERAS = 2
END = 1 << 30  # on the board
SECRET = "Xy7kQ2pW"
LOGS = "opentelemetry.proto.collector.logs.v1.logs_service_pb2"

Told = list[tuple[str, int]]  # camera, and number of each event that has arrived, in order


class Events(SourceRoutine):
    """Sends as many events as the board says: two in a message, of two cameras."""

    def __init__(self, board: Board) -> None:
        super().__init__("rules")
        self.board = board

    def main_logic(self) -> list[DetectionEvent]:
        first = CAMERAS * self.meta.sequence
        self.board.wait(0, first + CAMERAS, timeout=100)
        if self.board[0] == END:
            raise EndOfStream
        return [
            DetectionEvent(
                id=f"e{number}",
                phase="instant",
                rule="gate",
                kind="enter",
                camera=f"camera-{number % CAMERAS}",
                sequence=number,
                time=1764000000.0 + number,
                started=1764000000.0 + number,
                box=(1.0, 2.0, 3.5, 4.0),
            )
            for number in range(first, first + CAMERAS)
        ]


class Servers:
    """All of them, and the sinks that send to them."""

    def __init__(self, directory: Path) -> None:
        places = {name: directory / name for name in ("mqtt", "redis", "postgres", "web", "kafka")}
        for place in places.values():
            place.mkdir()
        self.running: list[Program] = []
        try:
            _, mqtt_port = self._kept(mosquitto(places["mqtt"]))
            self.subscriber = Subscriber(mqtt_port, "pipert/+/enter")
            _, self.redis_port = self._kept(redis_server(places["redis"], "--requirepass", SECRET))
            _, self.database = self._kept(postgres(places["postgres"]))
            web, web_port, self.requests = web_server(places["web"])
            self.running.append(web)
            self.kafka, self.kafka_address = self._kept(kafka(places["kafka"]))
        except BaseException:
            self.end()
            raise
        self.sinks: dict[str, Sink] = {
            "mqtt": MqttSink(f"mqtt://anybody:{SECRET}@127.0.0.1:{mqtt_port}", "mqtt", spool=directory / "spool-mqtt"),
            "redis": RedisSink(f"redis://:{SECRET}@127.0.0.1:{self.redis_port}", "redis", spool=directory / "spool-redis"),
            "postgres": PostgresSink(self.database, "postgres", password=SECRET, spool=directory / "spool-postgres"),
            "webhook": WebhookSink(
                f"http://me:{SECRET}@127.0.0.1:{web_port}/hook?token={SECRET}",
                "webhook",
                secret=SECRET,
                spool=directory / "spool-webhook",
            ),
            "kafka": KafkaSink(self.kafka_address, "kafka", spool=directory / "spool-kafka"),
            "otel": OtelLogsSink(
                f"http://127.0.0.1:{web_port}/v1/logs",
                "otel",
                headers={"Authorization": f"Bearer {SECRET}"},
                spool=directory / "spool-otel",
            ),
        }

    def _kept(self, started: tuple[Program, Any]) -> tuple[Program, Any]:
        self.running.append(started[0])
        return started

    def go_away(self) -> None:
        for program in self.running:
            if program is self.kafka:
                program.freeze()
            else:
                program.kill()

    def come_back(self) -> None:
        for program in self.running:
            if program is self.kafka:
                program.thaw()
            else:
                program.start()

    def end(self) -> None:
        if hasattr(self, "subscriber"):
            self.subscriber.close()
        for program in self.running:
            program.kill()

    def told(self, count: int) -> dict[str, Told]:
        """What has arrived, at each."""
        import psycopg
        import redis

        store = redis.Redis(port=self.redis_port, password=SECRET)
        entries: list[Any] = [entry for camera in range(CAMERAS) for entry in store.xrange(f"pipert:camera-{camera}") or ()]
        store.close()
        with psycopg.connect(self.database) as connection:
            rows = connection.execute("SELECT body FROM events ORDER BY time").fetchall()
        posted = [json.loads(request["body"]) for request in requests_of(self.requests) if request["path"] == "/hook"]
        bodies: dict[str, list[Any]] = {
            "mqtt": [json.loads(payload) for _, payload, _ in self.subscriber.got],
            "redis": [json.loads(entry[b"json"]) for _, entry in entries],
            "postgres": [row[0] for row in rows],
            "webhook": posted,
            "kafka": consumed(self.kafka_address, lambda bodies: len({body["sequence"] for body in bodies}) == count),
        }
        told = {kind: [(body["camera"], body["sequence"]) for body in found] for kind, found in bodies.items()}
        return {**told, "otel": exported(self.requests)}


def exported(requests: Path) -> Told:
    """The log records that the collector has got."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    found = []
    for request in requests_of(requests):
        if request["path"] == "/v1/logs":
            assert request["headers"]["authorization"] == f"Bearer {SECRET}"
            (resource,) = ExportLogsServiceRequest.FromString(request["body"]).resource_logs
            for record in resource.scope_logs[0].log_records:
                known = {pair.key: pair.value for pair in record.attributes}
                camera, number = known["pipert.camera"].string_value, known["pipert.sequence"].int_value
                assert known["event.name"].string_value == "pipert.enter"
                assert record.time_unix_nano == (1764000000 + number) * 10**9
                found.append((camera, number))
    return found


class Outcome:
    """What a pipe with all sinks has sent, what its sinks have counted, and what it has said."""

    def __init__(self, servers: Servers, said: list[str]) -> None:
        board = Board()
        pipe = Pipe(policy="block", grace_period=10)
        rules = Events(board)
        sinks = list(servers.sinks.values())
        pipe.create_flow("rules", False, rules)
        pipe.create_flow("out", False, *sinks)
        pipe.link(Wire(rules, sinks))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)

        def have(counter: str, count: int, *but: str) -> Callable[[], bool]:
            def check() -> bool:
                routines = pipe.statistics().routines
                return all(routines[kind].counters[counter] >= count for kind in KINDS if kind not in but)

            return check

        try:
            board[0] = ROUND
            eventually(have("sent", ROUND), "a round of events")
            servers.go_away()
            board[0] = 2 * ROUND
            eventually(have("accepted", 2 * ROUND), "events that are accepted without a server")
            os.kill(pipe.statistics().flows["out"].pid, signal.SIGKILL)
            board[0] = 3 * ROUND
            eventually(have("accepted", 3 * ROUND), "events that are accepted by the next process")
            eventually(have("retried", 2, "kafka"), "failures")
            servers.come_back()
            eventually(have("sent", 3 * ROUND), "all events", timeout=60)
            eventually(lambda: len(servers.subscriber.got) >= 3 * ROUND)
            board[0] = END
            pipe.join()
            self.statistics = pipe.statistics()
        finally:
            board[0] = END
            pipe.join(to_kill=True)
        self.said = "\n".join(said) + str(self.statistics) + str(pipe.get_pipe_structure())
        self.told = servers.told(3 * ROUND)


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    # Here, so that the flow has them when it is forked, and again after its death.
    for package in (*["paho.mqtt.client", "redis", "psycopg", "httpx", "confluent_kafka", "requests"], LOGS):
        pytest.importorskip(package)
    servers, listener = Servers(tmp_path_factory.mktemp("servers")), Listener()
    logging.getLogger().addHandler(listener)
    try:
        yield Outcome(servers, listener.said)
    finally:
        logging.getLogger().removeHandler(listener)
        servers.end()


# One test, since its pipe would have to run again in each worker that has a part of it.
def test_nothing_is_lost_over_an_absent_server_and_a_killed_flow_and_each_cameras_order_stays(outcome: Outcome) -> None:
    for kind in KINDS:
        told = outcome.told[kind]
        assert {number for _, number in told} == set(range(3 * ROUND)), kind
        for camera, messages in groupby(sorted(told, key=lambda one: one[0]), lambda one: one[0]):
            firsts = list(dict.fromkeys(number for _, number in messages))
            assert firsts == sorted(firsts), (kind, camera)
        if kind != "kafka":  # its broker was frozen, not gone: nobody could know what it had got
            assert len(told) == 3 * ROUND, kind
        counters = outcome.statistics.routines[kind].counters
        assert counters["refused"] == counters["dropped_full"] == counters["damaged"] == counters["waiting"] == 0
        assert counters["accepted"] == 3 * ROUND
    assert "can't deliver" in outcome.said
    assert SECRET not in outcome.said
