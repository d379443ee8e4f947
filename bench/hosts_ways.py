"""Ways to send frames from one host to another, each with the same credit where it has one; see README.md."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import cv2
import numpy as np

from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire
from pipert_shm.hosts import RemoteReceiver, RemoteSender

from .hosts_net import Loopback
from .processes import run_together
from .sheet import FRAMES, Load, Sheet

QUALITY = 90  # of a JPEG, as the library's
NUMBER = struct.Struct("<QQ")  # of a frame, and the length of what follows
GRACE_S = 0.5  # for what is under way when the last frame has been sent
KEY = "bench/frames"


@dataclass(frozen=True)
class HostLoad(Load):
    """What is offered.

    Attributes:
        jpeg: whether peers send JPEG.
        window: messages that peers with a credit may have under way.
        pictures: of a clip, which are sent in place of frames that are all alike.
    """

    skips: bool = False
    jpeg: bool = False
    window: int = 2
    pictures: np.ndarray | None = field(default=None, compare=False, repr=False)

    def picture(self, number: int) -> np.ndarray:
        assert self.pictures is not None
        last = len(self.pictures) - 1
        picture: np.ndarray = self.pictures[last - abs(number % (2 * last) - last)]  # to and fro
        return picture


class Between(ABC):
    """A way from host 0 to host 1."""

    def __init__(self, net: Loopback, load: HostLoad) -> None:
        self.net, self.load = net, load
        self.port = net.next_port()
        self._frames = load.frames() if load.pictures is None else []

    def data(self, number: int) -> np.ndarray:
        """What is sent: the frame's bytes, or its JPEG."""
        frame = self._frames[number % FRAMES] if self._frames else self.load.picture(number)
        if not self.load.jpeg:
            return frame
        return cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1]

    def frame(self, data: Any, number: int) -> np.ndarray:
        array = np.frombuffer(data, np.uint8)
        if not self.load.jpeg:
            return array.reshape(self.load.shape(number))
        found = cv2.imdecode(array, cv2.IMREAD_COLOR)
        if found is None:
            raise RuntimeError(f"frame {number} is no JPEG")
        return found

    @abstractmethod
    def sender(self) -> Callable[[int], object]:
        """Opens the sending end, on host 0: a function that sends a frame, or drops it."""

    @abstractmethod
    def receiver(self, ready: Callable[[], None]) -> Iterator[tuple[int, np.ndarray]]:
        """Opens the receiving end, on host 1, says that it is ready, and yields the number of each frame, and the frame."""


def by_way(net: Loopback, kind: Callable[[Loopback, HostLoad], Between], sheet: Sheet, *more: Callable[[], None]) -> None:
    """One round. `more` run beside it, in processes of their own."""
    load = sheet.load
    assert isinstance(load, HostLoad)
    way = kind(net, load)

    def send() -> None:
        net.enter(0)
        hand_over = way.sender()
        sheet.wait_for(Sheet.READY)
        start, ticks = time.monotonic_ns(), 0
        while not sheet.is_full(ticks) and not _is_over(sheet):
            ticks += 1
            time.sleep(max(0, start + ticks * load.period_ns - time.monotonic_ns()) / 1e9)
            try:
                hand_over(sheet.stamp())
            except OSError:
                if not _is_over(sheet):  # then the receiver has ended
                    raise
        sheet.mark(0, end=True)
        time.sleep(GRACE_S)
        sheet.set(Sheet.OVER)
        time.sleep(GRACE_S)  # the receiver ends first

    def receive() -> None:
        net.enter(1)
        threading.Thread(target=_end_when_over, args=(sheet,), daemon=True).start()
        for number, frame in way.receiver(lambda: sheet.set(Sheet.READY)):
            note(sheet, frame, number)

    run_together(receive, send, *more)


def _is_over(sheet: Sheet) -> bool:
    return bool(sheet.words[Sheet.OVER])


def _end_when_over(sheet: Sheet) -> None:
    while not _is_over(sheet):
        time.sleep(0.02)
    sheet.mark(1, end=True)
    os._exit(0)  # some wait for a frame, and can't be told to stop


