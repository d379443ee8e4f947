"""What a sender and a receiver on two hosts do: the credit protocol, without I/O, clocks or threads.

Each end is told what it hears, and asked what it has to say. The carrier may lose, double and reorder that, and either end may
be started anew. Then still:

- lossless: each message is taken once and in order, except for those that a sender had when it died, which are counted;
- else: messages are taken in order, none twice, and those that never come are counted;
- a sender has at most *window* messages that no receiver has taken, and a receiver keeps no more than that.

A sender first says hello, and sends when it has an answer. The answer says which messages the receiver has. Numbers go on when
a sender is started anew, in a new epoch of its stream. csrc/model/credit.pml is the model.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipert_shm.hosts.messages import UNKNOWN_NS, Ack, Hello, Message, Offset

FIRST_PATIENCE = 0.5  # seconds without progress after which a sender asks again; doubled each time
LONGEST_PATIENCE = 4.0
STREAMS = 8  # of senders that came before, which a receiver remembers


class Held(NamedTuple):
    """A message that the sender has, since it is not acknowledged."""

    number: int
    captured_ns: int
    uncertainty_ns: int
    body: Any


class Sender:
    """The sending end.

    :param stream: a number drawn at random, the same in each epoch.
    :param epoch: larger than that of each process before.
    :param number: of the first message.
    :param is_lossless: whether messages are sent again until they are acknowledged.
    """

    def __init__(self, stream: int, epoch: int, number: int, *, is_lossless: bool) -> None:
        self.stream, self.epoch, self.next, self.is_lossless = stream, epoch, number, is_lossless
        self.held: deque[Held] = deque()
        self.window = 2
        self.resent = self.forgotten = 0
        self._room = 1
        self._first = number
        self._elsewhere = 0  # messages of an earlier epoch that the receiver has, and nobody has taken
        self._present = False
        self._receiver: int | None = None  # which has answered
        self._cursor = number  # the next one to be sent
        self._sent_to = number  # one after the last that was ever sent
        self._asked: tuple[int, int] | None = (
            None  # of the hello whose answer is awaited: its stamp, and `_cursor` at that time
        )
        self._greet = False
        self._patience = FIRST_PATIENCE
        self._since = 0.0  # of the last progress

    @property
    def is_connected(self) -> bool:
        """Whether a receiver listens."""
        return self._receiver is not None

    @property
    def receiver(self) -> int | None:
        """The process that listens; None if none does."""
        return self._receiver

    @property
    def has_room(self) -> bool:
        """Whether one more message may be under way."""
        return self.is_connected and len(self.held) + self._elsewhere < min(self.window, self._room)

    def offer(self, captured_ns: int, body: Any, now: float, uncertainty_ns: int = 0) -> int:
        """Takes a message for which there is room. Returns its number.

        :param uncertainty_ns: by how much the time of its capture may be wrong on this host.
        """
        if not self.held:
            self._progress(now)
        number, self.next = self.next, self.next + 1
        self.held.append(Held(number, captured_ns, uncertainty_ns, body))
        return number

    def appear(self, now: float) -> None:
        """A receiver is there, or another one."""
        self._present, self._greet = True, True
        self._progress(now)

    def vanish(self) -> None:
        """No receiver is there."""
        self._present, self._receiver, self._asked, self._greet = False, None, None, False
        if not self.is_lossless:
            self._forget(self.next)

    def hear(self, ack: Ack, now: float) -> None:
        """Takes what a receiver says."""
        if (ack.stream, ack.epoch) != (self.stream, self.epoch):
            self._greet = self._greet or self._asked is None  # it doesn't listen to us yet
            return
        answers = ack.is_answer and self._asked is not None and self._asked[0] == ack.echo_ns
        if not answers and ack.receiver != self._receiver:
            self._greet = self._greet or self._asked is None
            return
        self._room = ack.room
        if self.held and ack.consumed > self.held[0].number:
            self._progress(now)
        while self.held and self.held[0].number < ack.consumed:
            self.held.popleft()
        self._elsewhere = max(min(ack.accepted, self._first) - ack.consumed, 0)
        if answers:
            self._answered(ack, now)
        elif ack.has_gap and self.is_lossless:
            self._send_again(ack.accepted)
        self._cursor = max(self._cursor, ack.accepted)

    def _answered(self, ack: Ack, now: float) -> None:
        """What was sent before the hello, and has not come, is lost."""
        is_new, self._receiver = ack.receiver != self._receiver, ack.receiver
        asked = self._asked[1] if self._asked is not None else 0
        self._asked = None
        if is_new:
            self._progress(now)
        if self.is_lossless:
            if is_new or ack.accepted < asked:
                self._send_again(ack.accepted)
        elif is_new:
            self._forget(self.next)
        else:
            kept = [held for held in self.held if held.number < ack.accepted or held.number >= asked]
            self.forgotten += len(self.held) - len(kept)
            self.held = deque(kept)

    def _send_again(self, number: int) -> None:
        self._cursor = min(self._cursor, number)

    def _forget(self, number: int) -> None:
        while self.held and self.held[0].number < number:
            self.held.popleft()
            self.forgotten += 1
        self._cursor = max(self._cursor, number)

    def _progress(self, now: float) -> None:
        self._since, self._patience = now, FIRST_PATIENCE

    @property
    def deadline(self) -> float | None:
        """When `wake` wants to be called, by the clock of `now`; None for never."""
        waits = self._present and (self.held or self._elsewhere or not self.is_connected)
        return self._since + self._patience if waits else None

    def wake(self, now: float) -> None:
        """Asks again when nothing has come for too long."""
        deadline = self.deadline
        if deadline is not None and now >= deadline:
            self._greet = True
            self._since, self._patience = now, min(2 * self._patience, LONGEST_PATIENCE)

    def say(self, now_ns: int, offset: Offset | None = None) -> Iterator[Hello | Message]:
        """Yields what there is to send."""
        base = self.held[0].number if self.held else self.next
        if self._greet and self._present:
            self._greet, self._asked = False, (now_ns, self._cursor)
            yield Hello(self.stream, self.epoch, base, self.window, self.is_lossless, now_ns)
        if not self.is_connected:
            return
        for held in [held for held in self.held if held.number >= self._cursor]:
            self.resent += held.number < self._sent_to
            self._cursor = held.number + 1
            self._sent_to = max(self._sent_to, self._cursor)
            yield Message(
                self.stream,
                self.epoch,
                base,
                held.number,
                self.window,
                self.is_lossless,
                now_ns,
                held.captured_ns,
                None if offset is None else Offset(offset.ns, min(offset.uncertainty_ns + held.uncertainty_ns, UNKNOWN_NS)),
                held.body,
                self._receiver or 0,
            )


@dataclass(slots=True)
class Waiting:
    """A message that the receiver has, and nobody has taken yet."""

    stream: int
    number: int
    message: Message
    arrived_ns: int


class Receiver:
    """The receiving end.

    :param receiver: a number drawn at random, another one for each process.
    :param stream, number: what the process before was at: the stream, and the number after the last message that was handed
        over; 0 and 0 for none.
    :param room: the most messages that it keeps.
    :param most: the most bytes that those have together, where it is not one alone.
    """

    def __init__(self, receiver: int, stream: int = 0, number: int = 0, *, room: int = 64, most: float = math.inf) -> None:
        self.receiver, self.stream, self.room, self._most = receiver, stream, room, most
        self.epoch = 0
        self.accepted = self.consumed = number
        self.waiting: deque[Waiting] = deque()
        self.repeated = self.missed = self.crowded = 0
        self.is_lossless = True
        self._window = 1
        self._hand: Waiting | None = None
        self._streams: OrderedDict[int, int] = OrderedDict()  # of earlier senders: what was accepted
        self._gap_told = False
        self._owed: list[bool] = []  # acknowledgements: whether each is an answer
        self._gap = False
        self._stamps = self._asked = 0, 0  # sent and arrived, of what came last, and of the last hello

    def hear(self, said: Hello | Message, arrived_ns: int) -> None:
        """Takes what a sender says."""
        if isinstance(said, Hello):
            if said.stream == self.stream and said.epoch < self.epoch:
                return  # of a process that is dead
            self._adopt(said)
            self._stamps = self._asked = said.sent_ns, arrived_ns
            self._owed.append(True)
        elif (said.stream, said.epoch) != (self.stream, self.epoch):
            if said.stream != self.stream or said.epoch > self.epoch:
                self._owed.append(False)  # so that it says hello
        else:
            self._stamps = said.sent_ns, arrived_ns
            self._window = said.window
            self._give_up(said.base)
            self._accept(said, arrived_ns)

    def _adopt(self, hello: Hello) -> None:
        if hello.stream != self.stream:
            self._streams[self.stream] = self.accepted
            self._streams.move_to_end(self.stream)
            self.stream = hello.stream
            self.accepted = self.consumed = self._streams.get(hello.stream, hello.base)
            while len(self._streams) > STREAMS:
                self._streams.popitem(last=False)
        self.epoch, self._window, self.is_lossless = hello.epoch, hello.window, hello.is_lossless
        self._gap_told = False
        self._give_up(hello.base)

    def _give_up(self, base: int) -> None:
        """Messages before `base` will not come any more."""
        if base > self.accepted:
            self.missed += base - self.accepted
            self.accepted = base
            self._gap_told = False
        self._settle()

    def _settle(self) -> None:
        """Where nothing of this stream waits, what will not come is as good as taken."""
        if not any(waiting.stream == self.stream for waiting in self.waiting) and not (
            self._hand is not None and self._hand.stream == self.stream
        ):
            self.consumed = self.accepted

    def _accept(self, message: Message, arrived_ns: int) -> None:
        if message.number < self.accepted:
            self.repeated += 1
            self._owed.append(False)
            return
        if self.is_lossless:
            if message.number > self.accepted:
                if not self._gap_told:
                    self._gap_told = self._gap = True
                    self._owed.append(False)
                return
            if self._is_full(message, self.room):
                self.crowded += 1
                return  # it comes again
        else:
            self.missed += message.number - self.accepted
            while self._is_full(message, min(self.room, self._window)):
                self.waiting.popleft()
                self.crowded += 1
        self.accepted = message.number + 1
        self._gap_told = False
        self.waiting.append(Waiting(message.stream, message.number, message, arrived_ns))

    def _is_full(self, message: Message, room: int) -> bool:
        """Whether there is no room for one more message, with what waits."""
        if not self.waiting:
            return False
        return len(self.waiting) >= room or sum(each.message.size for each in self.waiting) + message.size > self._most

    def peek(self) -> Waiting | None:
        """The message that is next; None when there is none."""
        return self.waiting[0] if self.waiting else None

    def take(self) -> Waiting:
        """Takes that message in hand. The one that was in hand is consumed."""
        self.done()
        self._hand = self.waiting.popleft()
        return self._hand

    def done(self) -> None:
        """What is in hand is handed over, or given up."""
        hand, self._hand = self._hand, None
        if hand is not None:
            if hand.stream == self.stream:
                self.consumed = max(self.consumed, hand.number + 1)
            self._settle()
            self._owed.append(False)

    def say(self, now_ns: int) -> Iterator[Ack]:
        """Yields the acknowledgements that are owed: an answer for itself, and one for all others."""
        owed, self._owed = self._owed, []
        gap, self._gap = self._gap, False
        for is_answer in sorted(set(owed), reverse=True):
            sent_ns, arrived_ns = self._asked if is_answer else self._stamps
            yield Ack(
                self.receiver,
                self.stream,
                self.epoch,
                self.accepted,
                self.consumed,
                gap,
                is_answer,
                self.room,
                sent_ns,
                arrived_ns,
                now_ns,
            )
