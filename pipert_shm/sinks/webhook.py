"""The sink that posts messages to a web server, signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.limits import check_count, check_seconds
from pipert_shm.sinks.address import Address
from pipert_shm.sinks.courier import LetterRefused, Undelivered
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.sender import MOST_TRIES
from pipert_shm.sinks.settings import Secret, check_secret, read_headers, read_secret
from pipert_shm.sinks.sink import Sink

if TYPE_CHECKING:
    import httpx

_EXAMPLE = "https://hooks.example.org/pipert"
# What the server says of this one request. Any other status may be gone when the server or the settings are put right.
REFUSALS = (400, 406, 409, 411, 413, 414, 415, 422, 431)
MOST_READ = 1 << 16  # bytes of an answer; beyond them the connection is closed
MOST_SHOWN = 200  # characters of an answer that errors tell


def signature(secret: str, key: str, timestamp: int, body: bytes) -> str:
    """Returns the signature of a message, as Standard Webhooks has it: `v1,` and the base64 of an HMAC-SHA256.

    What is signed is the key, the timestamp and the body, with points between.

    :param secret: any text, or `whsec_` and the base64 of the secret's bytes.

    >>> signature("secret", "1f0c-start", 1764000000, b"{}")
    'v1,H7rCSjrFHaqE18Cwb4J04B/BhEZg+MyWxEsfo8fY7Mg='
    """
    known = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    signed = hmac.new(known, b"%b.%d.%b" % (key.encode(), timestamp, body), hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


class WebhookSink(Sink):
    """Posts messages to a web server as JSON (the extra `webhook`).

    The body is one message, or with `batch` a list of at most so many. The headers are those of [Standard
    Webhooks](https://www.standardwebhooks.com), for which there are libraries in most languages: `webhook-id`, the same for
    each attempt (also as `Idempotency-Key`); `webhook-timestamp`, seconds since the epoch; and with a `secret`
    `webhook-signature`. A list's id follows from the keys of its messages.

    A status of 200 to 299 says that the message has arrived. After 400, 406, 409, 411, 413, 414, 415, 422 and 431 the same
    message is sent `tries` times at most. After any other status, and when the server can't be reached, it is sent until it
    arrives. The server may ask for a pause by `Retry-After`, of an hour at most. Redirections are not followed.

    :param url: of the server, `http` or `https`.
    :param secret: signs the messages: a text, `{"env": NAME}` or `{"file": PATH}`. It may begin with `whsec_`.
    :param headers: more headers, such as `Authorization`; each value is a text, or stands elsewhere, like the secret.
    :param timeout: seconds for the server to answer.
    :param batch: the most messages in one request; None: the body is a message, and no list.
    :param ca: file of the authority's certificate, if it is none that the system knows.
    :param spool, tries, grace: see `Sink`.
    :raises TypeError, ValueError: when one of these is out of range.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        secret: Secret | None = None,
        headers: Mapping[str, Secret] | None = None,
        timeout: float = 10.0,
        batch: int | None = None,
        ca: str | os.PathLike[str] | None = None,
        spool: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        tries: int = MOST_TRIES,
        grace: float = 2.0,
    ) -> None:
        super().__init__(name, spool=spool, tries=tries, grace=grace)
        self._address = Address.of(url, ("http", "https"), _EXAMPLE)
        check_seconds("timeout", timeout, positive=True)
        if batch is not None:
            check_count("batch", batch)
        check_secret("secret", secret)
        for header, value in (headers or {}).items():
            check_secret(f"headers: {header}", value)
        self._url = url
        self._secret = secret
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._batch = batch
        self._ca = ca

    def setup(self) -> None:
        """Reads the secrets, and opens the spool.

        :raises ImportError: when httpx is not installed.
        :raises OSError, ValueError: when a secret can't be read.
        :raises SinkError: when another process uses the spool.
        """
        try:
            import httpx  # noqa: F401 - connect() needs it
        except ModuleNotFoundError as error:
            raise ImportError(f"httpx is not installed ({error}): {to_install('webhook')}") from error
        secret = read_secret("secret", self._secret)
        if secret is not None:
            signature(secret, "", 0, b"")  # whether it is one
        self._signed_by = secret
        self._sent_headers = read_headers(self._headers)
        super().setup()

    def connect(self) -> WebhookCourier:
        """Makes a client; it connects with the first request."""
        import ssl

        import httpx

        library = logging.getLogger("httpx")
        if library.level == logging.NOTSET:
            library.setLevel(logging.WARNING)  # it logs each request's URL, and that may be a secret
        verify = True if self._ca is None else ssl.create_default_context(cafile=os.fspath(self._ca))
        headers = {"Accept-Encoding": "identity", **self._sent_headers}
        client = httpx.Client(headers=headers, timeout=self._timeout, verify=verify)
        return WebhookCourier(client, self._url, self._address.place, self._signed_by, self._batch, self._timeout)


class WebhookCourier:
    """A client of the web server.

    :param place: what errors call the server.
    :param batch, timeout: as of `WebhookSink`.
    """

    def __init__(
        self, client: httpx.Client, url: str, place: str, secret: str | None, batch: int | None, timeout: float
    ) -> None:
        self.most = batch or 1
        self._client = client
        self._url = url
        self._place = place
        self._secret = secret
        self._is_list = batch is not None
        self._timeout = timeout

    def deliver(self, letters: Sequence[Letter]) -> None:
        """Posts them, and judges the answer."""
        import httpx

        if self._is_list:
            body = json.dumps([letter.body for letter in letters], allow_nan=False).encode()
            key = hashlib.sha256("\n".join(letter.key for letter in letters).encode()).hexdigest()
        else:
            body = letters[0].to_json()
            key = quote(letters[0].key, safe="")
        try:
            with self._client.stream("POST", self._url, content=body, headers=self._headers_of(key, body)) as answer:
                said = self._beginning(answer)
        except httpx.TransportError as error:
            raise Undelivered(f"{self._place} does not answer: {type(error).__name__}: {error}") from error
        if answer.is_success:
            return
        why = f"{self._place} answers {answer.status_code} {answer.reason_phrase}: {shown(said[:MOST_SHOWN])}"
        if answer.status_code in REFUSALS:
            raise LetterRefused(why)
        if answer.is_redirect:
            why += "; it redirects: give the address that it redirects to"
        elif answer.status_code in (401, 403, 404, 405, 407, 410):
            why += "; check the address and what it takes to be let in"
        raise Undelivered(why, wait=asked_pause(answer.headers.get("Retry-After")))

    def _beginning(self, answer: httpx.Response) -> str:
        """Reads what follows the status, which has decided already: it may be endless, slow, or break off."""
        import httpx

        said, until = b"", time.monotonic() + self._timeout
        with suppress(httpx.TransportError):
            for piece in answer.iter_raw():
                said += piece
                if len(said) > MOST_READ or time.monotonic() > until:
                    break
        return said[:MOST_READ].decode(errors="replace")

    def _headers_of(self, key: str, body: bytes) -> dict[str, str]:
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "webhook-id": key,
            "webhook-timestamp": str(now),
        }
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, key, now, body)
        return headers

    def close(self) -> None:
        """Closes the client's connections."""
        self._client.close()


def asked_pause(text: str | None) -> float | None:
    """Returns the seconds that `Retry-After` asks for: a number, or a date.

    >>> asked_pause("3"), asked_pause("soon"), asked_pause("Fri, 31 Dec 1999 23:59:59 GMT")
    (3.0, None, 0.0)
    """
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
