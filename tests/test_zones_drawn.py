"""Zones that are drawn by mouse: what each press does, and the page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from ruamel.yaml import YAML

from conftest import StartScript
from pipert_shm import Zones
from pipert_shm.api.zone_drawing import Drawing, as_yaml
from processes import descendants, reap_orphans
from serving import free_port
from test_dashboard import CHROMIUM, FLAGS, PATIENCE_MS

SCRIPT = """
import numpy as np
from pipert_shm import APIWrapper, DetectedFrame, DestinationRoutine, Detections, MiddleRoutine, Pipe, SourceRoutine, Zones

class Camera(SourceRoutine):
    def main_logic(self):
        return np.full((300, 1200, 3), 90, np.uint8)

class Nobody(MiddleRoutine):
    def main_logic(self, frame):
        return DetectedFrame(frame, Detections([]))

class End(DestinationRoutine):
    def main_logic(self, data): ...

camera, nobody, end = Camera("camera"), Nobody("nobody"), End("end")
zones = Zones("areas", lines={"camera": {"door": {"points": [[600, 0], [600, 300]]}}})
camera.set_const_fps(10)
pipe = Pipe()
pipe.create_flow("all", True, camera, nobody, zones, end)
pipe.build()
pipe.notify_event("start")
APIWrapper("127.0.0.1", PORT, pipe, dashboard=True).serve()
"""


def drawn(*presses: tuple[float, float]) -> Drawing:
    drawing = Drawing((640, 480))
    drawing.begin("zone")
    for x, y in presses:
        drawing.press(x, y)
        drawing.release()
    return drawing


SQUARE = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]


def points_of(drawing: Drawing) -> list[list[float]]:
    found: list[list[float]] = drawing.settings()[0]["zone 1"]["polygon"]
    return found


def test_presses_make_a_zone_move_its_points_add_and_remove_some() -> None:
    drawing = drawn(*SQUARE, SQUARE[0])
    assert (points_of(drawing), drawing.is_growing) == ([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]], False)
    assert not drawing.move(0.5, 0.5)
    drawing.press(0.81, 0.2)
    assert drawing.move(0.9, -3.0)
    drawing.release()
    drawing.press(0.2, 0.5)  # the middle of an edge
    drawing.move(0.1, 0.5)
    drawing.release()
    assert points_of(drawing) == [[0.2, 0.2], [0.9, 0.0], [0.8, 0.8], [0.2, 0.8], [0.1, 0.5]]
    for _ in range(3):
        drawing.press(*points_of(drawing)[0], to_remove=True)
    assert points_of(drawing) == [[0.8, 0.8], [0.2, 0.8], [0.1, 0.5]]  # with fewer it would be no zone
    drawing.press(0.4, 0.1)
    assert len(points_of(drawing)) == 3


def test_a_mouse_that_let_go_beside_the_picture_holds_no_point_of_another_shape() -> None:
    for then in (lambda drawing: drawing.begin("line"), lambda drawing: drawing.choose("zone 1"), Drawing.remove):
        drawing = drawn(*SQUARE, SQUARE[0])
        drawing.press(*SQUARE[3])
        then(drawing)
        assert not drawing.move(0.5, 0.5)


def test_names_and_what_is_not_finished() -> None:
    drawing = drawn(*SQUARE[:2])
    assert drawing.begin("line") == "line 1"
    assert [*drawing.shapes] == ["line 1"]
    drawing.choose("nothing")
    assert (drawing.shapes, drawing.settings()) == ({}, ({}, {}))
    drawing = drawn(*SQUARE, SQUARE[0])
    drawing.begin("zone")
    for x, y in SQUARE:
        drawing.press(x, y)
    drawing.drop_unfinished()
    with pytest.raises(ValueError, match="'zone 1' is another one's name"):
        drawing.rename("zone 1")
    drawing.rename("<b>")
    assert "&lt;b&gt;" in drawing.svg(640, 480)
    drawing.remove()
    assert [*drawing.shapes] == ["zone 1"]


def test_settings_come_back_as_they_were() -> None:
    zones: dict[str, Any] = {
        "gate": {"polygon": [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]], "labels": ["person"], "anchor": "centre"}
    }
    lines: dict[str, Any] = {"door": {"points": [[0.5, 0.0], [0.5, 1.0]]}, "gate": {"points": [[320, 0], [320, 480]]}}
    drawing = Drawing((640, 480))
    drawing.load(zones, lines)
    assert drawing.settings() == (zones, {"door": lines["door"], "gate (line)": {"points": [[0.5, 0.0], [0.5, 1.0]]}})
    text = as_yaml({"zones": {"yard": zones}, "lines": {"yard": {}}})
    given = YAML(typ="safe").load(text)
    assert given == {"zones": {"yard": zones}}
    assert Zones("zones", **given).settings["zones"] == {"yard": zones}


@pytest.fixture
def page(start_script: StartScript) -> Iterator[Page]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    port, known = free_port(), set(descendants())
    script = start_script(SCRIPT.replace("PORT", str(port)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        for _ in range(100):
            try:
                page.goto(f"http://127.0.0.1:{port}/zones/areas")
                break
            except Exception:
                page.wait_for_timeout(100)
        yield page
        page.request.post(f"http://127.0.0.1:{port}/kill")
        script.finish()
        browser.close()
    reap_orphans({*known, script.process.pid})


def test_a_zone_is_drawn_in_a_browser_and_the_routine_takes_it(page: Page) -> None:
    expect(page.get_by_role("heading")).to_have_text("Zones of areas", timeout=PATIENCE_MS)
    picture = page.locator("img[src^='data:image/jpeg']")
    expect(picture).to_have_js_property("naturalWidth", 640, timeout=PATIENCE_MS)
    expect(page.locator("svg polyline")).to_have_count(1)
    area = picture.bounding_box()
    assert area is not None

    def at(x: float, y: float) -> tuple[float, float]:
        return area["x"] + x * area["width"], area["y"] + y * area["height"]

    page.get_by_role("button", name="New zone").click()
    expect(page.get_by_label("name", exact=True)).to_have_value("zone 1")
    for number, (x, y) in enumerate([(0.1, 0.2), (0.4, 0.2), (0.4, 0.8), (0.1, 0.2)], start=1):
        page.mouse.click(*at(x, y))
        expect(page.locator("svg circle")).to_have_count(number if number < 4 else 6)
    page.mouse.move(*at(0.4, 0.8))
    page.mouse.down()
    page.mouse.move(*at(0.25, 0.9))
    page.mouse.up()
    page.get_by_label("name", exact=True).fill("gate")
    page.get_by_label("name", exact=True).press("Tab")
    page.get_by_label("labels").fill("person, car")
    page.get_by_label("labels").press("Tab")
    expect(page.locator("svg text").last).to_have_text("gate")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("the zones of camera are set")).to_be_visible()

    page.reload()  # what is shown now comes from the routine
    expect(page.locator("svg polygon")).to_have_count(1, timeout=PATIENCE_MS)
    given = YAML(typ="safe").load(page.get_by_label("for the pipeline's file").input_value())
    assert given["zones"]["camera"]["gate"]["labels"] == ["car", "person"]
    points = given["zones"]["camera"]["gate"]["polygon"]
    assert points == [pytest.approx(point, abs=0.01) for point in ([0.1, 0.2], [0.4, 0.2], [0.25, 0.9])]
    assert given["lines"] == {"camera": {"door": {"points": [[0.5, 0.0], [0.5, 1.0]]}}}
