"""The page on which zones and lines are drawn on a camera's picture. Needs the `dashboard` extra."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

from nicegui import run, ui
from nicegui.events import MouseEventArguments

from pipert_shm.analytics.areas import ANCHORS, read_lines, read_zones
from pipert_shm.api.preview import picture_of
from pipert_shm.api.zone_drawing import Drawing, Kind, as_yaml
from pipert_shm.data import FrameData
from pipert_shm.display.pictures import encoded, picture_shape
from pipert_shm.errors import PipertError
from pipert_shm.graph.model import Plan, RoutinePlan
from pipert_shm.pipe import Pipe

EVENT = "set_zones"  # what a routine handles whose zones can be drawn
PATIENCE_S = 5.0
QUALITY = 85
NONE_YET = (
    "data:image/svg+xml;base64,"
    + base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="360"/>').decode()
)


def add_zone_page(pipe: Pipe) -> None:
    """Puts the page at `/zones/{routine}` of the dashboard's application."""

    @ui.page("/zones/{name}", title=f"zones · {pipe.name} · pipert_shm", dark=True)
    def zones(name: str) -> None:
        item = pipe._built().plan.find(name)
        if item is None or not hasattr(item.routine, EVENT):
            ui.label(f"there is no routine {name!r} whose zones can be drawn").classes("text-xl")
            return
        ZonePage(pipe, item)


def has_zones(pipe: Pipe, name: str) -> bool:
    """Whether a routine's zones can be drawn."""
    return EVENT in pipe._built().audience.handlers[name] and hasattr(pipe._built().plan.get(name).routine, "settings")


def cameras_of(plan: Plan, item: RoutinePlan) -> list[str]:
    """The sources whose frames may reach a routine, by name."""
    reached, following = {item.number}, [item]
    while following:
        for edge in following.pop().ins:
            if edge.sender not in reached:
                reached.add(edge.sender)
                following.append(plan.routines[edge.sender])
    return sorted(plan.routines[number].name for number in reached if not plan.routines[number].ins)


