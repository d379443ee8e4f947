"""The page that describes the routes, in a real browser that reaches nothing but the server."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from processes import descendants, reap_orphans
from serving import Served, serving
from test_dashboard import CHROMIUM, FLAGS, PATIENCE_MS

MAPPED = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


def test_the_documentation_needs_no_network() -> None:
    """With a token and without one; one browser for both."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    known = set(descendants())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*FLAGS, MAPPED])
        for token in (None, "secret"):
            with serving(token=token) as served:
                page = browser.new_page()
                check_documentation(page, served, token)
                page.close()
        browser.close()
    reap_orphans(known)  # the browser's


def check_documentation(page: Page, served: Served, token: str | None) -> None:
    own = f"http://127.0.0.1:{served.port}"
    faults: list[str] = []
    elsewhere: list[str] = []

    def pass_own(route: Route) -> None:
        if route.request.url.startswith((own, "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", pass_own)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.set_default_timeout(PATIENCE_MS)

    page.goto(f"{own}/docs" + ("?token=secret" if token else ""))
    expect(page.locator("#operations-control-start_post")).to_contain_text("/start", timeout=PATIENCE_MS)
    execute(page)
    assert served.states() != {"built"}
    assert (faults, elsewhere) == ([], [])
    assert served.client.get("/redoc", headers={"Authorization": "Bearer secret"}).status_code == 404


def execute(page: Page) -> None:
    """Starts the pipe from the page."""
    route = page.locator("#operations-control-start_post")
    route.click()
    route.get_by_role("button", name="Try it out").click()
    route.get_by_role("button", name="Execute").click()
    expect(route.locator(".live-responses-table")).to_contain_text("on its way", timeout=PATIENCE_MS)
