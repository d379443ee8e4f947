"""The routine that says which detections are in which zone, and which have crossed a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipert_shm.analytics.areas import Area, Settings, check_keys, plain, read_lines, read_points, read_zones
from pipert_shm.analytics.camera import CROSSED_IN, CROSSED_OUT, ENTERED, CameraZones, Plane
from pipert_shm.analytics.kept import Kept, Tallies
from pipert_shm.analytics.seen_time import CLOCKS, Clock, SeenTime
from pipert_shm.errors import shown
from pipert_shm.events import events
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import check_choice, check_seconds
from pipert_shm.parameters import parameter
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.detection import DetectedFrame, Detections
from pipert_shm.video.formats import format_of, size_of
from pipert_shm.video.marks import ZONES

MOST_SETTINGS = 256 * 1024  # bytes, as JSON
MOST_SERIES = 2_048  # names of numbers in the metrics
INSIDE, UNCOUNTED = "inside", "uncounted"
METRICS = {
    INSIDE: ("zone_objects", "Objects in a zone, in the camera's last frame.", "zone"),
    ENTERED: ("zone_entered", "Tracks that have come into a zone.", "zone"),
    CROSSED_IN: ("line_crossed_in", "Tracks that have crossed a line inwards.", "line"),
    CROSSED_OUT: ("line_crossed_out", "Tracks that have crossed a line outwards.", "line"),
}


class Zones(MiddleRoutine):
    """Says of each `DetectedFrame` which detections are in which zone, and which have crossed a line. It sends the same frame.

    Zones and lines belong to a camera: the routine that frames come from. A point is `[x, y]`, in pixels, or as shares of the
    frame's width and height where all numbers of the zone are from 0 to 1; shares hold for frames of any size.

    What is found stands in `additional_data["zones"]`, by values that JSON knows, and the `Annotator` and previews draw it:

    - `zones`: by name `polygon`, in pixels, `rows`, the detections that are inside, and with track ids `seconds`, how long each
      of these has been inside;
    - `lines`: by name `points`, in pixels, `crossed`, a list of `[row, "in" or "out"]` for those who have crossed it with this
      frame, and `in` and `out`, how many have crossed it so far, by label. Seen from a line's first point to its second, `in`
      is from the right to the left;
    - `speeds`, where the camera has a ground: of each detection, metres per second, None where it is not known yet;
    - `heat_map`, if there is one: where objects have stood, (36, 64) uint8.

    The rows are those of the frame's detections, so a routine that drops or sorts detections comes before this one. A track
    needs a `Tracker` before this one. Who is in a zone is told without one, too; how long, and who crosses lines, is not.

    Times are those at which frames were captured. See `docs/how-to/zones_and_events.md` for what happens when a camera stalls.
    Zones that are set while it runs (`set_zones`) outlive the flow's process. They end with the pipe.

    :param zones: by camera and name: `polygon`, from 3 points on; `labels`, which classes count (by default all); `anchor`,
        which point of a box has to be inside: `bottom_centre` (the default), `centre`, `top_centre`, `left_centre`,
        `right_centre`, or `box` for all four corners.
    :param lines: by camera and name: `points`, two; `labels`; and `anchor`, which has to cross it: by default the whole `box`.
    :param ground: by camera `points`, four points of the picture, and `metres`, where these are on the ground.
    :param heat_map: seconds in which a place of the heat map fades to its half. None: there is no map.
    :param lost: seconds for which a track that is not seen, or is outside, is taken to be where it was.
    :param max_gap: seconds between two frames from which on the camera counts as stalled: of that time no more is counted.
    :param clock: `capture`, or `video` for the position in the video, for a file that is read as fast as it can be.
    :raises ValueError, TypeError: when a setting is wrong; the text names the camera, and the zone or line.

    >>> from pipert_shm.testing import RoutineHarness
    >>> import numpy as np
    >>> gate = {"polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]], "labels": ["person"]}
    >>> with RoutineHarness(Zones("zones", zones={"yard": {"gate": gate}})) as harness:
    ...     found = Detections([[10, 20, 50, 90], [70, 20, 90, 80]], class_ids=[0, 0], names=["person"])
    ...     sent = harness.send(DetectedFrame(np.zeros((100, 100, 3), np.uint8), found), origin="yard")
    >>> sent.additional_data["zones"]["zones"]["gate"]["rows"]
    [1]
    """

    replicable = False
    counter_names = (ENTERED, CROSSED_IN, CROSSED_OUT, UNCOUNTED)

    def __init__(
        self,
        name: str | None = None,
        *,
        zones: Settings | None = None,
        lines: Settings | None = None,
        ground: Mapping[str, Mapping[str, Any]] | None = None,
        heat_map: float | None = None,
        lost: float = 2.0,
        max_gap: float = 2.0,
        clock: Clock = "capture",
    ) -> None:
        super().__init__(name)
        if heat_map is not None:
            check_seconds("heat_map", heat_map, positive=True, none="there is no map")
        check_seconds("lost", lost)
        check_seconds("max_gap", max_gap, positive=True)
        check_choice("clock", clock, CLOCKS)
        self._planes = _read_ground({} if ground is None else ground)
        self._heat, self._lost, self._max_gap, self._clock = heat_map, lost, max_gap, clock
        self._kept = Kept(MOST_SETTINGS)
        self._keep(read_zones({} if zones is None else zones), read_lines({} if lines is None else lines))
        self._version = -1  # of the settings that main_logic goes by
        self._tallies = Tallies(MOST_SERIES)
        self._inside: dict[tuple[str, ...], int] = {}
        self._cameras = self.per_origin(self._watch)

    # ---- settings --------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """The zones and lines that hold now, as they can be given again. The program that built the pipe can ask, too."""
        found: dict[str, Any] = self._kept.read()
        return found

    @events("set_zones")
    def set_zones(self, camera: str, zones: Mapping[str, Any] | None = None, lines: Mapping[str, Any] | None = None) -> None:
        """Sets the zones or lines of one camera, or both. It applies from the next frame on.

        :param camera: name of the routine that its frames come from.
        :param zones: by name; all that the camera has. None: leave them as they are.
        :param lines: likewise.
        :raises ValueError, TypeError: when a setting is wrong; nothing is changed then.
        """
        now = self.settings
        given = {"zones": zones, "lines": lines}
        self._keep(
            *(
                read(now[kind] if given[kind] is None else {**now[kind], camera: given[kind]})
                for kind, read in (("zones", read_zones), ("lines", read_lines))
            )
        )

    @parameter("zones")
    def set_all_zones(self, zones: Settings | None) -> None:
        """Sets the zones of all cameras."""
        self._keep(read_zones({} if zones is None else zones), read_lines(self.settings["lines"]))

    @parameter("lines")
    def set_all_lines(self, lines: Settings | None) -> None:
        """Sets the lines of all cameras."""
        self._keep(read_zones(self.settings["zones"]), read_lines({} if lines is None else lines))

    def _keep(self, zones: dict[str, dict[str, Area]], lines: dict[str, dict[str, Area]]) -> None:
        self._kept.write({"zones": plain(zones, "polygon"), "lines": plain(lines, "points")})

    def _take_settings(self) -> None:
        """Goes by the settings that were kept last."""
        self._version = self._kept.version
        settings = self.settings
        self._zones, self._lines = read_zones(settings["zones"]), read_lines(settings["lines"])
        for origin in self._cameras:
            self._settle(origin, self._cameras[origin])

    def _settle(self, origin: str, camera: CameraZones) -> None:
        camera.settle(self._zones.get(origin, {}), self._lines.get(origin, {}), self._planes.get(origin))

    # ---- frames ----------------------------------------------------------------------------------

    def setup(self) -> None:
        """Forgets what it knew of tracks."""
        self._cameras.clear()
        self._inside = {}
        self._take_settings()

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        """Returns the same frame, with `additional_data["zones"]`.

        :raises TypeError: when the payload is not a `DetectedFrame`, or has no track ids where its camera has lines.
        :raises ValueError: when the position in the video is to be used, and is not known.
        """
        if not isinstance(data, DetectedFrame):
            raise TypeError(f"a DetectedFrame is needed, not a {type(data).__name__}: wire a detector before {self.name!r}")
        if self._version != self._kept.version:
            self._take_settings()
        origin, found = self.meta.origin, data.detections
        if len(found) and found.track_ids is None and self._lines.get(origin):
            raise TypeError(f"lines of camera {origin!r} need track ids: wire a Tracker before {self.name!r}")
        camera = self._cameras[origin]
        now = camera.seen.look(self.meta)
        told = camera.look(found, size_of(data.frame, format_of(data.frame, self.meta)), now)
        self._tell_inside(origin, told, found)
        new = data.changed()
        new.additional_data[ZONES] = told
        return new

    def _watch(self, origin: str) -> CameraZones:
        def count(what: str, area: str, label: str) -> None:
            self.counters[what] += 1
            self._tally((what, origin, area, label), self._tallies.add((what, origin, area, label)))

        known = sorted({*self._zones, *self._lines})
        if known and origin not in known:
            self._logger.info("camera %r has no zones and no lines; there are some for: %s", origin, ", ".join(known))
        camera = CameraZones(SeenTime(self._clock, self._max_gap), self._lost, self._heat, count)
        self._settle(origin, camera)
        return camera

    # ---- metrics ---------------------------------------------------------------------------------

    def _tell_inside(self, origin: str, told: dict[str, Any], found: Detections) -> None:
        """Puts how many objects are in each zone into the metrics, where that has changed."""
        labels = found.labels
        now: dict[tuple[str, ...], int] = {}
        for zone, its in told["zones"].items():
            for row in its["rows"]:
                one = (INSIDE, origin, zone, labels[row])
                now[one] = now.get(one, 0) + 1
        before = {name: value for name, value in self._inside.items() if name[1] == origin}
        for gone in before.keys() - now.keys():
            self._tallies.put(gone, 0)
            del self._inside[gone]
        for counted, value in now.items():
            if before.get(counted) != value:
                self._tally(counted, self._tallies.put(counted, value))
                self._inside[counted] = value

    def _tally(self, name: tuple[str, ...], there_is_room: bool) -> None:
        if not there_is_room:
            if not self.counters[UNCOUNTED]:
                self._logger.warning(
                    "the metrics have room for %d combinations of camera, zone and label: %r and others are not in them, "
                    "and are counted as %s",
                    MOST_SERIES,
                    name,
                    UNCOUNTED,
                )
            self.counters[UNCOUNTED] += 1

    def labelled(self) -> list[tuple[str, str, bool, dict[str, str], int]]:
        """What the metrics tell of it: name, text, whether it only grows, labels and value. Any process of the pipe may ask."""
        return [
            (
                METRICS[what][0],
                METRICS[what][1],
                what != INSIDE,
                {"camera": camera, METRICS[what][2]: area, "label": label},
                value,
            )
            for (what, camera, area, label), value in self._tallies
        ]


def _read_ground(given: object) -> dict[str, Plane]:
    if not isinstance(given, Mapping):
        raise TypeError(f"ground goes by camera: {{'yard': {{'points': […], 'metres': […]}}}}, not {shown(given)}")
    planes = {}
    for camera, its in given.items():
        where = f"the ground of camera {camera!r}"
        if not isinstance(its, Mapping):
            raise TypeError(f"{where} has points and metres, four each, not {shown(its)}")
        check_keys(where, its, ("points", "metres"), needed=("points", "metres"))
        plane = Plane(read_points(where, its["points"]), read_points(where, its["metres"]))
        for what, points in (("points", plane.points), ("metres", plane.metres)):
            if len(points) != 4 or _three_in_a_row(points):
                raise ValueError(f"{where}: {what} are four, no three of them on one line, not {shown(its[what])}")
        planes[camera] = plane
    return planes


def _three_in_a_row(points: tuple[tuple[float, float], ...]) -> bool:
    for left_out in range(4):
        (x, y), (x2, y2), (x3, y3) = (point for number, point in enumerate(points) if number != left_out)
        if abs((x2 - x) * (y3 - y) - (y2 - y) * (x3 - x)) < 1e-9:
            return True
    return False
