"""The dashboard: a page on the server's own address that shows a pipe, and controls it. Needs the `dashboard` extra."""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI

from pipert_shm.api import elsewhere, preview_panel
from pipert_shm.api.diagnosis import Diagnosis, panel_of
from pipert_shm.api.elsewhere import Elsewhere
from pipert_shm.api.graph import COLOURS, draw
from pipert_shm.api.journal import Entry, Journal
from pipert_shm.api.motion import Motion, summary
from pipert_shm.errors import PipertError, PipeStateError, shown
from pipert_shm.events import KILL_EVENT_NAME, LIFECYCLE_EVENTS, START_EVENT_NAME, STOP_EVENT_NAME, UPDATE_FPS_NAME
from pipert_shm.extras import to_install
from pipert_shm.pipe import Pipe
from pipert_shm.routine import Role
from pipert_shm.shm.listing import list_pipe

try:
    from nicegui import run, ui

    from pipert_shm.api import zone_page
except ImportError as error:
    raise ImportError(f"the dashboard needs NiceGUI: {to_install('dashboard')}") from error

LOOK_S = 1.0
POINTS = 60  # of a chart
LOG_LINES = 3
NEWS = 100

_logger = logging.getLogger(__name__)

_STYLE = """
body { background: #020617; color: #e2e8f0; }
.nicegui-content { padding: 12px; gap: 14px; }
.state { font-size: clamp(2rem, 6vw, 3.6rem); font-weight: 800; line-height: 1; text-transform: uppercase; }
.name { font-size: 1.6rem; font-weight: 600; overflow-wrap: anywhere; }
.panel { background: #0b1220; border: 1px solid #1e293b; border-radius: 14px; padding: 12px 16px; width: 100%; }
.panel h2 { font-size: 1rem; margin: 0 0 8px; color: #94a3b8; font-weight: 600; line-height: 1.2; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 14px; width: 100%; }
.top { display: grid; grid-template-columns: 3fr 1fr; gap: 14px; width: 100%; }
.big { font-size: 3.2rem; font-weight: 800; line-height: 1; }
.unit, .small { color: #94a3b8; font-size: .9rem; }
.bad { color: #fca5a5; }
.logs { font-family: monospace; font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; color: #cbd5e1; }
.bar { display: flex; height: 18px; border-radius: 5px; overflow: hidden; background: #1e293b; }
.bar span { display: block; }
.news { list-style: none; margin: 0; padding: 0 0 0 14px; border-left: 3px solid #334155; font-size: 1.05rem; }
.news { max-height: 320px; overflow: auto; }
.news li { margin: 6px 0; }
.why { margin: 0; padding: 0 0 0 14px; max-height: 320px; overflow: auto; }
.why li { margin: 6px 0; }
.upright { display: none; }
.rings { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 10px 24px; }
@media (max-width: 700px) { .upright { display: block; } .along { display: none; } .top { grid-template-columns: 1fr; } }
"""

# Says which recent latency p50 and p99 are of: see Motion.latency.
SINCE_CAPTURE, SINCE_SENT = "age on arrival, since capture", "from sent to received"

_HOLDERS = ("#38bdf8", "#a78bfa", "#f472b6", "#fb923c", "#facc15", "#4ade80", "#2dd4bf", "#f87171")


def add_dashboard(app: FastAPI) -> None:
    """Puts the dashboard at `/` of an application, behind the application's own routes. One in a process."""
    pipe: Pipe = app.state.pipe

    @ui.page("/", title=f"{pipe.name} · pipert_shm", dark=True)
    def dashboard() -> None:
        try:
            Page(pipe, app.state.journal, app.state.elsewhere)
        except PipeStateError as error:
            ui.label(f"{error}; then load this page again").classes("state")

    zone_page.add_zone_page(pipe)
    run.process_pool_start_method = "fork"  # the pool is never used, and Python 3.14's way would start a process for it
    ui.run_with(app, title="pipert_shm", dark=True, show_welcome_message=False, favicon="🎞")