def note(sheet: Sheet, frame: np.ndarray, number: int) -> None:
    assert isinstance(sheet.load, HostLoad)
    is_clip = sheet.load.pictures is not None
    if is_clip and frame.shape != sheet.load.shape(number):
        raise RuntimeError(f"a frame of shape {frame.shape}")
    sheet.note(None if is_clip else frame, number)


class Tcp(Between):
    """A plain socket: the frame from its memory, into one of four arrays; each frame in hand is a byte back, the credit."""

    def sender(self) -> Callable[[int], object]:
        end = _connected(self.net.address(1), self.port)
        under_way = 0

        def send(number: int) -> None:
            nonlocal under_way
            while under_way and select.select([end], [], [], 0)[0]:
                under_way -= len(end.recv(64))
            if under_way >= self.load.window:
                return
            under_way += 1
            data = self.data(number).reshape(-1).data
            sent = end.sendmsg([NUMBER.pack(number, len(data)), data]) - NUMBER.size
            end.sendall(data[sent:])

        return send

    def receiver(self, ready: Callable[[], None]) -> Iterator[tuple[int, np.ndarray]]:
        server = socket.create_server((self.net.address(1), self.port))
        end, _ = server.accept()
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ready()
        rooms = [np.zeros(self.load.frame_bytes, np.uint8) for _ in range(4)]
        head = bytearray(NUMBER.size)
        for turn in count():
            _read(end, memoryview(head))
            number, length = NUMBER.unpack(head)
            room = rooms[turn % len(rooms)][:length]
            _read(end, room.data)
            yield number, self.frame(room, number)
            end.sendall(b"\0")


def _connected(address: str, port: int) -> socket.socket:
    while True:
        try:
            end = socket.create_connection((address, port))
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return end


def _read(end: socket.socket, room: memoryview) -> None:
    at = 0
    while at < len(room):
        got = end.recv_into(room[at:])
        if not got:
            raise RuntimeError("the sender's socket is closed")
        at += got


def _zmq() -> Any:
    import zmq

    return zmq


class Zmq(Between):
    """DEALER sockets over TCP, `copy=False` at both ends; each frame in hand is a message back, the credit."""

    def _socket(self) -> tuple[Any, Any]:
        zmq = _zmq()
        end = zmq.Context().socket(zmq.DEALER)
        end.linger = 0
        end.set_hwm(64)
        return zmq, end

    def sender(self) -> Callable[[int], object]:
        zmq, end = self._socket()
        end.connect(f"tcp://{self.net.address(1)}:{self.port}")
        under_way = 0

        def send(number: int) -> None:
            nonlocal under_way
            while under_way and end.poll(0):
                end.recv()
                under_way -= 1
            if under_way < self.load.window:
                under_way += 1
                end.send(NUMBER.pack(number, 0), zmq.SNDMORE)
                end.send(self.data(number), copy=False)

        return send

    def receiver(self, ready: Callable[[], None]) -> Iterator[tuple[int, np.ndarray]]:
        _, end = self._socket()
        end.bind(f"tcp://{self.net.address(1)}:{self.port}")
        ready()
        while True:
            head, body = end.recv_multipart(copy=False)
            number, _ = NUMBER.unpack(head.buffer)
            yield number, self.frame(body.buffer, number)
            end.send(b"")


class Zenoh(Between):
    """`put()` of the frame as bytes, and a subscriber's queue, with a policy of Zenoh's and no credit."""

    policy = "BLOCK"

    def _open(self, how: str) -> Any:
        import zenoh

        zenoh.init_log_from_env_or("error")
        config = zenoh.Config()
        settings = {
            "mode": "peer",
            "scouting/multicast/enabled": False,
            "transport/shared_memory/enabled": False,
            "listen/endpoints": [],
            "connect/endpoints": [],
            "connect/timeout_ms": -1,
            f"{how}/endpoints": [f"tcp/{self.net.address(1)}:{self.port}"],
        }
        for key, value in settings.items():
            config.insert_json5(key, json.dumps(value))
        return zenoh, zenoh.open(config)

    def sender(self) -> Callable[[int], object]:
        zenoh, session = self._open("connect")
        publisher = session.declare_publisher(KEY, congestion_control=getattr(zenoh.CongestionControl, self.policy))
        while not publisher.matching_status.matching:
            time.sleep(0.001)

        def send(number: int, session: Any = session) -> None:  # which ends when nobody holds it
            publisher.put(self.data(number).tobytes(), attachment=NUMBER.pack(number, 0))

        return send

    def receiver(self, ready: Callable[[], None]) -> Iterator[tuple[int, np.ndarray]]:
        zenoh, session = self._open("listen")
        frames = session.declare_subscriber(KEY, zenoh.handlers.FifoChannel(256))
        ready()
        while session is not None:
            sample = frames.recv()
            number, _ = NUMBER.unpack(sample.attachment.to_bytes())
            yield number, self.frame(sample.payload.to_bytes(), number)


