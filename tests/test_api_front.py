"""Where the control says that it is, and the page at `/` without a dashboard."""

from __future__ import annotations

import asyncio
import logging
import sys

import httpx
import pytest
from fastapi import FastAPI

from pipert_shm import Pipe, create_app
from pipert_shm.api import front
from pipert_shm.api.front import announce
from serving import greeting


async def get(app: FastAPI, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        return await client.get(path)


@pytest.mark.parametrize(
    ("installed", "advice"),
    [(False, "Install the extra <code>dashboard</code>"), (True, "Ask for it: <code>APIWrapper(…, dashboard=True)</code>")],
)
def test_the_page_says_how_to_get_the_dashboard(monkeypatch: pytest.MonkeyPatch, installed: bool, advice: str) -> None:
    monkeypatch.setattr(front, "find_spec", lambda name: installed or None)
    page = asyncio.run(get(create_app(Pipe(logger=logging.getLogger("<b>gate</b>"))), "/"))
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert advice in page.text
    assert 'href="/docs"' in page.text
    assert "&lt;b&gt;gate&lt;/b&gt;" in page.text


def test_without_logging_the_addresses_are_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A handler gets them as a record; a level that leaves out warnings silences them."""
    announce(logging.Logger("alone"), "127.0.0.1", 80, dashboard=True)
    assert capsys.readouterr().err == greeting(80, dashboard=True)
    announce(logging.Logger("silenced", logging.ERROR), "127.0.0.1", 80, dashboard=True)
    assert capsys.readouterr().err == ""
    logger = logging.Logger("handled", logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    announce(logger, "127.0.0.1", 80, dashboard=False)
    assert tuple(capsys.readouterr()) == (greeting(80), "")


@pytest.mark.parametrize(
    ("program", "logger", "name"),
    [
        ("/srv/gate.py", None, "gate"),
        ("/srv/gate/__main__.py", None, "gate"),
        ("", None, "Pipe"),
        ("/srv/gate.py", "street", "street"),
        ("/srv/gate.py", "Pipe", "gate"),
    ],
)
def test_a_pipe_has_the_name_of_its_logger_or_program(
    monkeypatch: pytest.MonkeyPatch, program: str, logger: str | None, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert Pipe(logger=logging.getLogger(logger) if logger else None).name == name