class Page:
    """The page that one browser sees."""

    def __init__(self, pipe: Pipe, journal: Journal, hosts: Elsewhere | None) -> None:
        self._pipe = pipe
        self._journal = journal
        self._elsewhere = hosts
        self._motion = Motion(pipe.statistics())
        self._diagnosis = Diagnosis(pipe)
        self._cards: dict[str, Card] = {}
        journal.start()
        preview_panel.get_ready()
        ui.add_css(_STYLE + preview_panel.STYLE)
        ui.add_head_html(preview_panel.SCRIPT)
        self._head()
        with ui.element("div").classes("top"):
            with ui.element("div").classes("panel"):
                self._along = ui.html("", sanitize=False).classes("along w-full")
                self._upright = ui.html("", sanitize=False).classes("upright w-full")
            self._news = ui.html("", sanitize=False).classes("panel")
        self._hosts = None if hosts is None else ui.html("", sanitize=False).classes("panel")
        self._why = ui.html("", sanitize=False).classes("panel")
        self._grid = ui.element("div").classes("cards")
        self._slots = ui.html("", sanitize=False).classes("panel")
        self._show()
        ui.timer(LOOK_S, self._refresh)

    def _head(self) -> None:
        with ui.row().classes("w-full items-center justify-between"):
            with ui.row().classes("items-baseline gap-4"):
                self._state = ui.label().classes("state").props('role="status"')
                ui.label(self._pipe.name).classes("name").props('role="heading"')
            with ui.row().classes("gap-2"):
                ui.button("Start", icon="play_arrow", color="green-8", on_click=lambda: self.notify(START_EVENT_NAME))
                ui.button("Pause", icon="pause", color="blue-grey-7", on_click=lambda: self.notify(STOP_EVENT_NAME))
                ui.button("Kill", icon="stop", color="red-9", on_click=self._ask_kill)

    async def _ask_kill(self) -> None:
        with ui.dialog() as dialog, ui.card():
            ui.label("End the pipe, and this server with it?")
            with ui.row():
                ui.button("End it", color="red-9", on_click=lambda: dialog.submit(True))
                ui.button("Cancel", color="blue-grey-7", on_click=lambda: dialog.submit(False))
        if await dialog:
            await self.notify(KILL_EVENT_NAME)

    async def notify(self, event: str, routine: str | None = None, **parameters: Any) -> None:
        """Notifies an event, and says what is wrong with it, if anything is."""
        await self.do(partial(self._pipe.notify_event, event, specific_routine=routine, **parameters), f"{event}: on its way")

    async def restart(self, flow: str) -> None:
        """Restarts a flow."""
        await self.do(partial(self._pipe.restart_flow, flow), f"{flow}: restart on its way")

    async def do(self, action: Callable[[], None], done: str) -> None:
        """Runs the action on its own thread, and shows how it went."""
        try:
            await run.io_bound(action)
        except (PipertError, ValueError) as error:
            _logger.info("refused: %s", error)
            ui.notify(str(error), type="negative", multi_line=True)
        else:
            ui.notify(done, type="positive")

    # ---- once a second ---------------------------------------------------------------------------

    def _refresh(self) -> None:
        self._motion.look(self._pipe.statistics())
        self._show()

    def _show(self) -> None:
        now = self._motion.now
        state = "ended" if self._journal.over else summary(now)
        self._state.set_text(state)
        self._state.style(f"color: {COLOURS[state]}")
        self._along.set_content(draw(self._motion))
        self._upright.set_content(draw(self._motion, upright=True))
        entries = self._journal.after(0)
        for name in now.routines:
            if name not in self._cards:
                with self._grid:
                    self._cards[name] = Card(self, self._pipe, name)
        for name in [name for name in self._cards if name not in now.routines]:
            self._cards.pop(name).remove()
        for card in self._cards.values():
            card.show(self._motion, entries)
        if self._hosts is not None and self._elsewhere is not None:
            self._hosts.set_content(elsewhere.panel_of(self._elsewhere.look()))
        self._why.set_content(panel_of(self._diagnosis.look()))
        self._slots.set_content(_slots(self._pipe))
        self._news.set_content(_news(entries))


