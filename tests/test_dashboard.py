"""The dashboard, in a real browser; and what it draws."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from conftest import RunScript, Script, StartScript
from pipert_shm import FlowStatistics, Latency, PipeStatistics, RoutineStatistics, WireStatistics
from pipert_shm.api.graph import draw, places_of
from pipert_shm.api.motion import Motion, summary
from pipert_shm.extras import to_install
from processes import descendants, reap_orphans
from serving import free_port, greeting

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 20_000

SCRIPT = """
import os
import numpy as np
from pipert_shm import APIWrapper, DestinationRoutine, MiddleRoutine, Pipe, SourceRoutine, Wire, events

class Camera(SourceRoutine):
    def main_logic(self):
        frame = self.loan((120, 160, 3))
        frame[...] = self.meta.sequence % 251
        return frame

class Brighten(MiddleRoutine):
    factor = 1

    @events("scale")
    def scale(self, factor: int, note: str = "none") -> None:
        self._logger.warning("the factor is %r, the note %r", factor, note)

    def main_logic(self, data):
        return data

class End(DestinationRoutine):
    @events("crash")
    def crash(self) -> None:
        os._exit(3)

    def main_logic(self, data): ...

camera, middle, end = Camera("camera"), Brighten("middle"), End("end")
camera.set_const_fps(50)
pipe = Pipe()
pipe.create_flow("first", True, camera, middle)
pipe.create_flow("second", False, end)
pipe.link(Wire(middle, end))
pipe.build()
APIWrapper("127.0.0.1", PORT, pipe, token="secret", dashboard=True).serve()
print("serve has returned")
"""


OVERLAPS = """() => {
    const texts = [...document.querySelectorAll("svg text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    const common = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;  // the lines of one label have such gaps
    return texts.flatMap(([one, a], i) => texts.slice(0, i).filter(([, b]) => common(a, b)).map(([other]) => [one, other]));
}"""


# Two previews, each as video by WebRTC, or, where the machine is too busy to connect within 2 s, as pictures.
SEEN = """() => [...document.querySelectorAll('.preview img')].filter(i => i.naturalWidth == 160).length
    + [...document.querySelectorAll('.preview video')].filter(v => v.videoWidth == 160).length == 2"""


class Shown:
    """A dashboard, its server's process, and the browser's page."""

    def __init__(self, page: Page, script: Script, port: int) -> None:
        self.page = page
        self.port = port
        self.script = script
        self.faults: list[str] = []
        self.elsewhere: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "request", lambda request: self.elsewhere.append(request.url) if f"127.0.0.1:{port}" not in request.url else None
        )

    def click(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def news(self, text: str) -> None:
        """Sees this in the time line."""
        expect(self.page.locator(".news")).to_contain_text(text, timeout=PATIENCE_MS)

    def moves(self, routine: str) -> None:
        """Sees the graph show a rate other than 0."""
        self.page.wait_for_function(
            "name => /[1-9]\\d*\\.\\d/.test(document.querySelector(`.along [data-routine=${name}]`).textContent)", arg=routine
        )


def handshake(port: int, origin: str, cookie: str) -> int:
    """How the page's web socket is answered when a page of this origin opens it."""
    head = f"GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {origin}\r\n"
    head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    head += f"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nCookie: {cookie}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_MS / 1000) as connection:
        connection.sendall(f"{head}\r\n".encode())
        return int(connection.recv(12).split()[1])


@pytest.fixture
def shown(start_script: StartScript) -> Iterator[Shown]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    port, known = free_port(), set(descendants())
    script = start_script(SCRIPT.replace("PORT", str(port)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        one = Shown(page, script, port)
        request = playwright.request.new_context()
        for _ in range(100):  # Playwright's own loop has this thread, so that waiting.eventually() could not wait for it
            try:
                request.get(f"http://127.0.0.1:{port}/health")
                break
            except Exception:
                page.wait_for_timeout(100)
        page.goto(f"http://127.0.0.1:{port}/?token=secret")
        yield one
        request.dispose()
        browser.close()
    script.kill()
    reap_orphans({*known, script.process.pid})  # the browser's


def test_a_pipe_is_started_watched_steered_and_ended(shown: Shown) -> None:
    page = shown.page
    state = page.get_by_role("status").first
    expect(state).to_have_text("built", timeout=PATIENCE_MS)
    shown.news("camera: built")
    expect(page.get_by_role("heading", name="script0", exact=True)).to_be_visible()
    expect(page).to_have_title("script0 · pipert_shm")
    shown.click("Start")
    expect(state).to_have_text("running", timeout=PATIENCE_MS)
    shown.moves("camera")
    shown.moves("end")
    page.wait_for_function(SEEN)
    shown.news("camera: running")
    expect(page.get_by_text("age on arrival, since capture")).to_have_count(2)
    expect(page.get_by_text("from sent to received")).to_have_count(1)
    expect(page.get_by_text("ring of camera").first).to_be_visible()
    expect(page.locator(".why li").first).to_contain_text(re.compile("slowest is|middle"), timeout=PATIENCE_MS)

    shown.click("scale")
    page.get_by_label("factor: int").fill("3")
    page.get_by_label("note: str = 'none'").fill("<b>hello</b>")
    shown.click("Send")
    expect(page.get_by_text("the factor is 3, the note '<b>hello</b>'")).to_be_visible(timeout=PATIENCE_MS)

    shown.click("scale")
    shown.click("Send")  # without what it needs
    expect(page.get_by_text("missing a required argument: 'factor'")).to_be_visible(timeout=PATIENCE_MS)

    shown.click("crash")
    shown.news("second died (status 3)")
    shown.news("second is up again, restart 1")
    expect(page.locator(".along")).to_contain_text("second ↻1", timeout=PATIENCE_MS)
    page.get_by_role("button", name="restart flow").last.click()
    shown.news("second died (signal 9)")
    shown.news("restart 2")

    shown.click("Pause")
    expect(state).to_have_text("stopped", timeout=PATIENCE_MS)

    page.set_viewport_size({"width": 390, "height": 844})  # a phone
    expect(page.locator(".upright")).to_be_visible()
    expect(page.locator(".along")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    assert page.context.browser is not None
    drawn = page.context.browser.new_page()
    for upright in (False, True):
        drawn.set_content(draw(busy(*FAN_IN), upright=upright))
        assert drawn.evaluate(OVERLAPS) == [], "labels on each other"
    drawn.close()

    assert (shown.faults, shown.elsewhere) == ([], [])
    own = f"http://127.0.0.1:{shown.port}"
    (session,) = page.context.cookies()
    cookie = f"{session.get('name')}={session.get('value')}"
    assert [handshake(shown.port, origin, cookie) for origin in (own, "http://evil.example", "null")] == [101, 403, 403]
    assert handshake(shown.port, own, f"{session.get('name')}=secret") == 403
    shown.click("Kill")
    shown.click("End it")
    end = shown.script.finish()
    assert (end.returncode, end.lines) == (0, ["serve has returned"])
    assert end.stderr.startswith(greeting(shown.port, dashboard=True))


def test_without_nicegui_the_message_says_what_to_install(run_script: RunScript) -> None:
    text = SCRIPT.replace("PORT", "8080").replace("import os", "import os, sys; sys.modules['nicegui'] = None", 1)
    end = run_script(text)
    assert end.returncode == 1
    assert to_install("dashboard") in end.stderr


# ---- what is drawn -------------------------------------------------------------------------------

NONE = Latency((0,) * 4)


def routine(
    name: str, flow: str, state: str = "running", received: int = 0, sent: int = 0, errors: int = 0
) -> RoutineStatistics:
    return RoutineStatistics(name, flow, state, received, sent, errors, 0, 0, 0, 0.0, 0, NONE, {})


def statistics(
    time_s: float,
    flows: dict[str, str],
    wires: list[tuple[str, str]],
    count: int = 0,
    lost: int = 0,
    state: str = "running",
    flow_state: str = "running",
) -> PipeStatistics:
    """Flows as {name: "routines"}; all have moved `count` messages."""
    receivers = {receiver for _, receiver in wires}
    return PipeStatistics(
        time_s,
        {
            name: routine(name, flow, state, count if name in receivers else 0, count)
            for flow, names in flows.items()
            for name in names.split()
        },
        {
            (a, b): WireStatistics(a, b, "drop_oldest", 2, True, count + lost, count, 1, {"oldest": lost}, 0, 0, NONE)
            for a, b in wires
        },
        {flow: FlowStatistics(flow, flow_state, 1, 0, 0) for flow in flows},
    )


@pytest.mark.parametrize(
    ("flows", "wires", "expected"),
    [
        ({"f": "a"}, [], {"a": (0, 0)}),
        ({"f": "a", "g": "b", "h": "c"}, [("a", "b"), ("b", "c")], {"a": (0, 0), "b": (1, 0), "c": (2, 0)}),
        ({"f": "a b c"}, [("a", "b"), ("a", "c")], {"a": (0, 0), "b": (1, 0), "c": (1, 1)}),
        ({"f": "a", "g": "b", "h": "c"}, [("a", "b"), ("a", "c")], {"a": (0, 0), "b": (1, 0), "c": (1, 1)}),
        # a flow with others' routines between its own has a lane to itself
        ({"f": "a c", "g": "b"}, [("a", "b"), ("b", "c")], {"a": (0, 0), "c": (2, 0), "b": (1, 1)}),
        # the longest way counts
        ({"f": "a", "g": "b", "h": "c"}, [("a", "c"), ("a", "b"), ("b", "c")], {"a": (0, 0), "b": (1, 0), "c": (2, 0)}),
    ],
)
def test_places(flows: dict[str, str], wires: list[tuple[str, str]], expected: dict[str, tuple[int, int]]) -> None:
    places = places_of(statistics(0, flows, wires))
    assert {name: (place.along, place.across) for name, place in places.items()} == expected


def busy(flows: dict[str, str], wires: list[tuple[str, str]]) -> Motion:
    """With rates and losses on every wire."""
    motion = Motion(statistics(10.0, flows, wires))
    motion.look(statistics(12.0, flows, wires, count=501, lost=1234))
    return motion


FAN_IN = {name: name for name in "abcd"}, [("a", "d"), ("b", "d"), ("c", "d")]
FAN_OUT = {name: name for name in "abcd"}, [("d", "a"), ("d", "b"), ("d", "c")]
AROUND = {name: name for name in "abc"}, [("a", "b"), ("b", "c"), ("a", "c")]
MANY = {name: name for name in "abcdefghz"}, [(name, "z") for name in "abcdefgh"]


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("graph", [FAN_IN, FAN_OUT, AROUND, MANY])
def test_labels_stand_apart_from_each_other_and_from_routines(
    graph: tuple[dict[str, str], list[tuple[str, str]]], upright: bool
) -> None:
    picture = draw(busy(*graph), upright=upright)
    _, _, wide, high = map(int, re.findall(r'viewBox="(\d+) (\d+) (\d+) (\d+)"', picture)[0])
    rates = [(int(x), int(y)) for x, y in re.findall(r'<text x="(\d+)" y="(\d+)"[^>]*>250.5/s<', picture)]
    corners = [(int(x), int(y)) for x, y in re.findall(r'<rect x="(\d+)" y="(\d+)" width="190"', picture)]
    assert len(rates) == len(graph[1])
    labels = [(x - 70, y - 15, 140, 40) for x, y in rates]
    assert all(x >= 0 and x + w <= wide and y >= 0 and y + h <= high for x, y, w, h in labels)
    boxes = [*labels, *((x, y, 190, 84) for x, y in corners)]
    for number, (x, y, w, h) in enumerate(labels):
        for left, top, width, height in boxes[number + 1 :]:
            assert x + w <= left or left + width <= x or y + h <= top or top + height <= y


@pytest.mark.parametrize("upright", [False, True])
def test_rates_and_losses_are_drawn(upright: bool) -> None:
    flows, wires = {"f": "a", "g": "b"}, [("a", "b")]
    motion = Motion(statistics(10.0, flows, wires))
    assert "0.0/s" in draw(motion, upright=upright)
    motion.look(statistics(12.0, flows, wires, count=50, lost=7))
    picture = draw(motion, upright=upright)
    assert "25.0/s" in picture
    assert "1/2 wait · 7 lost" in picture
    for number in range(10):  # of late, not since the start
        motion.look(statistics(13.0 + number, flows, wires, count=50, lost=7))
    picture = draw(motion, upright=upright)
    assert "0.0/s" in picture
    assert "7 lost" in picture


def test_names_are_no_markup() -> None:
    motion = Motion(statistics(0, {"<f>": '<script>"&', "g": "b"}, [('<script>"&', "b")]))
    picture = draw(motion)
    assert "<script" not in picture
    assert "&lt;script&gt;&quot;&amp;" in picture


def test_latency_of_late() -> None:
    def at(time_s: float, *counts: int) -> PipeStatistics:
        now = statistics(time_s, {"f": "a b"}, [("a", "b")], count=1)
        hop = WireStatistics("a", "b", "block", 1, True, 1, 1, 0, {}, 0, 0, Latency(counts))
        age = RoutineStatistics("b", "f", "running", 1, 0, 0, 0, 0, 0, 0.0, 0, Latency(counts), {})
        return PipeStatistics(time_s, {"a": now.routines["a"], "b": age}, {("a", "b"): hop}, now.flows)

    motion = Motion(at(0, 5, 5, 0, 0))
    motion.look(at(1, 5, 6, 0, 3))
    for name in "ab":
        assert motion.latency(motion.now.routines[name]).counts == (0, 1, 0, 3)


@pytest.mark.parametrize(
    ("states", "flow_state", "expected"),
    [
        ("running", "running", "running"),
        ("stopped", "running", "stopped"),
        ("built", "running", "built"),
        ("ended", "running", "ended"),
        ("running", "restarting", "restarting"),
        ("running", "failed", "failed"),
        ("failed", "running", "failed"),
        ("stopped", "ended", "ended"),
    ],
)
def test_summary(states: str, flow_state: str, expected: str) -> None:
    assert summary(statistics(0, {"f": "a b"}, [("a", "b")], state=states, flow_state=flow_state)) == expected
