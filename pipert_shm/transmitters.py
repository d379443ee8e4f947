"""Data transmitters: how the payloads of a wire travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipert_shm.limits import check_count

THRESHOLD = 4096  # bytes from which on a buffer goes to shared memory


def _as_it_is(data: Any) -> Any:
    return data


def changes(transmitter: DataTransmitter) -> bool:
    """Whether a transmitter may change payloads, as one of a user's own may."""
    return type(transmitter) not in (SharedMemoryTransmitter, BasicTransmitter)


class DataTransmitter:
    """How the payloads of a wire travel: subclass it to change them on the way.

    The sender applies the function that `transmit()` returns to each payload, the receiver the one that `receive()` returns.
    What the sender's function returns travels through shared memory. Both are applied on wires within a flow too, each on the
    thread of its routine. An error that one of them raises costs that message, and is counted and logged.

    Attributes:
        in_band: whether buffers travel inside the message, so that each receiver gets writable copies.
        data_size_threshold: buffers of at least this many bytes go to shared memory.
    """

    in_band: bool = False
    data_size_threshold: int = THRESHOLD

    def transmit(self) -> Callable[[Any], Any]:
        """Returns the function that the sender applies to each payload."""
        return _as_it_is

    def receive(self) -> Callable[[Any], Any]:
        """Returns the function that the receiver applies to each payload."""
        return _as_it_is


class SharedMemoryTransmitter(DataTransmitter):
    """The default: frames are written once into shared memory, and receivers get read-only views of them.

    :param data_size_threshold: buffers of at least this many bytes go to shared memory; smaller ones are pickled.
    :raises ValueError: when the threshold is no whole number of at least 1.
    """

    def __init__(self, data_size_threshold: int = THRESHOLD) -> None:
        check_count("data_size_threshold (bytes)", data_size_threshold)
        self.data_size_threshold = int(data_size_threshold)


class BasicTransmitter(DataTransmitter):
    """Pickles everything: each receiver gets writable copies, in its own flow too. Each frame is copied twice for that.

    Choose it for code that writes into the frames that it receives.
    """

    in_band = True