class ZenohDrop(Zenoh):
    """The same with its policy for what is congested."""

    policy = "DROP"


class Camera(SourceRoutine):
    """Sends frames that lie ready in shared memory, once the other end is there."""

    def __init__(self, sheet: Sheet, sender: RemoteSender) -> None:
        super().__init__("camera")
        assert isinstance(sheet.load, HostLoad)
        self._sheet, self._load, self._sender = sheet, sheet.load, sender
        self._frames: list[np.ndarray] = []
        self._ticks = 0
        self.declare_output(self._load.largest)
        self.set_const_fps(self._load.fps)

    def setup(self) -> None:
        for number in range(FRAMES if self._load.pictures is None else 0):
            self._frames.append(self.loan(self._load.shape(number)))
            self._frames[number][:] = number

    def main_logic(self) -> np.ndarray | None:
        sheet = self._sheet
        if sheet.is_full(self._ticks) or _is_over(sheet):
            raise EndOfStream
        if not self._sender.counters["connected"] and not self._is_reached():
            return None
        self._ticks += 1
        number = sheet.stamp()
        self.meta.pts = float(number)
        if self._frames:
            return self._frames[number % FRAMES]
        frame = self.loan(self._load.shape(number))
        np.copyto(frame, self._load.picture(number))
        return frame

    def _is_reached(self) -> bool:
        line = self._sender._line
        return line is not None and line.machine.is_connected

    def cleanup(self) -> None:
        self._sheet.mark(0, end=True)
        self._frames.clear()


class Screen(DestinationRoutine):
    """Notes what it gets."""

    def __init__(self, sheet: Sheet) -> None:
        super().__init__("screen")
        self._sheet = sheet

    def main_logic(self, data: Any) -> None:
        assert self.meta.pts is not None
        note(self._sheet, data, int(self.meta.pts))

    def cleanup(self) -> None:
        self._sheet.mark(1, end=True)


def by_this(net: Loopback, sheet: Sheet, *more: Callable[[], None], **settings: Any) -> None:
    """One round: two pipes, each with all its routines in one flow."""
    port = net.next_port()
    address = f"tcp/{net.address(1)}:{port}"

    def send() -> None:
        net.enter(0)
        logging.disable(logging.WARNING)  # the tables tell what came
        sender = RemoteSender("bench", "sender", connect=address, **settings)
        camera = Camera(sheet, sender)
        with Pipe(policy="drop_oldest", capacity=2) as pipe:
            pipe.create_flow("edge", False, camera, sender)
            pipe.link(Wire(camera, sender))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
        time.sleep(GRACE_S)
        sheet.set(Sheet.OVER)

    def receive() -> None:
        net.enter(1)
        logging.disable(logging.WARNING)
        receiver = RemoteReceiver("bench", "receiver", listen=address)
        screen = Screen(sheet)
        with Pipe(policy="drop_oldest", capacity=2) as pipe:
            pipe.create_flow("hub", False, receiver, screen)
            pipe.link(Wire(receiver, screen))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            sheet.wait_for(Sheet.OVER)
            pipe.join(to_kill=True)

    run_together(receive, send, *more)


def this(net: Loopback, **settings: Any) -> Callable[..., None]:
    return partial(by_this, net, **settings)


def peer(net: Loopback, kind: Callable[[Loopback, HostLoad], Between]) -> Callable[..., None]:
    return partial(by_way, net, kind)