class ZonePage:
    """The page that one browser sees."""

    def __init__(self, pipe: Pipe, item: RoutinePlan) -> None:
        self._pipe = pipe
        self._item = item
        self._settings: dict[str, Any] = item.routine.settings  # type: ignore[attr-defined]
        self._drawing = Drawing((640, 360))
        self._shown = (640, 360)
        known = [*cameras_of(pipe._built().plan, item), *self._settings["zones"], *self._settings["lines"]]
        cameras = list(dict.fromkeys(known))
        self._camera = cameras[0]
        with ui.row().classes("w-full items-center gap-4"):
            ui.link("← dashboard", "/")
            ui.label(f"Zones of {item.name}").classes("text-2xl").props('role="heading"')
            ui.select(cameras, value=self._camera, label="camera", on_change=lambda event: self._open(event.value))
            ui.button("New picture", on_click=lambda: self._open(self._camera, keep=True), color="blue-grey-7")
        with ui.row().classes("w-full no-wrap items-start gap-4"):
            self._image = ui.interactive_image(
                NONE_YET, on_mouse=self._mouse, events=["mousedown", "mousemove", "mouseup"], cross=True, sanitize=False
            ).classes("w-2/3")
            with ui.column().classes("w-1/3"):
                self._side()
        ui.timer(0, lambda: self._open(self._camera), once=True)

    def _side(self) -> None:
        with ui.row():
            ui.button("New zone", on_click=lambda: self._begin("zone"), color="blue-grey-7")
            ui.button("New line", on_click=lambda: self._begin("line"), color="blue-grey-7")
        ui.label(
            "Click points; the first one again closes a zone. Drag a point to move it, an edge's middle to add one; "
            "with Ctrl, a click removes it."
        ).classes("text-sm text-grey-5")
        self._list = ui.select([], label="zone or line", on_change=lambda event: self._choose(event.value)).classes("w-full")
        self._name = ui.input("name", on_change=None).classes("w-full").on("change", self._edit)
        self._labels = ui.input("labels, such as person, car (empty: all)").classes("w-full").on("change", self._edit)
        self._anchor = ui.select([*ANCHORS], label="anchor", clearable=True, on_change=self._edit).classes("w-full")
        with ui.row():
            ui.button("Remove", on_click=self._remove, color="red-9")
            ui.button("Save", on_click=self._save, color="green-8")
        self._yaml = (
            ui.textarea("for the pipeline's file, under parameters:")
            .props("readonly autogrow")
            .classes("w-full font-mono text-xs")
        )
        ui.button("Copy", on_click=lambda: ui.clipboard.write(self._yaml.value), color="blue-grey-7")

    # ---- the picture -----------------------------------------------------------------------------

    async def _open(self, camera: str, *, keep: bool = False) -> None:
        """Shows a camera's picture, and its zones.

        :param keep: whether what is drawn stays.
        """
        try:
            found = await run.io_bound(still, self._pipe, camera)
        except (PipertError, ValueError, TimeoutError, StopIteration) as error:
            ui.notify(f"there is no picture of {camera}: {error or 'no frame came'}", type="negative", multi_line=True)
            return
        if found is None:
            return  # the server ends
        jpeg, size, shown = found
        self._camera, self._shown = camera, shown
        self._image.set_source("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())
        if not keep:
            self._settings = self._item.routine.settings  # type: ignore[attr-defined]
            self._drawing = Drawing(size)
            self._drawing.load(*(self._settings[kind].get(camera, {}) for kind in ("zones", "lines")))
        self._show()

    def _show(self) -> None:
        drawing = self._drawing
        self._image.set_content(drawing.svg(*self._shown))
        self._list.set_options([*drawing.shapes], value=drawing.chosen)
        shape = None if drawing.chosen is None else drawing.shapes[drawing.chosen]
        self._name.value = drawing.chosen or ""
        self._labels.value = ", ".join(shape.more.get("labels", ())) if shape is not None else ""
        self._anchor.value = shape.more.get("anchor") if shape is not None else None
        self._yaml.value = as_yaml(self._all())

    def _all(self) -> dict[str, Any]:
        """The settings of all cameras, with what is drawn."""
        zones, lines = self._drawing.settings()
        return {
            "zones": {**self._settings["zones"], self._camera: zones},
            "lines": {**self._settings["lines"], self._camera: lines},
        }

    # ---- what people do --------------------------------------------------------------------------

    def _mouse(self, event: MouseEventArguments) -> None:
        x, y = event.image_x / self._shown[0], event.image_y / self._shown[1]
        if event.type == "mousedown":
            self._drawing.press(x, y, to_remove=event.ctrl)
        elif event.type == "mousemove":
            if self._drawing.move(x, y):
                self._image.set_content(self._drawing.svg(*self._shown))
            return
        else:
            self._drawing.release()
        self._show()

    def _begin(self, kind: Kind) -> None:
        self._drawing.begin(kind)
        self._show()

    def _choose(self, name: str | None) -> None:
        if name != self._drawing.chosen:
            self._drawing.choose(name)
            self._show()

    def _remove(self) -> None:
        self._drawing.remove()
        self._show()

    def _edit(self) -> None:
        """Takes what the fields say of the chosen one."""
        if self._drawing.chosen is None:
            return
        try:
            self._drawing.rename(self._name.value)
        except ValueError as error:
            ui.notify(str(error), type="negative")
        more = self._drawing.shapes[self._drawing.chosen].more
        more.clear()
        if labels := [label.strip() for label in (self._labels.value or "").split(",") if label.strip()]:
            more["labels"] = labels
        if self._anchor.value:
            more["anchor"] = self._anchor.value
        self._show()

    async def _save(self) -> None:
        """Sets the zones of the routine that runs."""
        self._drawing.drop_unfinished()
        zones, lines = self._drawing.settings()
        try:
            check(self._all())
            notify = partial(self._pipe.notify_event, EVENT, specific_routine=self._item.name)
            await run.io_bound(partial(notify, camera=self._camera, zones=zones, lines=lines))
        except (PipertError, ValueError, TypeError) as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return
        self._settings = self._all()
        ui.notify(f"the zones of {self._camera} are set, until the pipe ends; copy the text to keep them", type="positive")
        self._show()


def check(settings: Mapping[str, Any]) -> None:
    """:raises ValueError, TypeError: when the routine would refuse them."""
    read_zones(settings["zones"])
    read_lines(settings["lines"])


def still(pipe: Pipe, camera: str) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """A camera's newest frame: a JPEG, the frame's width and height, and those of the JPEG.

    :raises PipertError: when the camera does not run.
    :raises TimeoutError, StopIteration: when no frame comes.
    :raises ValueError: when what it sends is no picture.
    """
    with pipe.tap(camera) as tap:
        payload = tap.read(PATIENCE_S)
        frame = payload.get_frame() if isinstance(payload, FrameData) else payload
        picture = picture_of(frame, tap.meta)
        height, width = picture_shape(frame, None if tap.meta is None else tap.meta.format_of(frame))
    return encoded(picture, QUALITY), (width, height), (picture.shape[1], picture.shape[0])