class Card:
    """One routine."""

    def __init__(self, page: Page, pipe: Pipe, name: str) -> None:
        self._page = page
        self._name = name
        session = pipe._built()
        item = session.plan.get(name)
        with ui.element("div").classes("panel") as self._box:
            with ui.row().classes("w-full items-center justify-between"):
                ui.label(name).classes("text-xl font-bold")
                self._state = ui.label().classes("font-bold")
            with ui.row().classes("w-full items-end justify-between"):
                self._fps = ui.html("", sanitize=False)
                self._counts = ui.html("", sanitize=False).classes("text-right")
            self._timed = SINCE_SENT if item.role is Role.SOURCE else SINCE_CAPTURE
            self._usage = ui.label().classes("small")
            self._chart = ui.echart(_chart_options()).classes("w-full").style("height: 130px")
            self._sends = item.role is not Role.DESTINATION
            self._preview = ui.html("", sanitize=False).classes("preview w-full")
            self._logs = ui.html("", sanitize=False).classes("logs")
            with ui.row().classes("gap-1 mt-2"):
                self._button("start", lambda: page.notify(START_EVENT_NAME, name))
                self._button("stop", lambda: page.notify(STOP_EVENT_NAME, name))
                self._button("fps", partial(self._ask, UPDATE_FPS_NAME, [inspect.Parameter("fps", _ANY)]))
                if zone_page.has_zones(pipe, name):
                    self._button("draw zones", lambda: ui.navigate.to(f"/zones/{quote(name, safe='')}", new_tab=True))
                for event, signatures in session.audience.handlers[name].items():
                    if event not in LIFECYCLE_EVENTS:
                        wanted = {parameter.name: parameter for one in signatures for parameter in one.parameters.values()}
                        self._button(event, partial(self._ask, event, list(wanted.values())))
                self._button("restart flow", lambda: page.restart(item.flow))

    def remove(self) -> None:
        """Takes the card away: its routine was removed."""
        self._box.delete()

    @staticmethod
    def _button(text: str, action: Callable[[], Any]) -> None:
        ui.button(text, on_click=action, color="blue-grey-9").props("dense no-caps size=sm padding='4px 10px'")

    async def _ask(self, event: str, parameters: list[inspect.Parameter]) -> None:
        """Notifies an event, after asking for its parameters."""
        if not parameters:
            return await self._page.notify(event, self._name)
        with ui.dialog() as dialog, ui.card().classes("min-w-72"):
            ui.label(f"{event} → {self._name}").classes("text-lg")
            fields = {parameter.name: ui.input(_label(parameter)).classes("w-full") for parameter in parameters}
            with ui.row():
                ui.button("Send", color="green-8", on_click=lambda: dialog.submit(True))
                ui.button("Cancel", color="blue-grey-7", on_click=lambda: dialog.submit(False))
        if await dialog:
            given = {name: value_of(field.value) for name, field in fields.items() if field.value}
            await self._page.notify(event, self._name, **given)

    def show(self, motion: Motion, entries: list[Entry]) -> None:
        """Shows how it is now."""
        routine = motion.now.routines[self._name]
        colour = COLOURS.get(routine.state, "#64748b")
        latency = motion.latency(routine)
        if self._sends and routine.state == "running" and not self._preview.content:
            self._preview.set_content(preview_panel.panel_of(self._name))
        self._box.style(f"border-left: 8px solid {colour}")
        self._state.set_text(routine.state)
        self._state.style(f"color: {colour}")
        self._fps.set_content(f'<span class="big">{motion.fps(self._name):.1f}</span> <span class="unit">fps</span>')
        errors = f'<div class="{"bad" if routine.errors else "small"}">{routine.errors:,} errors</div>'
        times = f"p50 {_milliseconds(latency.p50_us)} · p99 {_milliseconds(latency.p99_us)}" if latency.count else "none yet"
        self._counts.set_content(f'{errors}<div class="small">{self._timed}</div><div class="small">{times}</div>')
        self._usage.set_text(_usage(motion, routine.flow))
        options = self._chart.options
        for series, value in zip(options["series"], (latency.p50_us, latency.p99_us), strict=True):
            point = round(value / 1000, 3) if latency.count else None
            series["data"] = [*series["data"], point][-POINTS:]
        self._chart.update()
        own = [entry for entry in entries if entry.kind == "log" and entry.details["routine"] == self._name]
        self._logs.set_content("".join(_log_line(entry) for entry in own[-LOG_LINES:]))


_ANY = inspect.Parameter.POSITIONAL_OR_KEYWORD


