"""Drives the hot path (csrc/hot/) with damage: `python tests/fuzz_hot.py --seconds 10`. `make hot-sanitized` does it best.

Wrong arguments for every method, messages that contradict themselves, words of a delivery that change between a receipt and
what Python makes of it, damaged heads of messages that wait within the flow. Nothing may crash or hang, no exception but the
documented ones may come, and in the end nothing is held. An episode that fails is run again by `--seed S --episode N`.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import mmap
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hot_ends import SHAPE, Across, Hot, Stop, Within
from pipert_shm import Meta, binding
from pipert_shm.binding import hot
from pipert_shm.message.layouts import packed_strides, write_layout
from pipert_shm.shm.slots import Stopping

STEPS = 60
HANG = 30  # seconds that one episode may take
DOCUMENTED = (
    TypeError,
    ValueError,
    OverflowError,
    LookupError,
    AttributeError,
    RuntimeError,
    ImportError,
    struct.error,
)  # of wrong arguments
SHAPES = [SHAPE, (5000,), (1, 1, 5000), (2,) * 8 + (32,), (2,) * 9 + (16,), (0, 7), ()]
WORDS = ["token", "sequence", "captured_ns", "sent_ns", "received_ns", "origin", "kind", "head", "over_cap"]
DTYPES = ["u1", "i2", ">f4", "S3", "V7", "M8[s]", [("x", "i4"), ("y", "f8")]]


class Emptying(Meta):
    """Empties the list that it is sent with."""

    holder: list[Any]

    @property
    def origin_number(self) -> int:
        self.holder.clear()
        return 0

    @origin_number.setter
    def origin_number(self, number: int) -> None: ...


class Episode:
    """One world, and what happens in it."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed}-{number}")
        self.ends: Hot
        self.kept: list[np.ndarray] = []
        self.damaged = False
        self.skips = False  # a message that contradicts its slots is skipped, and nobody knows what it held
        self.texts = [write_layout(array, packed_strides(array)) for array in (np.empty(SHAPE, "u1"), np.empty((5000,), "i2"))]

    def run(self) -> None:
        dice = self.random
        worlds: list[tuple[Any, dict[str, Any]]] = [
            (Across, {}),
            (Across, {"max_age": 5.0}),
            (Within, {}),
            (Within, {"near": 2}),
        ]
        kind, options = dice.choice(worlds)
        with kind(**options) as self.ends:
            steps = [
                self.send,
                self.send_in_c,
                self.take,
                self.take_in_c,
                self.damage_delivery,
                self.damage_waiting,
                self.wrong_call,
            ]
            for _ in range(STEPS):
                dice.choice(steps if kind is Within else [*steps, self.forge])()
                if dice.random() < 0.1:
                    self.kept.clear()
            self.end()

    def end(self) -> None:
        """Takes all that is left; then nothing is held."""
        ends = self.ends
        self.kept.clear()
        ends.outbox.abandon()
        for box in ends.boxes:
            for _ in range(64):
                status = box.receive(0)
                if status == binding.TIMED_OUT:
                    break
                if status == binding.OK:
                    self.try_to(box.take)
        for table in ends.tables:
            if table and not self.damaged:
                raise AssertionError(f"messages wait that nobody asks for: {table}")
            table.clear()
        for path in (ends.sender, *(box._port.hot for box in ends.boxes)):
            path.meta = None
            path.take_result(), path.take_payload()
        gc.collect()
        if ends.held_slots() and not self.skips:
            raise AssertionError(f"{ends.held_slots()} slots are still held")

    def try_to(self, call: Callable[[], Any]) -> Any:
        """What a call gives, None where it raises, as anything may that unpacks damaged messages."""
        try:
            return call()
        except (Exception, Stopping) as error:
            if isinstance(error, SystemError | AssertionError):
                raise
            return None

    # ---- what is right, or nearly ----------------------------------------------------------------

    def frame(self) -> np.ndarray:
        dice = self.random
        frame = self.ends.loan(dice.choice(SHAPES), dice.choice(DTYPES))
        return dice.choice(
            [lambda: frame, lambda: frame.T, lambda: frame[::2] if frame.ndim else frame, frame.copy, frame.view]
        )()

    def number(self) -> Any:
        return self.random.choice(
            [0, 1, 7, 1 << 31, 1 << 32, (1 << 64) - 1, 1 << 64, -1, None, "x", 1.5, np.int64(5), np.zeros(2)]
        )

    def hops(self) -> Any:
        dice = self.random
        return dice.choice([bytes(24 * dice.randrange(18)), bytes(dice.choice([7, 384, 385, 393, 500, 4096, 5000])), "x"])

    def meta(self) -> Meta:
        dice = self.random
        meta = self.ends.meta()
        if dice.random() < 0.4:
            name = dice.choice(["sequence", "captured_ns", "origin_number", "pts", "_hops", "_hops", "_hops", "ticket"])
            value = self.number() if name != "_hops" else self.hops()
            setattr(meta, name, value)
        return meta

    def send(self) -> None:
        payload = self.frame() if self.random.random() < 0.8 else {"frame": self.frame(), "list": [1]}
        meta = self.meta()
        self.try_to(lambda: self.ends.outbox.send([payload], meta))
        self.settle()

    def settle(self) -> None:
        """A queue may have been full."""
        if self.ends.outbox.unsent:
            self.ends.out.noticed()
            self.ends.outbox.abandon()

    def send_in_c(self) -> None:
        dice, ends = self.random, self.ends
        left = dice.randrange(1, 4)

        def main_logic() -> Any:
            nonlocal left
            left -= 1
            chance = dice.random()
            if left == 0:
                ends.out.notify()
            if chance < 0.1:
                raise Stop
            if chance < 0.3:
                ends.sender.meta = self.meta()
            if chance > 0.7:
                frame = self.frame()
                return dice.choice(
                    [None, 5, {"frame": frame}, [frame, frame, np.arange(9)], (Meta, frame[:1]), [open], "x" * 5000]
                )
            return self.frame()

        ring = ends.outbox.ring
        if ring is None:
            return self.settle()
        outcome = self.try_to(lambda: ends.sender.run(main_logic, True, ring, 0, 0))
        ends.out.noticed()
        if outcome == binding.SENT:
            self.try_to(lambda: ends.outbox.finish(ends.sender.status))
        elif outcome == binding.REFUSED:
            ends.sender.take_error(), ends.sender.take_result()
            self.settle_post()
        elif outcome == binding.RESULT:
            payload, meta = ends.sender.take_result(), self.meta()
            self.try_to(lambda: ends.outbox.send([payload], meta))
        self.settle()

    def look(self, frame: Any) -> None:
        """Reads all of a frame, which the sanitizer watches; and keeps some."""
        if isinstance(frame, np.ndarray):
            frame.tobytes()
            if self.random.random() < 0.3 and len(self.kept) < 6:
                self.kept.append(frame)

    def take(self) -> None:
        box = self.random.choice(self.ends.boxes)
        if box.receive(0) == binding.OK:
            if self.random.random() < 0.2:
                self.try_to(lambda: box.discard("ended"))
            elif (got := self.try_to(box.take)) is not None:
                self.look(got[0])
                self.try_to(lambda: (got[1].hops, got[1].pts, repr(got[1])))

    def take_in_c(self) -> None:
        dice = self.random
        box = dice.choice(self.ends.boxes)
        path = box._port.hot
        waiting = box.unread([edge.number for edge in box._edges.values()])
        left = min(waiting, dice.randrange(1, 4))

        def main_logic(frame: np.ndarray) -> Any:
            nonlocal left
            left -= 1
            self.look(frame)
            if left <= 0:
                box._port.notify()
            chance = dice.random()
            if chance < 0.2:
                path.raw()
            elif chance < 0.3:
                path.meta = self.meta()
            elif chance < 0.4:
                path.come_back()
            elif chance < 0.5:
                raise Stop
            return dice.choice([None, frame])

        if not waiting:
            box._port.notify()
        outcome = self.try_to(lambda: path.run(main_logic, False, 0, 0, 0))
        box._port.noticed()
        path.take_payload(), path.take_result()
        if outcome == binding.FOUND and self.try_to(lambda: box.accept(path.status, 0)) == binding.OK:
            self.try_to(box.take)

    # ---- damage ----------------------------------------------------------------------------------

    def damage_delivery(self) -> None:
        """Between a receipt and what Python makes of it. Where its memory lies stays true: that is not for anybody to check."""
        dice = self.random
        box = dice.choice(self.ends.boxes)
        if box.receive(0) != binding.OK:
            return
        delivery, recognised = box._port.delivery, box._array
        pickled = not (recognised or delivery.local or delivery.kind & 0xFF)
        self.damaged = True
        for _ in range(dice.randrange(1, 4)):
            word = dice.choice(
                ["token", "sequence", "captured_ns", "sent_ns", "received_ns", "origin", "kind", "head", "over_cap"]
            )
            if not (pickled and word in ("kind", "head")):  # anything may come of another pickle
                bits = 64 if word in ("token", "sequence") or word.endswith("_ns") else 32
                setattr(delivery, word, dice.choice([0, 1, 0x200, 0x501, 4096, 4097, dice.getrandbits(bits)]))
        if not pickled:
            for _ in range(dice.randrange(4)):
                delivery.body[dice.randrange(64)] = dice.getrandbits(8)
        got = self.try_to(box.take)
        if got is not None:
            self.look(got[0])
            self.try_to(lambda: (got[1].hops, got[1].pts, repr(got[1])))

    def damage_waiting(self) -> None:
        dice = self.random
        for table in self.ends.tables:
            for token, message in list(table.items()):
                if dice.random() < 0.5 and isinstance(message, tuple) and len(message) == 3:
                    self.damaged = True
                    opener, head, sent_ns = message
                    others: list[Any] = [b"", dice.randbytes(dice.randrange(500)), None, 5, "text", self.meta()]
                    if isinstance(head, bytes):
                        others += [head[:-1], head + bytes(8), bytes(len(head)), dice.randbytes(len(head))]
                    wrong: list[Any] = [(opener, dice.choice(others), sent_ns)] * 4
                    wrong += [(), (opener,), None, (None, head, sent_ns), (opener, head, None), (lambda: 1 / 0, head, sent_ns)]
                    table[token] = dice.choice(wrong)

    def forge(self) -> None:
        """A message as no sender makes one: its kind, its head, and where its array lies."""
        dice, ends = self.random, self.ends
        outbox: Any = ends.outbox
        ring = outbox._messages.ring
        post = outbox._posting.post
        if ring < 0 or outbox.unsent:
            return
        frame = ends.frame(5)
        if ends.out.refer(post.post, 1, binding.memory_of(frame), frame.nbytes) == binding.NO_SLOT:
            return
        text = bytearray(dice.choice(self.texts))
        if dice.random() < 0.5:
            text[dice.randrange(len(text))] = dice.getrandbits(8)
        head = dice.randbytes(dice.choice([0, 8, 16, 24, 360, 384, 392, 500]))
        offset = struct.pack("=Q", dice.choice([0, 1, 64, 4096, frame.nbytes, 1 << 63, (1 << 64) - 1, dice.getrandbits(14)]))
        body = head + offset + bytes(text[: dice.choice([len(text), len(text), dice.randrange(len(text))])])
        size = dice.choice([len(head), len(head), 0, dice.randrange(len(body) + 1)])
        if dice.random() < 0.02:
            size += len(body)
            self.skips = True
        kind = dice.choice([1, 1, 1, 0x401, 0x101, 0x501, 0x200, 0x201, dice.getrandbits(16) | 1])
        post.post.outs = 1
        status = ends.out.send(post.post, ring, 1, binding.now_ns(), 0, kind, size, body, len(body))
        self.try_to(lambda: outbox._posting.finish(status))
        del frame
        if outbox._posting.stuck:
            outbox._posting.give_up(binding.REASONS["stopped"])

    # ---- wrong arguments -------------------------------------------------------------------------

    def thing(self) -> Any:
        dice = self.random
        numbers = [-1, 0, 1, 7, 8, 255, 256, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 1.5, np.float64(2), True]
        shapes = [(), (1,), (-1,), (1 << 62, 1 << 62), ("x",), (1,) * 9, (3, 4, 5)]
        texts = [b"", bytes(31), bytes(32), bytes(425), bytearray(40), memoryview(bytes(40)), "x"]
        others = [None, [], [None], {}, [{}], [5], object(), np.zeros(3), lambda: None, Meta(("x",), 0, 0)]
        dtypes = [np.dtype("u1"), np.dtype("O"), np.dtype("S0"), np.dtype("V7")]
        things: list[Any] = [*numbers, *shapes, *texts, *others, *dtypes]
        return dice.choice([lambda: dice.choice(things), lambda: [self.frame()], self.frame, self.meta])()

    def wrong_call(self) -> None:
        dice, ends = self.random, self.ends
        path: Any = dice.choice([ends.sender, ends.receiver])
        name = dice.choice(
            ["learn", "take", "raw", "limit_age", "receive_within", "adopt", "send_on", "share", "describe", "send"]
        )
        name = dice.choice([name, "message", "run", "meta", "HotPath", "array", "lease", "emptying", "array_at"])
        name = dice.choice([name, name, "pickle_form", "persistent_id", "persistent_load", "end_pickle", "take_error"])
        arguments = [self.thing() for _ in range(dice.choice([0, 1, 2, 3, 3, 4, 4, 5, 5]))]
        call: Callable[[], Any] = lambda: getattr(path, name)(*arguments)  # noqa: E731
        if name == "meta":
            call = lambda: setattr(path, "meta", arguments[0] if arguments else None)  # noqa: E731
        elif name == "emptying":
            meta, holder = Emptying(ends.names, 0, 1, 1), [self.frame()]
            meta.holder = holder
            call = lambda: path.send(holder, meta, 0, 0)  # noqa: E731
        elif name in ("HotPath", "send_on"):  # addresses are true, or none at all
            arguments = [None if isinstance(one, int) else one for one in arguments]
            call = lambda: (hot.HotPath if name == "HotPath" else path.send_on)(*arguments)  # noqa: E731
        elif name == "array_at":
            arguments = dice.choice([arguments, [bytes(40), dice.choice([0, 8, 1 << 63]), self.text()]])
            call = lambda: hot.array_at(*arguments)  # noqa: E731
        elif name == "persistent_load":
            arguments = [
                dice.choice([*arguments, (bytes(40), 8, self.text()), (0, 0, self.text()), b"os:path", b"builtins:int"])
            ]
            call = lambda: path.persistent_load(*arguments)  # noqa: E731
        elif name in ("array", "lease"):
            arguments[:1] = [self.address() if self.takes(name, arguments) else 0]
            call = lambda: getattr(hot, name)(*arguments)  # noqa: E731
        elif name == "take":  # the layout of a message that is in no hand
            call = lambda: path.take(dice.choice([-1, 0, 15, 16 + 8, 1 << 40, None, "x"]))  # noqa: E731
        elif name == "run" and path is ends.receiver:
            ends.boxes[0]._port.notify()
        elif name == "run":
            ends.out.notify()
        elif name in ("receive_within", "limit_age"):  # a place that nothing comes to, or none
            second: list[Any] = [{}, None] if name == "receive_within" else [0, 5]
            arguments = [dice.choice([254, 255, 256, 300, -1, 1 << 33]), dice.choice([*second, self.thing()])]
        elif name == "learn" and dice.random() < 0.5:
            arguments[:1] = [dice.choice([8, 255, -1])]
        try:
            call()
        except DOCUMENTED:
            pass
        finally:
            ends.out.noticed(), ends.boxes[0]._port.noticed()
            path.take_payload(), path.take_result()
        if name in ("send", "persistent_id"):
            path.end_pickle()
            self.settle_post()

    def text(self) -> bytes:
        """A layout, mostly damaged."""
        dice = self.random
        text = bytearray(dice.choice(self.texts))
        text[dice.randrange(len(text))] = dice.getrandbits(8)
        return bytes(text)

    def settle_post(self) -> None:
        """A send that was right after all."""
        posting: Any = self.ends.outbox
        posting._posting.abandon("error")

    @staticmethod
    def takes(name: str, arguments: list[Any]) -> bool:
        """Whether `hot.array` or `hot.lease` gets as far as to own the slot."""
        if len(arguments) != 3:
            return False
        if name == "array":
            return isinstance(arguments[1], tuple)
        has_truth = not isinstance(arguments[2], np.ndarray)
        return type(arguments[1]) is int and arguments[1] < 1 << 63 and has_truth

    def address(self) -> int:
        """Of a slot that is held for whoever gets this."""
        slots: Any = self.ends.outbox.slots
        reserved = slots.reserve_now(5000)
        return 0 if reserved is None else int(reserved[1])


def run(seed: int, first: int, seconds: float, at: mmap.mmap) -> None:
    number, until = first, time.monotonic() + seconds
    while number == first or time.monotonic() < until:
        at[:8] = struct.pack("=q", number)
        faulthandler.dump_traceback_later(HANG, exit=True)
        Episode(seed, number).run()
        number += 1
    faulthandler.cancel_dump_traceback_later()
    print(f"{number - first} episodes of {STEPS} steps, nothing found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episode", type=int, help="this one alone")
    asked = parser.parse_args()
    at = mmap.mmap(-1, 8)
    sys.stdout.flush()
    child = os.fork()  # so that somebody is left to say which episode it was
    if not child:
        faulthandler.enable()
        run(asked.seed, asked.episode or 0, 0 if asked.episode is not None else asked.seconds, at)
        return
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        (number,) = struct.unpack("=q", at[:8])
        sys.exit(f"it ended with {status} in --seed {asked.seed} --episode {number}")


if __name__ == "__main__":
    main()
