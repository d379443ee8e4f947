"""Keeps a camera's packets, and writes clips and the continuous recording, on a thread that the camera never waits for."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import av

from pipert_shm.binding import now_ns
from pipert_shm.errors import shown as quoted
from pipert_shm.limits import is_number
from pipert_shm.shm.counters import Counters
from pipert_shm.video.detection_output import jsonable
from pipert_shm.video.files import locked
from pipert_shm.video.footage.clip import Clip, at_ns
from pipert_shm.video.footage.continuous import Continuous
from pipert_shm.video.footage.kept import CODECS, Keeping
from pipert_shm.video.footage.leftovers import tidy
from pipert_shm.video.footage.retention import Retention
from pipert_shm.video.footage.roll import Roll
from pipert_shm.video.footage.settings import LATEST, MB, FootageSettings
from pipert_shm.video.footage.shelf import folder_of

PERIOD_NS = 500_000_000
"""Packets are written together, so often."""

MOST_CLIPS = 16
"""Clips of a camera that are written at the same time."""

MOST_ASKED = 256  # events that wait for the thread
SAME_NS = 100_000_000
"""An event that is told again after its clip, and goes on for so much longer than that, has another clip."""

FAREWELL = 10.0
"""Seconds that `close` waits for the disk. What is not whole then is made whole at the next start."""

_REMEMBERED = 256  # ids of clips that are over, or were refused: their events may go on, or come again


class Footage:
    """Keeps what a camera sends.

    :param camera: its name.
    :param counters: where `clips`, `cut_clips`, `lost_clips`, `segments` and `unrecorded` are counted.
    :raises OSError: when the directory can't be made or written to.
    """

    def __init__(self, settings: FootageSettings, camera: str, counters: Counters, logger: logging.Logger) -> None:
        self._settings = settings
        self._camera = camera
        self._counters = counters
        self._logger = logger
        self._folder = folder_of(settings.directory, camera)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._claim()
        self._changed = threading.Condition()
        self._roll = Roll(settings.seconds, round(settings.memory_mb * MB))
        self._keeping: Keeping | None = None
        self._asked: deque[tuple[Clip, int]] = deque()  # and until when its event is known to go on
        self._refused = self._crowded_out = self._new_segments = 0
        self._told_of_memory = False
        self._unrecorded_before = counters["unrecorded"]
        self._clips: dict[str, Clip] = {}
        self._over: OrderedDict[str, int] = OrderedDict()  # ids of clips that are over, and when they ended
        self._lost: deque[str] = deque(maxlen=_REMEMBERED)
        self._told_of_no_clips = False
        self._retention = Retention(self._folder, settings, logger)
        self._continuous = (
            None
            if settings.continuous is None
            else Continuous(self._folder, settings.continuous.segment, self._note_segment, logger)
        )
        self._has_work = self._continuous is not None
        self._looked_ns = 0
        self._is_due = self._closing = False
        self._thread = threading.Thread(target=self._serve, name="footage", daemon=True)
        self._thread.start()

    def _claim(self) -> int:
        """Locks the camera's folder."""
        fd = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._is_mine = locked(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._is_mine:
            self._logger.warning(
                "%s is in use by another process, which records a camera of the same name: both write there, and what a killed "
                "process has left stays. Give each camera a name, or a directory, of its own",
                self._folder,
            )
        return fd

    # ---- for the camera's thread -----------------------------------------------------------------

    def begin(self, stream: av.VideoStream) -> None:
        """Takes note of a stream that was opened."""
        self._keeping = None
        codec = stream.codec_context.name
        if codec not in CODECS:
            self._logger.error(
                "nothing of it is recorded: MP4 files don't take its codec, %s, but %s; choose another one in the camera's "
                "settings",
                codec,
                ", ".join(CODECS),
            )
            return
        self._keeping = Keeping(stream, self._logger)

    def keep(self, packet: av.Packet[Any], came_ns: int, clock: float | None) -> None:
        """Keeps a packet of the stream that was begun last. It never waits for the disk.

        :param came_ns: when its last data came (CLOCK_MONOTONIC, ns).
        :param clock: when it was captured by the camera's clock.
        """
        if self._keeping is None:
            return
        kept = self._keeping.of(packet, came_ns, clock)
        if kept is None:
            return
        with self._changed:
            self._roll.add(kept)
            if self._has_work and came_ns - self._looked_ns >= PERIOD_NS:
                self._looked_ns = came_ns
                self._is_due = True
                self._changed.notify()

    # ---- for any thread --------------------------------------------------------------------------

    def record(self, event: Mapping[str, Any], before: float | None = None, after: float | None = None) -> None:
        """Asks for a clip, or says when one ends.

        :param event: what happened. `id`, `phase`, `time` and `started` are looked at: see `DetectionEvent`. A phase that is
            missing is `instant`, a time that is missing is now.
        :param before: seconds before it, if others than usual.
        :param after: seconds after it, if others than usual.
        :raises ValueError: when one of these is not what it should be.
        """
        usual = self._settings.clips
        if usual is None:
            if not self._told_of_no_clips:
                self._told_of_no_clips = True
                self._logger.warning("there is no clip of %s: footage has clips=False", quoted(event.get("id")))
            return
        before = usual.before if before is None else _seconds("before", before, usual.longest)
        after = usual.after if after is None else _seconds("after", after, usual.longest)
        phase = event.get("phase", "instant")
        if phase not in ("start", "end", "instant"):
            raise ValueError(f"an event's phase is one of start, end, instant, not {quoted(phase)}")
        now = time.time()
        at = _time("time", event.get("time", now))
        if at > now + LATEST:  # by a clock that has stepped, or another machine's: it counts as now, or its clip would not end
            at = now
        started = min(_time("started", event.get("started", at)), at)
        told = {"id": uuid4().hex[:12], "time": at, **{str(key): jsonable(value) for key, value in event.items()}}
        end_ns = None if phase == "start" else at_ns(at + after)
        begin_ns = at_ns(max((started if phase == "end" else at) - before, at - usual.longest + after))
        about_ns = at_ns(max(started, at - usual.longest) if phase == "end" else at)
        clip = Clip(self._folder, self._camera, told, about_ns, begin_ns, end_ns, usual.longest, self._logger)
        with self._changed:
            if len(self._asked) >= MOST_ASKED:
                self._refuse(clip)
                return
            self._asked.append((clip, at_ns(started) if end_ns is None else end_ns))
            self._has_work = self._is_due = True
            self._changed.notify()

    def _refuse(self, clip: Clip) -> None:
        """Counts a clip that can't be written: not for the event's end if it was for its start. The lock is held."""
        if not (clip.is_of_end and clip.id in self._lost):
            self._lost.append(clip.id)
            self._refused += 1

    @property
    def bytes_kept(self) -> int:
        """How many bytes of packets are in memory."""
        return self._roll.bytes

    def close(self) -> None:
        """Ends all files, as far as the disk lets it within ten seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(FAREWELL)
        if self._thread.is_alive():
            self._logger.warning("the disk of %s does not answer: what is not whole is made whole later", self._folder)
            return
        os.close(self._lock)

    # ---- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            if self._is_mine:
                tidy(self._folder, self._logger)
            self._retention.keep_limits()
        except OSError as error:
            self._logger.warning("can't tidy %s up: %s", self._folder, error)
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._is_due or self._closing, self._patience())
                self._is_due, closing = False, self._closing
            try:
                self._work()
            except Exception:  # a fault of ours costs what is being written, and not the camera
                self._logger.exception("recording failed; it goes on with the next key frame")
                self._end_all("recording failed")
        self._end_all("the camera was stopped")

    def _patience(self) -> float | None:
        """Seconds until a clip ends even if nothing comes; None without clips."""
        if not self._clips:
            return None
        first = min(clip.deadline_ns for clip in self._clips.values())
        return max(0.0, (first - now_ns()) / 1e9) + 0.01

    def _work(self) -> None:
        self._take_asked()
        writers: list[Clip | Continuous] = [*self._clips.values()]
        if self._continuous is not None:
            writers.append(self._continuous)
        work = []
        with self._changed:
            for writer in writers:
                writer.place(self._roll)
                cursor = self._roll.end if writer.cursor is None else writer.cursor
                work.append((writer, self._roll.since(cursor), max(0, self._roll.begin - cursor)))
                if writer.cursor is not None:
                    writer.cursor = self._roll.end
            self._roll.unread = self._roll.end if writers else None
            crowded_out = 0 if writers else self._roll.crowded_out
        for writer, packets, lost in work:
            try:
                writer.write(packets, lost)
            except Exception:  # damaged packets, for example: it costs this file, and not the others
                self._logger.exception("recording failed; it goes on with the next key frame")
                writer.give_up(len(packets))
        self._tell_of_memory(crowded_out)
        self._count()

    def _take_asked(self) -> None:
        """Begins the clips that were asked for."""
        with self._changed:
            asked = list(self._asked)
            self._asked.clear()
        for clip, until_ns in asked:
            if not self._has_clip(clip, until_ns):
                self._begin_clip(clip)
        with self._changed:
            refused, self._refused = self._refused, 0
        if refused:
            self._counters["lost_clips"] += refused
            self._logger.warning("%d clips are not recorded: %d are being written already", refused, len(self._clips))

    def _has_clip(self, asked: Clip, until_ns: int) -> bool:
        """Whether what is told of an event is in a clip that it has already. One that is being written goes on for it."""
        if (known := self._clips.get(asked.id)) is not None:
            known.go_on_like(asked)
            return True
        over_ns = self._over.get(asked.id)
        if over_ns is None or (until_ns > over_ns + SAME_NS and not asked.is_of_end):
            return False
        self._logger.info("the event %r has a clip already", asked.id)
        return True

    def _begin_clip(self, clip: Clip) -> None:
        if len(self._clips) < MOST_CLIPS:
            self._clips[clip.id] = clip
            return
        with self._changed:
            self._refuse(clip)

    def _count(self) -> None:
        """Counts what has ended, and removes what is too old or too much now."""
        over = [clip for clip in self._clips.values() if clip.is_over]
        for clip in over:
            del self._clips[clip.id]
            self._over.pop(clip.id, None)  # one that was over before has begun again
            self._over[clip.id] = clip.limit_ns
            if len(self._over) > _REMEMBERED:
                self._over.popitem(last=False)
            self._counters["clips" if clip.files else "lost_clips"] += 1
            if clip.files:
                self._retention.note(clip.path)
            if clip.cut:
                self._counters["cut_clips"] += bool(clip.files)
                self._logger.warning("the clip %s is %s: %s", clip.path, "cut" if clip.files else "lost", "; ".join(clip.cut))
        if self._continuous is not None:
            self._counters["unrecorded"] = self._continuous.unrecorded + self._unrecorded_before
        with self._changed:
            self._has_work = self._continuous is not None or bool(self._clips) or bool(self._asked)
        if over or self._new_segments:
            self._counters["segments"] += self._new_segments
            self._new_segments = 0
            try:
                self._retention.keep_limits()
            except OSError as error:
                self._logger.warning("can't remove old footage: %s", error)

    def _note_segment(self, path: Path) -> None:
        self._new_segments += 1
        self._retention.note(path)

    def _tell_of_memory(self, crowded_out: int) -> None:
        if crowded_out > self._crowded_out and not self._told_of_memory:
            self._told_of_memory = True
            self._logger.warning(
                "footage.memory_mb=%g is too little for %.0f s of this camera: clips may begin later than asked",
                self._settings.memory_mb,
                self._settings.seconds,
            )
        self._crowded_out = crowded_out

    def _end_all(self, why: str) -> None:
        for clip in self._clips.values():
            clip.finish(None if now_ns() > clip.limit_ns else why)
        if self._continuous is not None:
            self._continuous.finish()
        self._count()


def _seconds(name: str, value: Any, most: float) -> float:
    if not is_number(value) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a number of seconds from 0 to {most:g} (footage.clips.longest), not {quoted(value)}")
    return float(value)


def _time(name: str, value: Any) -> float:
    if not is_number(value) or not 0 <= value < 1e11:
        raise ValueError(f"an event's {name} must be seconds since the epoch, not {quoted(value)}")
    return float(value)