def value_of(text: str) -> Any:
    """The value of a field: parsed as JSON if it is JSON, else the text itself.

    >>> value_of("2"), value_of('{"a": null}'), value_of("two")
    (2, {'a': None}, 'two')
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def _label(parameter: inspect.Parameter) -> str:
    kind = "" if parameter.annotation is parameter.empty else f": {inspect.formatannotation(parameter.annotation)}"
    default = "" if parameter.default is parameter.empty else f" = {shown(parameter.default)}"
    return f"{parameter.name}{kind}{default}"


def _chart_options() -> dict[str, Any]:
    lines = (("p50", "#38bdf8"), ("p99", "#f59e0b"))
    return {
        "animation": False,
        "grid": {"left": 48, "right": 8, "top": 26, "bottom": 8},
        "legend": {"top": 0, "textStyle": {"color": "#94a3b8"}},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "category", "show": False, "data": list(range(-POINTS + 1, 1))},
        "yAxis": {"type": "value", "axisLabel": {"formatter": "{value} ms", "color": "#94a3b8"}, "splitNumber": 2},
        "series": [
            {"name": name, "type": "line", "showSymbol": False, "color": colour, "data": [None] * POINTS}
            for name, colour in lines
        ],
    }


def _usage(motion: Motion, name: str) -> str:
    """What a flow's process takes of the machine; empty while it has none."""
    flow, percent = motion.now.flows[name], motion.cpu_percent(name)
    if flow.private_bytes is None or flow.shared_bytes is None:
        return ""
    parts = [] if percent is None else [f"{percent:.0f} % CPU"]
    parts += [f"{flow.private_bytes / 1e6:,.0f} MB own", f"{flow.shared_bytes / 1e6:,.0f} MB shared"]
    parts += [] if flow.gpu_bytes is None else [f"{flow.gpu_bytes / 1e6:,.0f} MB on GPUs"]
    return f"flow {name}: {' · '.join(parts)}"


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1000:.3g} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.3g} s"


def _log_line(entry: Entry) -> str:
    level = entry.details["level"]
    line = f"{_clock(entry)} {level} {entry.details['message']}"
    return f'<div class="{"bad" if level in ("ERROR", "CRITICAL") else ""}">{escape(line[:300])}</div>'


def _clock(entry: Entry) -> str:
    return time.strftime("%H:%M:%S", time.localtime(entry.time))


def _news(entries: list[Entry]) -> str:
    """Deaths, restarts and states, the newest first."""
    lines = []
    for entry in reversed([entry for entry in entries if entry.kind != "log"]):
        told = {name: escape(str(value)) for name, value in entry.details.items()}
        if entry.kind == "crash":
            signal = (
                f"signal {-entry.details['last_exit']}" if entry.details["last_exit"] < 0 else f"status {told['last_exit']}"
            )
            colour, text = COLOURS["failed"], f"✖ <b>{told['flow']}</b> died ({signal})"
            text += f": {told['reason']}" if told["reason"] != "died" else ""
            text += ", for good" if told["state"] == "failed" else ""
        elif entry.kind == "restart":
            colour, text = (
                COLOURS["running"],
                f"↻ <b>{told['flow']}</b> is up again, restart {told['restarts']}, pid {told['pid']}",
            )
        elif entry.kind == "removed":
            colour, text = COLOURS["ended"], f"✖ <b>{told['flow']}</b> was removed"
        elif entry.kind == "state":
            colour, text = COLOURS.get(told["now"], "#94a3b8"), f"● {told['routine']}: {told['now']}"
        else:
            colour, text = COLOURS["ended"], "■ the pipe has ended"
        lines.append(f'<li style="color:{colour}"><span class="small">{_clock(entry)}</span> {text}</li>')
    return f"<h2>What happened</h2><ul class='news'>{''.join(lines[:NEWS])}</ul>"


def _slots(pipe: Pipe) -> str:
    """Who holds which slots: a bar for each ring."""
    listing = list_pipe(pipe._built().segment.pipe_id)
    names = pipe._built().plan.present
    parts = ['<h2>Who holds which slots</h2><div class="rings">']
    for segment in listing.segments if listing is not None else ():
        if segment.slots is None:
            continue
        count, size = segment.slots
        total = max(1, segment.free + sum(segment.held.values()))
        bars, holders = [], []
        for holder, held in segment.held.items():
            colour = _HOLDERS[names.index(holder) % len(_HOLDERS)] if holder in names else "#94a3b8"
            bars.append(f'<span style="width:{100 * held / total:.1f}%;background:{colour}"></span>')
            holders.append(f'<span style="color:{colour}">{escape(holder)} {held}</span>')
        title = f"{escape(segment.what)}: {count} slots of {size:,} bytes, {segment.free} free"
        parts.append(f'<div><div class="small">{title}</div><div class="bar">{"".join(bars)}</div>')
        parts.append(f'<div class="small">{" · ".join(holders) or "nobody"}</div></div>')
    return "".join([*parts, "</div>"])
