"""Clients of a hub that are what they say, and some that are not: `python tests/hosts_strangers.py FOLDER PORT`.

The certificates in FOLDER are those of `test_hosts_access.py`. It prints as JSON what each client got, in a process of its own,
since Zenoh's threads outlive sessions.

What has to come to nothing is sent before something that has to arrive, on the same way: when that has come, it would be there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import zenoh

from pipert_shm.agents.hub import run_for_invited
from pipert_shm.hosts.authority import Authority
from pipert_shm.hosts.refusals import why_refused

PATIENCE = 40.0
FOLDER, PORT = Path(), 0  # set by the command line
CLIENT: dict[str, Any] = {
    "scouting/multicast/enabled": False,
    "scouting/gossip/enabled": False,
    "transport/link/tls/enable_mtls": True,
}


def opened(settings: dict[str, Any]) -> Any:
    config = zenoh.Config()
    for key, value in (CLIENT | settings).items():
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


def router(authority: Authority) -> Any:
    files = authority.files()
    return opened(
        {
            "mode": "router",
            "listen/endpoints": [f"tls/127.0.0.1:{PORT}"],
            "transport/link/tls/root_ca_certificate": files["ca"],
            "transport/link/tls/listen_certificate": files["certificate"],
            "transport/link/tls/listen_private_key": files["key"],
            "access_control": authority.access_control(),
        }
    )


def client(name: str | None) -> Any:
    """A session with the certificate of an invitation in FOLDER; None for a client without one."""
    settings: dict[str, Any] = {
        "mode": "client",
        "connect/endpoints": [f"tls/127.0.0.1:{PORT}"],
        "connect/timeout_ms": 0,
        "transport/link/tls/root_ca_certificate": str(FOLDER / "hub" / "ca.pem"),
    }
    if name is not None:
        settings["transport/link/tls/connect_certificate"] = str(FOLDER / name / "certificate.pem")
        settings["transport/link/tls/connect_private_key"] = str(FOLDER / name / "key.pem")
    else:
        settings["transport/link/tls/enable_mtls"] = False
    return opened(settings)


def refusal(name: str | None) -> str:
    """What a client is told that may not connect; empty if it may."""
    try:
        client(name).close()
    except zenoh.ZError:
        mine = None if name is None else (str(FOLDER / name / "certificate.pem"), str(FOLDER / name / "key.pem"))
        return why_refused(f"127.0.0.1:{PORT}", str(FOLDER / "hub" / "ca.pem"), mine) or "no reason"
    return ""


class Ear:
    """All that a session hears at some keys."""

    def __init__(self, session: Any, *keys: str) -> None:
        self.heard: list[str] = []
        channel: Any = zenoh.handlers.FifoChannel(256)
        self._declared = [session.declare_subscriber(key, channel) for key in keys]
        self._declared += [session.liveliness().declare_subscriber(key, channel, history=True) for key in keys]

    def take(self, until: str = "") -> list[str]:
        """What has come, after `until` has."""
        end = time.monotonic() + PATIENCE
        while True:
            for declared in self._declared:
                while (sample := declared.handler.try_recv()) is not None:
                    gone = "" if sample.kind == zenoh.SampleKind.PUT else "gone: "
                    self.heard.append(f"{gone}{sample.key_expr}")
            if not until or until in self.heard:
                return sorted(set(self.heard))
            if time.monotonic() > end:
                raise TimeoutError(f"no {until} among {self.heard}")
            time.sleep(0.01)


def answers(session: Any, key: str) -> list[str]:
    return sorted(
        reply.ok.payload.to_string()
        for reply in session.get(key, target=zenoh.QueryTarget.ALL, timeout=0.7)
        if reply.ok is not None
    )


def first_answers(session: Any, key: str) -> list[str]:
    """As soon as somebody is known who answers."""
    end = time.monotonic() + PATIENCE
    while not (found := answers(session, key)) and time.monotonic() < end:
        pass
    return found


def answer_as(session: Any, name: str, key: str) -> Any:
    return session.declare_queryable(key, lambda query: query.reply(query.key_expr, name))


def main() -> None:
    authority = Authority(FOLDER / "hub")
    hub = router(authority)
    got: dict[str, Any] = {
        f"refused {name}": refusal(name) for name in (None, "of another authority", "ended", "of no authority")
    }
    edge, gpu, bad, laptop = (patient_client(name) for name in ("edge-1", "gpu", "bad", "laptop"))
    spy = patient_client("bad")  # a session hears what it says itself
    gpus, bads = (
        Ear(gpu, "pipert/*/gpu/**", "pipert/*/all/**"),
        Ear(spy, "**", "pipert/**", "pipert/edge-1/gpu/**", "pipert/*/all/**"),
    )
    queryables = [
        answer_as(edge, "edge-1", "pipert/*/edge-1/ask/**"),
        answer_as(bad, "bad", "pipert/*/edge-1/ask/**"),
        answer_as(bad, "bad", "pipert/laptop/edge-1/ask/what"),
        answer_as(bad, "bad", "pipert/*/bad/ask/**"),
    ]
    tokens = [
        bad.liveliness().declare_token("pipert/edge-1/gpu/wire/gate/sender/alive/5"),
        bad.liveliness().declare_token("pipert/edge-1/all/alive/5"),
        bad.liveliness().declare_token("pipert/bad/all/alive/1"),
        edge.liveliness().declare_token("pipert/edge-1/gpu/wire/gate/sender/alive/1"),
        edge.liveliness().declare_token("pipert/edge-1/all/alive/1"),
    ]

    def forge() -> None:
        for key in ("edge-1/gpu/wire/gate/sender", "edge-1/all/what", "gpu/edge-1/wire/gate/receiver"):
            bad.put(f"pipert/{key}/forged", b"")
        bad.delete("pipert/edge-1/gpu/wire/gate/sender")
        bad.put("pipert/bad/gpu/wire/other/sender", b"")

    def send() -> None:
        edge.put("pipert/edge-1/gpu/wire/gate/sender", b"a frame")
        edge.put("pipert/edge-1/bad/wire/gate/sender", b"a frame for bad")

    until_heard(gpus, "pipert/bad/gpu/wire/other/sender", forge)
    for key in ("bad/all/alive/1", "edge-1/all/alive/1", "edge-1/gpu/wire/gate/sender/alive/1"):
        gpus.take(f"pipert/{key}")
    until_heard(gpus, "pipert/edge-1/gpu/wire/gate/sender", send)
    got["gpu hears"] = gpus.take()
    # `**` takes in what it may not hear, and is refused by the router; what is for it, it has to ask for by name
    bads.take("pipert/edge-1/all/alive/1")
    until_heard(Ear(spy, "pipert/*/bad/**"), "pipert/edge-1/bad/wire/gate/sender", send)
    got["bad hears"] = bads.take()
    got["an operator asks edge-1"] = first_answers(laptop, "pipert/laptop/edge-1/ask/what")
    got["an operator asks bad"] = first_answers(laptop, "pipert/laptop/bad/ask/what")
    got["a host asks"] = answers(spy, "pipert/bad/edge-1/ask/what")
    got["a host asks as an operator"] = answers(spy, "pipert/laptop/edge-1/ask/what")
    got["an operator asks as another"] = answers(laptop, "pipert/edge-1/bad/ask/what")
    for declared in (*queryables, *tokens):
        declared.undeclare()
    for session in (edge, bad, spy, laptop):
        session.close()
    hub.close()
    got["after a revocation"] = revoked(authority, gpu)
    gpu.close()
    print(json.dumps(got))


def revoked(authority: Authority, gpu: Any) -> list[str]:
    """What `gpu` hears of edge-1 while a hub runs: with its invitation, and after its revocation with that and with another."""
    over = threading.Event()
    where = FOLDER / "hub", f"tls/127.0.0.1:{PORT}", over, logging.getLogger("hub")
    hub = threading.Thread(target=run_for_invited, args=where)
    hub.start()
    ear = Ear(gpu, "pipert/*/gpu/**")
    old = patient_client("edge-1")
    until_heard(ear, "pipert/edge-1/gpu/before", lambda: old.put("pipert/edge-1/gpu/before", b""))
    authority.revoke("edge-1")
    authority.invite("edge-1", out=FOLDER / "edge-1 anew")
    new = patient_client("edge-1 anew")
    until_heard(ear, "pipert/edge-1/gpu/after", lambda: new.put("pipert/edge-1/gpu/after", b""))
    end = time.monotonic() + PATIENCE
    while not list(old.info.routers_zid()) and time.monotonic() < end:  # it may connect, and that is all
        time.sleep(0.05)
    for number in range(10):
        old.put("pipert/edge-1/gpu/revoked", b"")
        last = f"pipert/edge-1/gpu/last/{number}"
        until_heard(ear, last, partial(new.put, last, b""))
    over.set()
    for session in (old, new):
        session.close()
    hub.join()
    return [key for key in ear.take() if "/last/" not in key]


def patient_client(name: str) -> Any:
    """Of a hub that is about to listen, or busy."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return client(name)
        except zenoh.ZError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def until_heard(ear: Ear, key: str, say: Callable[[], None]) -> None:
    """Says it until it is heard: what a session declares takes a while to be known to others."""
    end = time.monotonic() + PATIENCE
    while key not in ear.take():
        if time.monotonic() > end:
            raise TimeoutError(f"no {key} among {ear.heard}")
        say()
        time.sleep(0.05)


if __name__ == "__main__":
    FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # sessions that are not closed would keep it from ending
