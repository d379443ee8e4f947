"""The destination that sends to another host."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from pipert_shm.binding import now_ns
from pipert_shm.hosts.carrier import Hub
from pipert_shm.hosts.choosing import CodecChoice
from pipert_shm.hosts.clocks import ClockOffset
from pipert_shm.hosts.encoding import CODEC_NUMBERS, ArrayCodec, Encoder, FilmBody
from pipert_shm.hosts.line import Line, Tell, name_of_end
from pipert_shm.hosts.messages import EPOCH_BITS, Ack, Message, Refresh, Said, Taken, pack
from pipert_shm.hosts.payloads import CODECS, Codec, Whole, check_codec
from pipert_shm.hosts.protocol import Sender
from pipert_shm.hosts.remote import Remote
from pipert_shm.hosts.window import MOST, AutoWindow
from pipert_shm.limits import FILM_CODECS, LEAST_BIT_RATE, check_choice, check_count, check_seconds
from pipert_shm.routine import DestinationRoutine
from pipert_shm.shm.slots import Stopping

RemotePolicy = Literal["drop_oldest", "block"]
PATIENCE = 1.0  # seconds that a message waits for its turn before it is dropped, where the policy drops and there is no max_age
FLUSH_S = 2.0  # that the end waits for acknowledgements: with the time to disconnect it is shorter than a pipe's grace period
MOST_OTHERS = 16  # receivers that are not served, and are remembered


@runtime_checkable
class Keeping(Protocol):
    """What a sender asks of the process that runs it. See `flow.loans.Loans`."""

    def keep(self, number: int) -> None:
        """Notes a number, and that the message in hand is in safety, in one step."""

    def kept(self) -> int:
        """The number that `keep` was given last."""


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


class RemoteSender(Remote, DestinationRoutine):
    """Sends what it gets to the `RemoteReceiver` of the same key, in a pipe on another host (the extra `hosts`).

    With `policy="drop_oldest"` at most `window` messages are under way, and those that can't be sent in time are dropped and
    counted. While no receiver can be reached, all are. With `policy="block"` each message arrives once and in order, across
    cuts of the link and restarts of either flow. While no receiver takes them the routine waits, and the policy of the wire
    before it says what happens: for a lossless way that is `block`, too. What a sender has when it dies is lost, and counted
    by the receiver.

    Payloads are arrays, `Detections`, `DetectedFrame`, and plain values in lists, tuples and dicts. They are not pickled.

    :param key: of the wire. Each wire has one sender and one receiver; a second one is named in the log, and gets nothing.
    :param connect: address of the other end or of a hub: `tcp/HOST:PORT`, or `tls/HOST:PORT` with the three files.
    :param listen: in its place, the address where this end listens.
    :param ca: file with the certificate of the authority that both trust.
    :param certificate, key_file: files with the certificate of this end, and its private key.
    :param host: the name of this host; with `tls/` that of its certificate.
    :param peer: the name of the host that the receiver is on. A hub that goes by certificates lets through nothing without it.
    :param policy: what happens when messages come faster than the other end takes them.
    :param window: the most messages under way; `auto` for what the rate and the round trip ask for, 2 to 64.
    :param max_age: seconds since its capture after which a message is neither sent nor delivered.
    :param codec: `jpeg`, `h264` or `h265` for pictures (arrays of 8 bits with one or three channels; all else goes as it is),
        `zstd` for everything without a loss, `none`; `auto` for what link and processor can do: `none`, `jpeg` or `h264`.
    :param bit_rate: of H.264 or H.265, bits a second for each camera; None for 3 or 2 bits for each pixel of a picture.
    :raises ValueError: when a setting is wrong.
    :raises ImportError: when `codec` needs a package that is missing.

    >>> sender = RemoteSender("gate", connect="tcp/10.0.0.7:7447", codec="jpeg", max_age=0.5)
    """

    counter_names = (
        "connected",
        "sent",
        "acknowledged",
        "resent",
        "dropped",
        "window",
        "round_trip_us",
        "stream",
        "sent_bytes",
        "codec",
        "codec_changes",
        "key_frames",
        "link_kbit_s",
        "damaged",
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
        policy: RemotePolicy = "drop_oldest",
        window: int | Literal["auto"] = "auto",
        max_age: float | None = None,
        codec: Codec = "none",
        bit_rate: int | None = None,
    ) -> None:
        super().__init__(name, key, Hub(connect, listen, ca, certificate, key_file, host, peer))
        check_choice("policy", policy, get_args(RemotePolicy))
        check_choice("codec", codec, CODECS)
        if window != "auto":
            check_count("window", window)
            if window > MOST:
                raise ValueError(f"window must be 'auto', or a whole number from 1 to {MOST} messages, not {window}")
        if max_age is not None:
            check_seconds("max_age", max_age, positive=True)
        check_codec(codec)
        if bit_rate is not None:
            check_count("bit_rate", bit_rate, LEAST_BIT_RATE)
            if codec not in FILM_CODECS:
                raise ValueError(f"bit_rate is for codec h264, h265 or auto, and this one is {codec!r}: leave it away")
        self._is_lossless = policy == "block"
        self._window = None if window == "auto" else window
        self._max_age = max_age
        self._codec: Codec = codec
        self._bit_rate = bit_rate
        self._line: SenderLine | None = None

    def setup(self) -> None:
        """Connects in the background, or listens.

        :raises ImportError: when Zenoh is not installed.
        :raises HostsError: when a file can't be read, or the address is taken.
        """
        self._stopping = False
        word = self.counters["stream"] or secrets.randbits(40) << EPOCH_BITS
        self.counters["stream"] = word = word + 1  # another epoch of the same stream
        stream, epoch = word >> EPOCH_BITS, word & ((1 << EPOCH_BITS) - 1)
        if isinstance(self._runtime, Keeping):
            self.counters["sent"] = max(self.counters["sent"], self._runtime.kept())
        machine = Sender(stream, epoch, self.counters["sent"], is_lossless=self._is_lossless)
        self._base = self.counters["resent"], self.counters["sent_bytes"], self.counters["key_frames"]
        self._damaged = self.counters["damaged"]
        self._encoder = Encoder(self._bit_rate, self._logger)
        self._line = SenderLine(self._hub, self.key, self.name, machine, self._window, self._tell, self._logger)
        self._choice = self._line.choice = CodecChoice() if self._codec == "auto" else None

    def main_logic(self, data: Any) -> None:
        """Sends a message, or drops it.

        :raises PayloadError: when it holds what can't go to another host.
        """
        line = self._line
        assert line is not None, "setup() comes first"
        meta = self.meta
        begun = time.monotonic()
        with line.changed:
            may = self._await_room(line, meta.captured_ns)
            is_connected = line.machine.is_connected
            if may and line.needs_key_frame():
                self._encoder.refresh()
        if self._choice is not None and is_connected:
            with line.changed:
                self._choice.note_offered(dropped=not may, waited=time.monotonic() - begun)
        if may:
            self._send(line, data)
        else:
            self.counters["dropped"] += 1
        self._count(line)

    def _send(self, line: SenderLine, data: Any) -> None:
        meta, encoder = self.meta, self._encoder
        body = encoder.encode(data, meta, self._codec_now(line))
        whole: Whole | None = None
        if isinstance(body, FilmBody):
            held: Any = body
        else:
            with line.changed:
                whole = body if line.begin() else None
            held = [] if whole is not None else line.carrier.hold(body.pieces)
        with line.changed:
            if isinstance(self._runtime, Keeping):
                self._runtime.keep(line.machine.next + 1)  # from here on it is the wire's: the receiver counts a loss
            self.counters["sent"] = line.machine.next + 1
            now = time.monotonic()
            line.auto.note_sent(now)
            if self._choice is not None:
                self._choice.note_encoded(encoder.raw_bytes, encoder.encoded_bytes, encoder.seconds)
            line.machine.offer(meta.captured_ns, held, now, meta.uncertainty_ns)
            if whole is None:
                line.poke()
        if whole is not None:
            line.send_at_once(whole, held)

    def _codec_now(self, line: SenderLine) -> ArrayCodec:
        if self._codec != "auto":
            codec: ArrayCodec = self._codec
        else:
            assert self._choice is not None, "setup() made it"
            with line.changed:
                before, chosen = self._choice.codec, self._choice.choose(time.monotonic())
            if chosen is not None:
                self.counters["codec_changes"] += 1
                self._logger.info("the wire %r goes from codec %s to %s: %s", self.key, before, chosen.codec, chosen.why)
            codec = self._choice.codec
        self.counters["codec"] = CODEC_NUMBERS[codec]
        return codec

    def _await_room(self, line: SenderLine, captured_ns: int) -> bool:
        """Waits until the message may be sent; False if it is to be dropped."""
        machine = line.machine
        if self._is_lossless:
            line.changed.wait_for(lambda: machine.has_room or self._stopping)
        elif machine.is_connected:
            age = (now_ns() - captured_ns) / 1e9
            patience = PATIENCE if self._max_age is None else self._max_age - age
            line.changed.wait_for(lambda: machine.has_room or self._stopping or not machine.is_connected, max(patience, 0))
        if self._stopping and not machine.has_room:
            raise Stopping
        is_late = self._max_age is not None and now_ns() - captured_ns > self._max_age * 1e9
        return machine.has_room and not is_late

    def _count(self, line: SenderLine) -> None:
        machine = line.machine
        self.counters["connected"] = machine.is_connected
        self.counters["acknowledged"] = machine.next - len(machine.held)
        self.counters["resent"] = self._base[0] + machine.resent
        self.counters["sent_bytes"] = self._base[1] + line.sent_bytes
        self.counters["key_frames"] = self._base[2] + self._encoder.key_frames
        if self._choice is not None and math.isfinite(self._choice.link):
            self.counters["link_kbit_s"] = int(self._choice.link / 125)
        self.counters["window"] = machine.window
        self.counters["damaged"] = self._damaged + line.damaged
        self.counters["round_trip_us"] = int(line.auto.round_trip * 1e6)

    def cleanup(self) -> None:
        """Waits for acknowledgements, up to 2 s, and disconnects, in up to 2 s."""
        line = self._line
        if line is None:
            return
        with line.changed:
            line.changed.wait_for(lambda: not line.machine.held, FLUSH_S if line.machine.is_connected else 0)
            if line.machine.held:
                self._logger.warning("%d messages were sent to %r and not acknowledged", len(line.machine.held), self.key)
        self._count(line)
        self._close()
