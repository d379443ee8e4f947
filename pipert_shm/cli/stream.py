"""Streams what a routine of a running pipe sends (`pipert-shm stream`)."""

from __future__ import annotations

import logging
import time
from functools import partial

from pipert_shm.api.streams import tap_feed
from pipert_shm.attached import attach
from pipert_shm.display.masking import masked
from pipert_shm.streaming.broadcast import Broadcast
from pipert_shm.streaming.encoding import StreamSettings
from pipert_shm.streaming.pushing import FAREWELL_S, Pusher
from pipert_shm.streaming.routines import sender_to
from pipert_shm.system.streams import say
from pipert_shm.video.films import LARGEST

LOOK_S = 0.25


def stream(pipe: str, routine: str, where: str, token: str | None, settings: StreamSettings) -> None:
    """Streams until the pipe has ended, or Ctrl-C. What is wrong with the other end is told, and it is tried again.

    :param where: `rtsp://…`, `https://…` for WHIP, or a directory for HLS; checked by `check_where`.
    :raises PipertError, OSError: when there is nothing to stream, or the directory can't be made.
    """
    logger = logging.getLogger("pipert-shm stream")
    logger.propagate = False
    logger.addHandler(_Said())
    logger.setLevel(logging.INFO)
    with attach(pipe) as attached:
        attached.tap(routine).close()  # what is wrong with it is told at once
        sender = sender_to(where, token)
        feed = partial(tap_feed, partial(attached.tap, routine), settings.width or LARGEST)
        broadcast = Broadcast(routine, feed, settings, logger)
        pusher = Pusher(broadcast, sender, masked(where), logger)
        try:
            while not (attached.has_ended or pusher.over):
                time.sleep(LOOK_S)
        finally:
            pusher.close()
            broadcast.close(FAREWELL_S)
        say(f"{pusher.sent} frames were sent; the pipe has ended")


class _Said(logging.Handler):
    """Writes records to standard error, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        say(masked(record.getMessage()))
