"""The routine that makes events of detections, by rules."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipert_shm.analytics.event import DetectionEvent
from pipert_shm.analytics.kept import Kept, Tallies
from pipert_shm.analytics.rules import Rule, read_rules
from pipert_shm.analytics.seen_time import CLOCKS, Clock, SeenTime
from pipert_shm.analytics.sights import sight_of
from pipert_shm.analytics.watching import END, FORGOTTEN, NO_ZONE, RESTART, RULES, Moment, Watch, ended_of, watch_of
from pipert_shm.data import Meta
from pipert_shm.errors import PipeStateError, UnknownEvent
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import check_choice, check_flag, check_seconds
from pipert_shm.parameters import parameter
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.detection import DetectedFrame
from pipert_shm.video.marks import ZONES

RECORD_CLIP = "record_clip"
MOST_OPEN = 500  # events whose start is remembered beyond a process's death
MOST_KEPT = 1 << 20  # bytes
MOST_SERIES = 2_048
STARTED, ENDED, INSTANT = "started", "ended", "instant"
SILENCED, NOT_KEPT, NO_CLIP, UNWATCHED, UNCOUNTED = "silenced", "not_kept", "no_clip", "unwatched", "uncounted"


@dataclass(slots=True)
class Camera:
    """What the rules know of one camera."""

    seen: SeenTime
    watches: dict[Rule, Watch] = field(default_factory=dict)
    moment: Moment | None = None  # of its last frame
    told_of: set[str] = field(default_factory=set)  # rules whose zone it lacks
    is_new: bool = True


class EventSource(MiddleRoutine):
    """Makes events of what a detector finds: it sends a list of `DetectionEvent` when something happens, and nothing else.

    A rule is a mapping with a `name`, a `kind`, and what it is about. It watches each camera on its own:

    - `enter`: an object has come into `zone`, and has been there for `for` seconds;
    - `leave`: an object that was in `zone` has been outside for `clear` seconds, or was not seen for `lost` seconds;
    - `dwell`: an object has been in `zone` for `seconds`; it ends as `leave` does;
    - `count`: there are `at_least` and `at_most` so many objects in `zone`, for `for` seconds, until that is over for `clear`;
    - `absence`: no object was in `zone` for `seconds`, until there is one for `clear` seconds;
    - `line`: an object has crossed `line`, in the `direction` `in`, `out` or `both`.

    `dwell`, `count` and `absence` last: they are told when they start and when they end, with one `id`. The others are told
    once. Without a `zone` the whole picture counts. Zones and lines are those of a `Zones` before this routine. All but `count`
    and `absence` need a `Tracker`. Any rule may say `cameras`, `labels`, `min_score`, and `cool_down`: seconds after an event
    in which it tells of no new one for that camera; the counter `silenced` counts what is lost by that. All seconds are 0 where
    nothing is said, but `lost` is 2.

    Time is that of the frames. While a camera stalls, nothing begins, and nothing ends. What lasts and has no end yet when the
    flow's process dies, or the routine is stopped, is ended with the camera's next frame: `more["ended_by"]` is `restart` then.
    When all cameras have come to their ends, all that lasts is ended: `more["ended_by"]` is `end`.

    :param rules: the rules, at least one.
    :param clips: whether each event is told to those that keep footage, too: `record_clip`, with the parameter `event`.
    :param max_gap: seconds between two frames from which on the camera counts as stalled: of that time no more is counted.
    :param clock: `capture`, or `video` for the position in the video, for a file that is read as fast as it can be.
    :raises ValueError, TypeError: when a setting is wrong; the text names the rule.

    >>> import numpy as np
    >>> from pipert_shm.testing import RoutineHarness
    >>> from pipert_shm.video.detection import DetectedFrame, Detections
    >>> crowd = {"name": "crowd", "kind": "count", "at_least": 2}
    >>> frame = np.zeros((48, 64, 3), np.uint8)
    >>> with RoutineHarness(EventSource("events", rules=[crowd])) as harness:
    ...     for boxes in ([[0, 0, 9, 9]], [[0, 0, 9, 9], [20, 0, 29, 9]], [[0, 0, 9, 9]]):
    ...         sent = harness.send(DetectedFrame(frame, Detections(boxes)), origin="yard")
    ...         print([(event.rule, event.phase, event.count) for event in sent or ()])
    []
    [('crowd', 'start', 2)]
    [('crowd', 'end', 1)]
    """

    replicable = False
    counter_names = (STARTED, ENDED, INSTANT, SILENCED, NOT_KEPT, NO_CLIP, UNWATCHED, UNCOUNTED)

    def __init__(
        self,
        name: str | None = None,
        *,
        rules: Iterable[Mapping[str, Any]],
        clips: bool = False,
        max_gap: float = 2.0,
        clock: Clock = "capture",
    ) -> None:
        super().__init__(name)
        check_flag("clips", clips)
        check_seconds("max_gap", max_gap, positive=True)
        check_choice("clock", clock, CLOCKS)
        self._rules = read_rules(rules)
        self._clips, self._max_gap, self._clock = bool(clips), max_gap, clock
        self._kept = Kept(MOST_KEPT)
        self._tallies = Tallies(MOST_SERIES)
        self._cameras = self.per_origin(lambda: Camera(SeenTime(clock, max_gap)), close=self._let_go)
        self._forget()

    @parameter("rules")
    def set_rules(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Sets the rules. What a rule has begun that is no more, or is another, ends with the camera's next frame.

        :raises ValueError, TypeError: when a rule is wrong; all stay as they are then.
        """
        self._rules = read_rules(rules)

    def _forget(self) -> None:
        self._open: dict[str, DetectionEvent] = {}  # what has begun and has not ended, by id
        self._orphans: dict[str, list[DetectionEvent]] = {}  # what an earlier run has begun, by camera
        self._pending: list[DetectionEvent] = []  # the ends of what a camera that is forgotten has begun
        self._last: Meta | None = None
        self._is_kept = True  # whether what is open was written

    def setup(self) -> None:
        """Remembers what the run before has begun."""
        self._cameras.clear()
        self._forget()
        for values in self._kept.read() or ():
            event = DetectionEvent.from_dict(values)
            self._open[event.id] = event
            self._orphans.setdefault(event.camera, []).append(event)

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, data: DetectedFrame) -> list[DetectionEvent] | None:
        """Returns what has happened, in order; None if nothing has.

        A rule that lacks what it needs (track ids, zones) tells nothing. That is logged once, and counted as `unwatched`.

        :raises TypeError: when the payload is not a `DetectedFrame`.
        :raises ValueError: when the position in the video is to be used, and is not known.
        """
        if not isinstance(data, DetectedFrame):
            raise TypeError(f"a DetectedFrame is needed, not a {type(data).__name__}: wire a detector before {self.name!r}")
        if not self._is_kept:
            self._keep()  # without what the last call ended: that is sent by now
        self._last = meta = self.meta
        camera = self._cameras[meta.origin]
        now = camera.seen.look(meta)
        moment = Moment(meta.origin, meta.sequence, meta.capture_time, now, meta.pts)
        told, self._pending = self._pending, []
        told += self._begin(camera, moment)
        camera.moment = moment
        for rule, watch in camera.watches.items():
            told += self._watch(rule, watch, data, camera)
        if not told:
            return None
        self._note(told)
        return told

    def _at_end(self) -> list[DetectionEvent] | None:
        """Ends what has begun: all cameras have ended, so nothing comes any more. Called after the last message."""
        if self._last is None:
            return None
        told, self._pending = self._pending, []
        for name in self._cameras:
            camera = self._cameras[name]
            for watch in camera.watches.values():
                assert camera.moment is not None
                told += watch.close(camera.moment, END)
        self.meta = self._last
        if told:
            self._note(told)
        return told or None

    def cleanup(self) -> None:
        """Remembers what has begun and not ended, for the next run."""
        self._keep()

    # ---- what is watched -------------------------------------------------------------------------

    def _begin(self, camera: Camera, moment: Moment) -> list[DetectionEvent]:
        """Brings a camera to the rules that hold now; returns the ends of what other rules, or another run, have begun."""
        told = []
        if camera.is_new:
            camera.is_new = False
            told += [ended_of(event, moment, ended_by=RESTART) for event in self._orphans.pop(moment.camera, ())]
        rules = [rule for rule in self._rules if rule.cameras is None or moment.camera in rule.cameras]
        if rules != [*camera.watches]:
            for rule in [rule for rule in camera.watches if rule not in rules]:
                told += camera.watches.pop(rule).close(moment, RULES)
            camera.watches = {rule: camera.watches.get(rule) or watch_of(rule) for rule in rules}
        return told

    def _watch(self, rule: Rule, watch: Watch, data: DetectedFrame, camera: Camera) -> list[DetectionEvent]:
        """Has a rule look at the frame. One that can't costs only itself: it is counted, and logged once."""
        assert camera.moment is not None
        where, kind = camera.moment.camera, "line" if rule.kind == "line" else "zone"
        zones = data.additional_data.get(ZONES)
        if rule.needs_tracks and data.detections.track_ids is None and len(data.detections):
            self._tell(rule, camera, f"it needs track ids, and those of camera {where!r} have none: wire a Tracker before")
        elif rule.area is not None and zones is None:
            self._tell(rule, camera, f"it is about {kind} {rule.area!r}, and nothing tells of any: wire a Zones before")
        elif rule.area is not None and zones is not None and rule.area not in zones[f"{kind}s"]:
            known = ", ".join(zones[f"{kind}s"]) or "none"
            text = f"camera {where!r} has no {kind} {rule.area!r}, so it is not watched by this rule; it has: {known}"
            self._tell(rule, camera, text, is_error=rule.cameras is not None)
            return watch.close(camera.moment, NO_ZONE)
        else:
            told = watch.look(camera.moment, sight_of(rule, data))
            self.counters[SILENCED] += watch.teller.silenced
            watch.teller.silenced = 0
            return told
        return []

    def _tell(self, rule: Rule, camera: Camera, why: str, *, is_error: bool = True) -> None:
        self.counters[UNWATCHED] += is_error
        if rule.name not in camera.told_of:
            camera.told_of.add(rule.name)
            self._logger.log(logging.ERROR if is_error else logging.INFO, "rule %r (%s): %s", rule.name, rule.kind, why)

    def _let_go(self, camera: Camera) -> None:
        """Ends what a camera has begun that is not kept any more: with the next message of another one."""
        if camera.moment is not None and self._open:
            for watch in camera.watches.values():
                self._pending += watch.close(camera.moment, FORGOTTEN)

    # ---- what is told ----------------------------------------------------------------------------

    def _note(self, told: list[DetectionEvent]) -> None:
        """Counts events, keeps which are open, and asks for clips."""
        changed = False
        for event in told:
            self.counters[{"start": STARTED, "end": ENDED, "instant": INSTANT}[event.phase]] += 1
            if not self._tallies.add((event.camera, event.rule, event.kind, event.phase)):
                if not self.counters[UNCOUNTED]:
                    text = "the metrics have room for %d combinations of camera, rule and phase: others are counted as %s"
                    self._logger.warning(text, MOST_SERIES, UNCOUNTED)
                self.counters[UNCOUNTED] += 1
            if event.phase == "start":
                self._open[event.id] = event
                changed = True
            elif event.phase == "end":
                self._open.pop(event.id, None)
                self._is_kept = False  # only when it has been sent: until then another process would tell of the end
            if self._clips:
                self._ask_for_clip(event)
        if changed:
            ends = [event for event in told if event.phase == "end"]
            self._keep(ends)

    def _keep(self, besides: Iterable[DetectionEvent] = ()) -> None:
        """Writes down what has begun and has not ended, for the flow's next process."""
        events = [*besides, *self._open.values()]
        values = [event.to_dict() for event in events[-MOST_OPEN:]]
        while not self._kept.takes(values):
            values = values[(len(values) + 1) // 2 :]
        self.counters[NOT_KEPT] += len(events) - len(values)
        self._is_kept = not besides

    def _ask_for_clip(self, event: DetectionEvent) -> None:
        try:
            self.notify_event(RECORD_CLIP, event=event.to_dict())
        except (UnknownEvent, PipeStateError) as error:
            if not self.counters[NO_CLIP]:
                self._logger.error("no clip is recorded, since no routine keeps footage: %s (counted as %s)", error, NO_CLIP)
            self.counters[NO_CLIP] += 1

    def labelled(self) -> list[tuple[str, str, bool, dict[str, str], int]]:
        """What the metrics tell of it: name, text, whether it only grows, labels and value. Any process of the pipe may ask."""
        return [
            (
                "detection_events",
                "Events that rules have told of.",
                True,
                {"camera": camera, "rule": rule, "kind": kind, "phase": phase},
                value,
            )
            for (camera, rule, kind, phase), value in self._tallies
        ]
