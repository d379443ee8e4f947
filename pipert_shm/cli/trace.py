"""Traces a pipe that runs elsewhere: `pipert-shm trace`."""

from __future__ import annotations

import json
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from pipert_shm.cli.remote import PATIENCE_S, detail_of
from pipert_shm.errors import RemoteRefusal


def is_url(pipe: str) -> bool:
    """Whether a pipe is meant by the address of its HTTP control, and not by its name."""
    _, colon, port = pipe.rpartition(":")
    return "://" in pipe or bool(colon and port.isdigit())


def trace_by_name(name: str, seconds: float) -> tuple[bytes, str]:
    """Has a pipe of this machine traced, by its name or id: the file's content, and what is in it.

    :raises PipertError, OSError, ImportError: when it can't be reached, or refuses.
    """
    from pipert_shm.attached import attach
    from pipert_shm.parent.relays import TRACE
    from pipert_shm.trace.answers import fetch

    with attach(name) as pipe:
        return fetch(lambda body: pipe.relay(TRACE, body, timeout=seconds + PATIENCE_S), seconds)


def trace_over_http(url: str, seconds: float, token: str | None) -> tuple[bytes, str]:
    """Has a pipe traced by its HTTP control: the file's content, and what is in it.

    :raises RemoteRefusal: when nothing answers there, or the answer is no.
    """
    url = url if "://" in url else f"http://{url}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = Request(f"{url.rstrip('/')}/trace?seconds={seconds:g}", headers=headers, method="POST")
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=seconds + PATIENCE_S) as answer:
            return answer.read(), answer.headers.get("X-Trace-Report", "")
    except HTTPError as error:
        with error:
            raise RemoteRefusal(f"{url} refuses: {detail_of(error)}") from None
    except URLError as error:
        raise RemoteRefusal(f"nothing answers at {url}: {error.reason}; is `pipert-shm run --api` up there?") from None
    except (OSError, HTTPException, json.JSONDecodeError) as error:
        raise RemoteRefusal(f"{url} is not the control of a pipe: {error or type(error).__name__}") from None


def default_file(pipe: str) -> Path:
    """Where the trace of a pipe goes: `yard.pftrace`, in the present directory."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in pipe.partition("://")[2] or pipe)
    return Path(f"{name}.pftrace")
