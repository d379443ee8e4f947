"""How do events leave for other systems? Brokers, databases and webhooks, behind a spool that survives a restart."""

from pipert_shm.sinks.courier import Courier, LetterRefused, Undelivered
from pipert_shm.sinks.kafka import KafkaSink
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.mqtt import MqttSink
from pipert_shm.sinks.otel import OtelLogsSink
from pipert_shm.sinks.postgres import PostgresSink
from pipert_shm.sinks.redis import RedisSink
from pipert_shm.sinks.sink import Sink
from pipert_shm.sinks.spool import SinkError
from pipert_shm.sinks.webhook import WebhookSink

__all__ = [
    "Courier",
    "KafkaSink",
    "Letter",
    "LetterRefused",
    "MqttSink",
    "OtelLogsSink",
    "PostgresSink",
    "RedisSink",
    "Sink",
    "SinkError",
    "Undelivered",
    "WebhookSink",
]
