"""Data transmitters: how the payloads of a wire travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipert_shm.codec import THRESHOLD
from pipert_shm.limits import check_count


def _as_it_is(data: Any) -> Any:
    return data


def changes(transmitter: DataTransmitter) -> bool:
    """Whether it does anything to a payload."""
    return type(transmitter) not in (SharedMemoryTransmitter, BasicTransmitter)


class DataTransmitter:
    """How the payloads of a wire travel; subclass it to change them on the way.

    `transmit()` returns the function that the sender applies to each payload, `receive()` the one that the receiver applies.
    What the first returns travels through shared memory; the pair is applied on wires within a flow too.

    Attributes:
        in_band: buffers travel inside the message, so that each receiver gets writable copies.
        data_size_threshold: buffers of at least this many bytes go to shared memory.
    """

    in_band: bool = False
    data_size_threshold: int = THRESHOLD

    def transmit(self) -> Callable[[Any], Any]:
        """The function that the sender applies."""
        return _as_it_is

    def receive(self) -> Callable[[Any], Any]:
        """The function that the receiver applies."""
        return _as_it_is


class SharedMemoryTransmitter(DataTransmitter):
    """The default: frames are written once into shared memory, and receivers get read-only views of them.

    :param data_size_threshold: buffers of at least this many bytes go to shared memory; smaller ones are pickled.
    :raises ValueError: when it is no whole number of at least 1.
    """

    def __init__(self, data_size_threshold: int = THRESHOLD) -> None:
        check_count("data_size_threshold (bytes)", data_size_threshold)
        self.data_size_threshold = int(data_size_threshold)


class BasicTransmitter(DataTransmitter):
    """Everything is pickled: each receiver gets writable copies, in its own flow too, at the price of copying each frame twice.

    The way of least change for code that writes into the frames that it receives.
    """

    in_band = True
