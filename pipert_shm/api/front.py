"""The front door: tells where the control is found, and serves the page at `/` when there is no dashboard."""

from __future__ import annotations

import ipaddress
import logging
from html import escape
from importlib.util import find_spec

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from pipert_shm.api.journal import Journal
from pipert_shm.control.log_output import TerminalHandler
from pipert_shm.system.streams import say

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>pipert_shm</title></head>
<body style="font-family: sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em">
<h1>{name}</h1>
<p>This is the control of a pipe. <a href="{root}/docs">/docs</a> lists what can be asked, to be tried;
<a href="{root}/metrics">/metrics</a> is for Prometheus.</p>
<p>There is no dashboard here. {advice}</p>
</body></html>
"""


def dashboard_is_installed() -> bool:
    """Whether the `dashboard` extra is there."""
    return find_spec("nicegui") is not None


@router.get("/")
def front(request: Request) -> HTMLResponse:
    """Says where to look, and how to get the dashboard."""
    advice = "Ask for it: <code>APIWrapper(…, dashboard=True)</code>."
    if not dashboard_is_installed():
        advice = (
            "Install the extra <code>dashboard</code> (docs/how-to/install.md). <code>pipert-shm run</code> has it then; in a "
            "program, <code>APIWrapper(…, dashboard=True)</code>."
        )
    name = escape(request.app.state.pipe.name)
    return HTMLResponse(_PAGE.format(name=name, root=escape(request.scope.get("root_path", "")), advice=advice))


def announce(logger: logging.Logger, host: str, port: int, *, dashboard: bool) -> None:
    """Logs the addresses with the pipe's logger, or writes them to standard error when no logging is set up."""
    url = url_of(host, port)
    pages = f"docs: {url}/docs" + (f", dashboard: {url}/" if dashboard else "")
    text = f"the control listens on {host}, port {port}: {url} ({pages})"
    if is_set_up(logger):
        logger.info("%s", text)
    elif logger.isEnabledFor(logging.WARNING):
        say(text)


def is_set_up(logger: logging.Logger) -> bool:
    """Whether the program has set up logging for a logger: it has a handler that is not one of ours."""
    one: logging.Logger | None = logger
    while one is not None:
        if any(not isinstance(handler, TerminalHandler | Journal) for handler in one.handlers):
            return True
        one = one.parent if one.propagate else None
    return False


def url_of(host: str, port: int) -> str:
    """The URL of a server on this address, for a browser of this machine.

    >>> url_of("127.0.0.1", 8080), url_of("::1", 80), url_of("0.0.0.0", 8080)
    ('http://127.0.0.1:8080', 'http://[::1]:80', 'http://127.0.0.1:8080')
    """
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # no address to ask at
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
