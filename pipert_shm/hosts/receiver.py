"""The source that receives from another host."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.errors import NoFreeSlot, SharedMemoryFull
from pipert_shm.hosts.carrier import Hub
from pipert_shm.hosts.decoding import Decoder
from pipert_shm.hosts.line import Line, Tell, name_of_end
from pipert_shm.hosts.messages import EPOCH_BITS, UNKNOWN_NS, Hello, Message, Refresh, Said, Taken
from pipert_shm.hosts.payloads import Layout
from pipert_shm.hosts.pieces import LARGEST_MESSAGE
from pipert_shm.hosts.place import Place
from pipert_shm.hosts.protocol import Receiver, Waiting
from pipert_shm.hosts.remote import Remote
from pipert_shm.hosts.window import MOST
from pipert_shm.limits import check_count, check_seconds
from pipert_shm.routine import SourceRoutine
from pipert_shm.shm.slots import Stopping

REST = 0.5  # seconds after which a call returns without a message
LEAST_MESSAGE = 1 << 16  # bytes
KEPT = 4  # times the largest message that all which waits may have
ASK_AGAIN = 0.5  # seconds after which a key frame is asked for again


@runtime_checkable
class Resuming(Protocol):
    """What a receiver asks of the process that runs it."""

    def resume(self, is_odd: bool | None) -> bool:
        """Goes on where the process before died: each wire gets only what it has not got. See `flow.loans.Loans.resume`."""


class ReceiverLine(Line):
    """The receiving end."""

    def __init__(
        self, hub: Hub, key: str, name: str, place: tuple[int, int], room: int, most: int, tell: Tell, logger: logging.Logger
    ) -> None:
        self._place, self._room, self._most = place, room, most
        self._name = name_of_end(name)
        self._taken_by: str | None = None  # another receiver, to which the sender sends
        self.machine: Receiver | None = None
        self._sender = ""  # its name
        self._others: dict[int, Taken] = {}  # senders that are not heard, by stream
        self._owed: list[Said] = []
        self._asked_at = -ASK_AGAIN
        super().__init__(hub, key, "receiver", tell, logger, most=most)

    @property
    def is_connected(self) -> bool:
        """Whether a sender sends to this end."""
        return self.machine is not None and self.machine.epoch > 0 and self._taken_by is None

    def hear(self, said: Said, arrived_ns: int) -> None:
        """Takes what the sender says."""
        if self.machine is None:
            self.machine = Receiver(self.end, *self._place, room=self._room, most=KEPT * self._most)
        if isinstance(said, Taken) and said.stream == self.end:
            self._note_taken(said.name)
        if isinstance(said, Message):
            if said.receiver != self.end:  # it is for another one
                if self._taken_by is None:
                    self.machine.answer()
                return
            self._taken_by = None
        if isinstance(said, Hello):
            if self._is_taken(said.stream, self.machine):
                self._refuse(said)
                return
            self._sender = said.name
            self._others.pop(said.stream, None)
        if isinstance(said, Hello | Message):
            self.machine.hear(said, arrived_ns)

    def _note_taken(self, other: str) -> None:
        if other != self._taken_by:
            self._taken_by = other
            self._logger.error(
                "the wire %r between hosts has two receivers: %s gets nothing while %s is there; give it another key",
                self._key,
                self._name,
                other,
            )

    def _is_taken(self, stream: int, machine: Receiver) -> bool:
        """Whether a sender of another stream is there, and heard."""
        return (
            machine.epoch > 0 and stream != machine.stream and any(end >> EPOCH_BITS == machine.stream for end in self.present)
        )

    def _refuse(self, hello: Hello) -> None:
        if hello.stream not in self._others:
            self._others[hello.stream] = Taken(hello.stream, self._sender)
            self._logger.error(
                "the wire %r between hosts has two senders: %s is not heard while %s is there; give it another key",
                self._key,
                hello.name,
                self._sender,
            )
        self._owed.append(self._others[hello.stream])

    def say(self) -> Iterable[tuple[Said, Any]]:
        """Yields acknowledgements, and what else there is to say."""
        owed, self._owed = self._owed, []
        yield from ((said, ()) for said in owed)
        if self.machine is not None:
            for ack in self.machine.say(now_ns()):
                yield replace(ack, name=self._name) if ack.is_answer else ack, ()

    def ask_for_key_frame(self) -> None:
        """Asks the sender, at most each half second. With `changed` in hand."""
        now = time.monotonic()
        if self.machine is not None and now - self._asked_at >= ASK_AGAIN:
            self._asked_at = now
            self._owed.append(Refresh(self.machine.stream))
            self.poke()


class RemoteReceiver(Remote, SourceRoutine):
    """Receives what the `RemoteSender` of the same key sends, from a pipe on another host (the extra `hosts`).

    To its pipe it is a source: `meta.sequence` counts what it received, and `meta.origin` is its own name. `meta.captured_ns`
    is when the frame was captured at the other host, translated to this one's clock; the counter `clock_uncertainty_us` says
    by how much that may be wrong. `pts`, `wall_clock` and the format are what they were.

    It goes on when its flow is restarted, at any moment: the sender sends again what was not taken, and a wire after it that
    had got the message in hand does not get it again.

    :param key: of the wire.
    :param connect, listen, ca, certificate, key_file, host: as of `RemoteSender`.
    :param peer: the name of the host that the sender is on.
    :param room: the most messages that it keeps, and so the most that a sender may have under way.
    :param max_age: seconds since its capture after which a message is not delivered.
    :param max_message: bytes of the largest message that it takes, also when it is unpacked. Larger ones are left out, and
        counted as `too_large`. All that it keeps has four times as many, at the most.
    :raises ValueError: when a setting is wrong.

    >>> receiver = RemoteReceiver("gate", listen="tcp/0.0.0.0:7447", max_age=0.5)
    """

    counter_names = (
        "connected",
        "repeated",
        "missed",
        "too_old",
        "unreadable",
        "clock_uncertainty_us",
        "stream",
        "place",
        "damaged",
        "too_large",
    )

    def __init__(
        self,
        key: str,
        name: str | None = None,
        *,
        connect: str | None = None,
        listen: str | None = None,
        ca: str | None = None,
        certificate: str | None = None,
        key_file: str | None = None,
        host: str | None = None,
        peer: str | None = None,
        room: int = MOST,
        max_age: float | None = None,
        max_message: int = LARGEST_MESSAGE,
    ) -> None:
        super().__init__(name, key, Hub(connect, listen, ca, certificate, key_file, host, peer))
        check_count("room", room)
        check_count("max_message", max_message, LEAST_MESSAGE)
        if max_age is not None:
            check_seconds("max_age", max_age, positive=True)
        self._room = room
        self._max_age = max_age
        self._max_message = max_message
        self._line: ReceiverLine | None = None
        self._place = Place()
        self._has_run = False  # in this process

    def setup(self) -> None:
        """Finds out what became of the message that a process before had in hand.

        The connection is opened by the first `main_logic`: not before that is what an earlier run left unsent in every queue.
        """
        self._stopping = False
        self._decoder = Decoder(self._max_message)
        self._base = tuple(self.counters[name] for name in ("repeated", "damaged", "too_large"))
        if self._has_run:
            return
        self._has_run = True
        self._place = place = Place.of(self.counters["place"], self.counters["missed"])
        if isinstance(self._runtime, Resuming):
            has_left = self._runtime.resume(place.hand)
            if place.hand is not None:
                self._put(place.let_go() if has_left else place.give_back())

    def _open(self) -> ReceiverLine:
        """Connects, and goes on after the last message that was handed over."""
        number = self._place.number
        place = (0, 0) if number is None else (self.counters["stream"], number)
        self._line = line = ReceiverLine(
            self._hub, self.key, self.name, place, self._room, self._max_message, self._tell, self._logger
        )
        return line

    def _put(self, place: Place) -> None:
        """Notes where it is. The word comes first: `Place.of` mends the count."""
        self._place = place
        self.counters["place"] = place.word
        self.counters["missed"] = place.missed

    def main_logic(self) -> Any:
        """Returns the next message; None if none comes for half a second, or it is too old.

        :raises ImportError: when Zenoh is not installed.
        :raises HostsError: when a file can't be read, or the address is taken.
        :raises ValueError: when the message can't be read. It is left out, and counted. Where it is a picture of a film that
            needs one that did not come, the sender is asked for a key frame.
        """
        line = self._line or self._open()
        if self._place.hand is not None:
            self._put(self._place.let_go())  # before the sender hears of it
        with line.changed:
            if line.machine is not None:
                line.machine.done()
                line.poke()
        self._await(line)
        with line.changed:
            machine = line.machine
            waiting = None if machine is None else machine.peek()
            passed = None if machine is None or machine.waiting else (machine.stream, machine.consumed)
        if machine is not None:
            self._count(line, machine)
        if passed is not None and passed[0] == self.counters["stream"]:
            self._pass(passed[1])
        if machine is None or waiting is None:
            return None
        payload = None
        try:
            payload = self._payload_of(waiting)
        except (ValueError, ImportError):
            self.counters["unreadable"] += 1
            if self._decoder.needs_key_frame:
                with line.changed:
                    line.ask_for_key_frame()
            raise
        except Stopping:  # while it waited for a slot: the message stays
            waiting = None
            raise
        finally:
            if waiting is not None:
                with line.changed:
                    if machine.peek() is waiting:
                        self._note_taken(waiting, machine, is_sent=payload is not None)
        return payload

    def _await(self, line: ReceiverLine) -> None:
        """Waits for a message, for half a second at the most, and lends memory to one that is on its way."""

        def is_here() -> bool:
            return self._stopping or (line.machine is not None and bool(line.machine.waiting))

        until = time.monotonic() + REST
        while True:
            with line.changed:
                left = max(until - time.monotonic(), 0)
                line.changed.wait_for(lambda: is_here() or line.landing.wanted is not None, left)
                wanted = line.landing.wanted
                if wanted is None or is_here():
                    return
            rooms = self._rooms_for(wanted)
            with line.changed:
                line.landing.give(wanted, rooms)

    def _rooms_for(self, wanted: list[Layout]) -> list[np.ndarray] | None:
        """Memory for arrays that are on their way; None if there is none yet: they get it when they are here."""
        try:
            if self._runtime is None:
                return [np.empty(*layout) for layout in wanted]
            return [self._runtime.loan(*layout, wait=False) for layout in wanted]
        except (NoFreeSlot, SharedMemoryFull):
            return None
        except ValueError:  # no array can have that shape: the message is refused once it is here
            return None

    def _pass(self, number: int) -> None:
        """Messages before this number will not come, and nothing has come after them yet."""
        if self._place.number is not None and number > self._place.number:
            self._put(self._place.move(number))

    def _note_taken(self, waiting: Waiting, machine: Receiver, *, is_sent: bool) -> None:
        place = self._place
        if self.counters["stream"] != waiting.stream:
            self._put(Place(missed=place.missed))  # a death between these finds no place: it asks the sender
            self.counters["stream"] = waiting.stream
            place = self._place
        place = place.move(waiting.number).take(is_odd=bool(self.meta.sequence % 2))
        self._put(place if is_sent else place.let_go())
        machine.take()

    def _payload_of(self, waiting: Waiting) -> Any:
        """Returns the payload, dated by this host's clock; None where it is too old."""
        message = waiting.message
        if message.offset is not None:
            captured_ns = message.captured_ns + message.offset.ns
            uncertainty_ns = message.offset.uncertainty_ns
            self.counters["clock_uncertainty_us"] = uncertainty_ns // 1000
        else:
            captured_ns, uncertainty_ns = waiting.arrived_ns, UNKNOWN_NS
        if self._max_age is not None and now_ns() - captured_ns > self._max_age * 1e9:
            self.counters["too_old"] += 1
            self._decoder.skip(message.body, self.meta)
            return None
        payload = self._decoder.decode(message.body, self.meta, self.loan)
        self.meta.captured_ns, self.meta.uncertainty_ns = captured_ns, uncertainty_ns
        return payload

    def _count(self, line: ReceiverLine, machine: Receiver) -> None:
        self.counters["connected"] = line.is_connected
        found = machine.repeated, line.damaged, line.too_large
        for name, base, more in zip(("repeated", "damaged", "too_large"), self._base, found, strict=True):
            self.counters[name] = base + more

    def cleanup(self) -> None:
        """Disconnects."""
        self._close()
