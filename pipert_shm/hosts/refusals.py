"""Why a hub can't be reached: Zenoh says only that it can't."""

from __future__ import annotations

import socket
import ssl

from pipert_shm.errors import describe

PATIENCE_S = 2.0
ANSWER_S = 0.5  # within which a certificate is refused
_SAID = {  # of the alerts that the other end sends
    "certificate required": "it asks for a certificate",
    "unknown ca": "it does not trust the authority of this host's certificate",
    "certificate expired": "this host's certificate has ended",
    "decrypt error": "it does not trust the authority of this host's certificate",
    "certificate unknown": "it does not accept this host's certificate",
    "bad certificate": "it does not accept this host's certificate",
}


def why_refused(address: str, ca: str | None, own: tuple[str, str] | None) -> str:
    """What happens when one connects; empty if nothing is wrong with that. It takes some seconds at most.

    :param address: HOST:PORT.
    :param ca: file with the certificate of the authority; None without TLS.
    :param own: files with the certificate and the key that it shows, if any.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), PATIENCE_S) as plain:
            if ca is not None:
                _greet(plain, host, ca, own)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate does not fit: {error.verify_message}"
    except ssl.SSLError as error:
        told = (error.reason or str(error)).lower().replace("_", " ")
        return next((text for alert, text in _SAID.items() if told.endswith(alert)), told)
    except TimeoutError:
        return "no answer"
    except (OSError, ValueError, OverflowError) as error:  # the latter two of a name or a port that can't be
        return describe(error)
    return ""


def _greet(plain: socket.socket, host: str, ca: str, own: tuple[str, str] | None) -> None:
    """Shakes hands. Whether the other end accepts the certificate it says afterwards, or it says nothing."""
    context = ssl.create_default_context(cafile=ca)
    if own is not None:
        context.load_cert_chain(*own)
    with context.wrap_socket(plain, server_hostname=host) as secure:
        secure.settimeout(ANSWER_S)
        try:
            secure.recv(1)
        except TimeoutError:
            return
