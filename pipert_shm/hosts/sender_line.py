"""The thread of a sender's end: what it hears, and what it says."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pipert_shm.binding import now_ns
from pipert_shm.hosts.carrier import Hub
from pipert_shm.hosts.choosing import CodecChoice
from pipert_shm.hosts.clocks import ClockOffset
from pipert_shm.hosts.encoding import FilmBody
from pipert_shm.hosts.line import Line, Tell, name_of_end
from pipert_shm.hosts.messages import EPOCH_BITS, Ack, Message, Refresh, Said, Taken, pack
from pipert_shm.hosts.payloads import Whole
from pipert_shm.hosts.protocol import Sender
from pipert_shm.hosts.window import MOST, AutoWindow

MOST_OTHERS = 16  # receivers that are not served, and are remembered


class SenderLine(Line):
    """The sending end."""

    def __init__(
        self, hub: Hub, key: str, name: str, machine: Sender, window: int | None, tell: Tell, logger: logging.Logger
    ) -> None:
        self.machine = machine
        self.choice: CodecChoice | None = None
        self.sent_bytes = 0
        self._name = name_of_end(name)
        self._taken_by: str | None = None
        self._served = ""  # the name of the receiver
        self._others: dict[int, str] = {}  # receivers that are not served, by token
        self._owed: list[Said] = []
        self._refreshes = 0
        self._seen: tuple[int | None, int, int] = (None, 0, 0)
        self._sizes: dict[int, int] = {}  # of messages under way, by number
        self._sent_at: dict[int, int] = {}  # by the time at which it was said: bytes of the message
        self.auto = AutoWindow()
        self.clocks = ClockOffset()
        self._fixed = window
        machine.window = self.auto.size if window is None else window
        super().__init__(hub, key, "sender", tell, logger, end=machine.stream << EPOCH_BITS | machine.epoch)

    def hear(self, said: Said, arrived_ns: int) -> None:
        """Takes an acknowledgement, or a request."""
        if isinstance(said, Refresh) and said.stream == self.machine.stream:
            self._refreshes += 1
        elif isinstance(said, Taken) and said.stream == self.machine.stream:
            self._note_taken(said.name)
        if not isinstance(said, Ack):
            return
        if self._is_another(said):
            self._refuse(said)
            return
        if said.is_answer:
            self._served = said.name
            self._others.pop(said.receiver, None)
        if said.echo_ns and said.epoch == self.machine.epoch and said.stream == self.machine.stream:
            trip = self.clocks.note(sent=said.echo_ns, arrived=said.arrived_ns, answered=said.sent_ns, back=arrived_ns)
            self.auto.note_round_trip(trip / 1e9)
            if self._fixed is None:
                self.machine.window = self.auto.size
            self._note_delivered(said, trip)
        self.machine.hear(said, time.monotonic())

    def _is_another(self, ack: Ack) -> bool:
        """Whether it comes from a second receiver, while the first one is there."""
        served = self.machine.receiver
        return served is not None and ack.receiver != served and served in self.present

    def _refuse(self, ack: Ack) -> None:
        if not ack.is_answer:
            return
        if ack.receiver not in self._others:
            while len(self._others) >= MOST_OTHERS:
                del self._others[next(iter(self._others))]
            self._logger.error(
                "the wire %r between hosts has two receivers: %s gets nothing while %s is there; give it another key",
                self._key,
                ack.name,
                self._served,
            )
        self._others[ack.receiver] = ack.name
        self._owed.append(Taken(ack.receiver, self._served))

    def _note_taken(self, other: str) -> None:
        if other != self._taken_by:
            self._taken_by = other
            self._logger.error(
                "the wire %r between hosts has two senders: %s is not heard while %s is there; give it another key",
                self._key,
                self._name,
                other,
            )

    def _note_delivered(self, ack: Ack, trip_ns: int) -> None:
        delivered = 0
        for number in [number for number in self._sizes if number < ack.accepted]:
            delivered += self._sizes.pop(number)
        size = self._sent_at.pop(ack.echo_ns, 0)
        if self.choice is not None:
            self.choice.note_acknowledged(delivered, ack.accepted - ack.consumed)
            if size or ack.is_answer:
                self.choice.note_trip(size, trip_ns / 1e9)

    def needs_key_frame(self) -> bool:
        """Whether the receiver may lack pictures of a film that was sent before, since this was asked last."""
        seen, self._seen = self._seen, (self.machine.receiver, self.machine.forgotten, self._refreshes)
        return seen != self._seen

    def say(self) -> Iterable[tuple[Said, Any]]:
        """Yields what the protocol says, each dated when it goes."""
        owed, self._owed = self._owed, []
        yield from ((said, ()) for said in owed)
        now = now_ns()
        for said in self.machine.say(now, self.clocks.offset(now)):
            if isinstance(said, Message):
                yield said, self._body_of(said)
            else:
                yield replace(said, name=self._name), ()

    def _body_of(self, message: Message) -> Any:
        body = message.body
        if isinstance(body, FilmBody):
            body = self.carrier.hold(body.pieces_for(self.machine.receiver))
        self._note_sent(message, sum(map(len, body)))
        return body

    def send_at_once(self, whole: Whole, held: list[Any]) -> None:
        """Sends a message that was just offered on the thread of the caller, after `begin`: each piece as soon as it is copied.

        :param held: its body, which is filled where it may have to be sent again.
        """
        pieces = self._copied(whole, held)
        try:
            with self.changed:
                now = now_ns()
                out = list(self.machine.say(now, self.clocks.offset(now)))
                for said in out:
                    if isinstance(said, Message) and said.body is held:
                        self._note_sent(said, whole.size)
            for said in out:
                if isinstance(said, Message) and said.body is held:
                    self.carrier.stream(pack(said), pieces, whole.number)
                elif isinstance(said, Message):
                    self.carrier.send(pack(said), self._body_of(said))
                else:
                    self.carrier.send(pack(replace(said, name=self._name)))
            if self.machine.is_lossless:
                for _ in pieces:
                    pass  # what was not sent is held, too
        finally:
            self._done()

    def _copied(self, whole: Whole, held: list[Any]) -> Iterator[Any]:
        for piece in whole.pieces:
            (copy,) = self.carrier.hold((piece,))
            del piece  # the next one gets its memory, while that is in the processor's cache
            if self.machine.is_lossless:
                held.append(copy)
            yield copy
            del copy

    def _note_sent(self, message: Message, size: int) -> None:
        self.sent_bytes += size
        for kept, at in (self._sizes, message.number), (self._sent_at, message.sent_ns):
            kept[at] = size
            while len(kept) > 2 * MOST:
                del kept[next(iter(kept))]

    def appeared(self, now: float) -> None:
        """A receiver is there."""
        self._taken_by = None
        self.clocks.clear()
        self.machine.appear(now)

    def left(self, end: int, now: float) -> None:
        """Another receiver is there still."""
        self._others.pop(end, None)
        if end == self.machine.receiver:
            self.machine.vanish()
            self.appeared(now)

    def vanished(self) -> None:
        """None is."""
        self._others.clear()
        self.machine.vanish()

    def deadline(self) -> float | None:
        """When to ask again."""
        return self.machine.deadline

    def wake(self, now: float) -> None:
        """Asks again."""
        self.machine.wake(now)
