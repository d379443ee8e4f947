"""What Home Assistant is told by MQTT discovery: a device for each camera, and entities for each of its rules."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.template import apart

MOST_RULES = 1_000  # of all cameras; for one more, the one that was used least recently is forgotten
MOST_OPEN = 1_000  # things that last, of a rule
_NO_LEVEL = re.compile(r"[+#/\0]")
_NO_ID = re.compile(r"[^A-Za-z0-9_-]")
# What lasts, by kind: how Home Assistant shows a binary sensor for it.
_CLASSES = {"enter": "occupancy", "dwell": "occupancy", "count": "occupancy"}


class Publication(NamedTuple):
    """What is to be published.

    Attributes:
        retain: whether the broker keeps it for those who subscribe later.
    """

    topic: str
    payload: bytes
    retain: bool


@dataclass(slots=True)
class _Rule:
    told: set[str] = field(default_factory=set)  # entities that Home Assistant knows
    open: OrderedDict[str, None] = field(default_factory=OrderedDict)  # ids of what has started and not ended


class HomeAssistant:
    """Makes publications of events.

    A rule's state is `{"active": "ON", "count": 2, …}`, with what the last event said. It is on while anything that has started
    has not ended.

    :param prefix: of discovery.
    :param base: of the sink's topics.
    """

    def __init__(self, prefix: str, base: str) -> None:
        self._prefix = prefix
        self._base = base
        self._rules: OrderedDict[tuple[str, str], _Rule] = OrderedDict()

    def forget(self) -> None:
        """Has the entities told anew."""
        for rule in self._rules.values():
            rule.told.clear()

    def of(self, letter: Letter) -> list[Publication]:
        """Returns what is to be published of a letter, in this order; nothing if it is no event."""
        body = letter.body
        name, phase = body.get("rule"), body.get("phase")
        if not isinstance(name, str) or phase not in ("start", "end", "instant"):
            return []
        rule = self._rule(letter.camera, name)
        topic = f"{self._base}/{apart(_NO_LEVEL, letter.camera or '_')}/rules/{apart(_NO_LEVEL, name or '_')}"
        lasts, counts = phase != "instant", isinstance(body.get("count"), int)
        entities = []
        if lasts:
            entities.append(self._binary_sensor(letter, topic))
            self._open(rule, str(body.get("id")), phase == "start")
        else:
            entities.append(self._event(letter, topic))
        if counts:
            entities.append(self._sensor(letter, topic))
        found = [entity for entity in entities if entity.topic not in rule.told]
        rule.told.update(entity.topic for entity in found)
        if not lasts:
            found.append(Publication(f"{topic}/event", _encoded({"event_type": letter.kind, **body}), False))
        if lasts or counts:
            state = {**body, "active": "ON" if rule.open else "OFF"}
            found.append(Publication(topic, _encoded(state), True))
        return found

    def _rule(self, camera: str, name: str) -> _Rule:
        rule = self._rules.setdefault((camera, name), _Rule())
        self._rules.move_to_end((camera, name))
        if len(self._rules) > MOST_RULES:
            self._rules.popitem(last=False)
        return rule

    @staticmethod
    def _open(rule: _Rule, id: str, starts: bool) -> None:
        if starts:
            rule.open[id] = None
            if len(rule.open) > MOST_OPEN:
                rule.open.popitem(last=False)
        else:
            rule.open.pop(id, None)

    def _binary_sensor(self, letter: Letter, topic: str) -> Publication:
        more: dict[str, Any] = {
            "state_topic": topic,
            "value_template": "{{ value_json.active }}",
            "json_attributes_topic": topic,
        }
        if letter.kind in _CLASSES:
            more["device_class"] = _CLASSES[letter.kind]
        return self._entity("binary_sensor", letter, "", more)

    def _sensor(self, letter: Letter, topic: str) -> Publication:
        more = {"state_topic": topic, "value_template": "{{ value_json.count }}", "state_class": "measurement"}
        return self._entity("sensor", letter, " count", more)

    def _event(self, letter: Letter, topic: str) -> Publication:
        return self._entity("event", letter, " event", {"state_topic": f"{topic}/event", "event_types": [letter.kind]})

    def _entity(self, component: str, letter: Letter, suffix: str, more: dict[str, Any]) -> Publication:
        base, camera, rule = (apart(_NO_ID, text) for text in (self._base, letter.camera, str(letter.body["rule"])))
        unique = f"{base}_{camera}_{rule}{suffix.replace(' ', '_')}"
        config = {
            "name": f"{letter.body['rule']}{suffix}",
            "unique_id": f"{base}/{camera}/{rule}{suffix.replace(' ', '_')}",  # yard, gate_in is not yard_gate, in
            "object_id": unique,
            "availability_topic": f"{self._base}/status",
            "device": {"identifiers": [f"{base}_{camera}"], "name": letter.camera, "manufacturer": "pipert_shm"},
            "origin": {"name": "pipert_shm"},
            **more,
        }
        return Publication(f"{self._prefix}/{component}/{base}_{camera}/{unique}/config", _encoded(config), True)


def _encoded(value: object) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
