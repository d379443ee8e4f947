"""Who may say and hear what: the keys of all that goes between hosts, and a router's rules for them.

A key has in it who says something, and to whom: `pipert/ME/PEER/…`. So the router can tell by a certificate's common name alone
what its owner may do, and needs to know no wires:

- It says (publishes, shows that it is there) at `pipert/ME/…` only.
- It hears what is said to it, `pipert/*/ME/…`, and what is said to all, `pipert/*/all/…`.
- It answers what it is asked, `pipert/*/ME/ask/…`. An operator asks, at `pipert/ME/*/ask/…`; nobody else does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipert_shm.errors import shown

ROOT = "pipert"
ALL = "all"  # in place of a peer: every host
NOBODY = "-"  # the host of an end that was told none
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_host_name(name: object) -> bool:
    """Whether a host can be called so."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name != ALL


def check_host_name(name: str) -> str:
    """The name.

    :raises ValueError: when a host can't be called so: it is a part of keys, of file names and of a certificate.
    """
    if not is_host_name(name):
        raise ValueError(
            f"a host can't be called {shown(name)}: its name has 1 to 63 letters, digits, '.', '_' and '-', begins with a "
            f"letter or a digit, and is not {ALL!r}"
        )
    return name


def key_of(me: str, peer: str, *parts: str) -> str:
    """The key of what one host says to another.

    >>> key_of("edge-1", "gpu", "wire", "gate")
    'pipert/edge-1/gpu/wire/gate'
    """
    return "/".join((ROOT, me, peer, *parts))


@dataclass(frozen=True, slots=True)
class Admitted:
    """A host that a router lets in.

    Attributes:
        name: as in keys.
        common_name: of its certificate.
        is_operator: whether it may ask other hosts to do something, such as to apply a file.
    """

    name: str
    common_name: str
    is_operator: bool = False


def access_control(hosts: Iterable[Admitted]) -> dict[str, Any]:
    """Zenoh's `access_control` for a router. Who is not among the hosts may do nothing.

    >>> access_control([])["default_permission"]
    'deny'
    """
    hosts = list(hosts)
    rules = [rule for host in hosts for rule in _rules(host)]
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules or [_rule("nobody", "ingress", ["put"], "pipert_nobody")],  # Zenoh wants a rule
        "subjects": [{"id": host.name, "cert_common_names": [host.common_name]} for host in hosts],
        "policies": [{"rules": [rule["id"] for rule in _rules(host)], "subjects": [host.name]} for host in hosts],
    }


def _rule(name: str, flow: str, messages: list[str], *keys: str) -> dict[str, Any]:
    return {"id": name, "permission": "allow", "flows": [flow], "messages": messages, "key_exprs": list(keys)}


def _rules(host: Admitted) -> list[dict[str, Any]]:
    """What a host may do. Ingress is what it sends to the router, egress what the router sends to it."""
    name = host.name
    said, heard = key_of(name, "**"), [key_of("*", name, "**"), key_of("*", ALL, "**")]
    asked = key_of("*", name, "ask", "**")
    rules = [
        _rule(f"{name} says", "ingress", ["put", "delete", "liveliness_token"], said),
        _rule(f"{name} knows that it is heard", "egress", ["declare_subscriber"], said, key_of("*", ALL, "**")),
        _rule(
            f"{name} listens", "ingress", ["declare_subscriber", "declare_liveliness_subscriber", "liveliness_query"], *heard
        ),
        _rule(f"{name} hears", "egress", ["put", "delete", "liveliness_token"], *heard),
        _rule(f"{name} answers", "ingress", ["declare_queryable", "reply"], asked),
        _rule(f"{name} is asked", "egress", ["query"], asked),
    ]
    if host.is_operator:
        own = key_of(name, "*", "ask", "**")
        rules += [
            _rule(f"{name} asks", "ingress", ["query"], own),
            _rule(f"{name} is answered", "egress", ["reply"], own),
            _rule(f"{name} knows who answers", "egress", ["declare_queryable"], key_of("*", "*", "ask", "**")),
        ]
    return rules
