"""Addresses that servers listen on and that clients name, and the token that is asked for beyond this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is one that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def name_of(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_unspecified(name: str) -> bool:
    """Whether a system takes this address for its own, whatever way it is spelt: `0.0.0.0`, `::`, `::ffff:0.0.0.0`…"""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return address.is_unspecified or (mapped is not None and mapped in _THIS_NETWORK)
    return address in _THIS_NETWORK


def site_of(address: str) -> str | None:
    """The host and port of an address; None when the text is no address."""
    try:
        return urlsplit(address).netloc
    except ValueError:  # such as http://[::1
        return None


def check_address(host: str, token: object, harm: str) -> None:
    """Checks that what is served there is not for anybody who reaches this machine.

    :param harm: what anybody could do.
    :raises TypeError: when the token is no str.
    :raises ValueError: when there is no token, and `host` is not a loopback address; or the token can't be shown.
    """
    check_token(token)
    if token is None and not is_loopback(host):
        raise ValueError(f"on {host!r} anyone could {harm}: give it a token=, or serve it on 127.0.0.1, ::1 or localhost")


def check_token(token: object) -> None:
    """Checks what is to be asked for; None stands for no token.

    :raises TypeError: when it is no str.
    :raises ValueError: when it is empty, or has characters that no header can carry.
    """
    if token is None:
        return
    if not isinstance(token, str):
        raise TypeError(f"token must be a str, or None for none, not a {type(token).__name__}")
    if not token:
        raise ValueError("token is empty: is the variable that it comes from not set? Without a token, leave it out")
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise ValueError(
            "token can't be shown in a header: it may have printable ASCII characters, and no blank at its ends; "
            "secrets.token_urlsafe() makes a good one"
        )
