"""Certificates: made for an authority, its hub and its hosts, and read. Keys are elliptic (P-256). It needs `cryptography`."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipert_shm.errors import HostsError
from pipert_shm.extras import to_install

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

SKEW = timedelta(hours=1)  # by which hosts' wall clocks may differ
SOON = timedelta(days=30)  # before its end a certificate is warned of
_OTHER_USES = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")

T = TypeVar("T")


# ---- read ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose certificate it is, and until when it is good.

    Attributes:
        host: the host's name: the common name, without the number that it has after a revocation.
    """

    host: str
    expires: datetime


def identity_of(ca: str, certificate: str, key: str) -> Identity:
    """Reads three files, and checks that they fit together today.

    :raises ImportError: when `cryptography` is not installed.
    :raises HostsError: when a file can't be read, or they don't fit.
    """
    from_cryptography()
    from cryptography.exceptions import InvalidSignature

    authority, own, private = load_certificate("ca", ca), load_certificate("certificate", certificate), load_key(key)
    if private.public_key() != own.public_key():
        raise HostsError(f"the key {key!r} is not that of the certificate {certificate!r}")
    try:
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise HostsError(f"the certificate {certificate!r} is of another authority than {ca!r}") from None
    host = _common_name(own).partition("#")[0]
    now = datetime.now(UTC)
    if now > own.not_valid_after_utc:
        ended = own.not_valid_after_utc.date()
        raise HostsError(f"the certificate {certificate!r} ended on {ended}: `pipert-shm hub invite {host}` makes a new one")
    if now < own.not_valid_before_utc:
        raise HostsError(
            f"the certificate {certificate!r} is good from {own.not_valid_before_utc} on: look at this host's clock"
        )
    return Identity(host, own.not_valid_after_utc)


def warn_of_end(identity: Identity | None, logger: logging.Logger) -> None:
    """Logs a warning when a certificate ends soon."""
    if identity is not None and identity.expires - datetime.now(UTC) < SOON:
        logger.warning(
            "the certificate of %s ends on %s: `pipert-shm hub invite %s --replace` makes the next one",
            *(identity.host, identity.expires.date(), identity.host),
        )


def load_certificate(what: str, path: str | Path) -> Certificate:
    """:raises HostsError: when the file can't be read, or holds no certificate."""
    certificate: Certificate = _loaded(what, path, from_cryptography().load_pem_x509_certificate)
    return certificate


def load_key(path: str | Path) -> EllipticCurvePrivateKey:
    """:raises HostsError: when the file can't be read, or holds no key."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: EllipticCurvePrivateKey = _loaded("key", path, lambda data: load_pem_private_key(data, None))
    return key


def _loaded(what: str, path: str | Path, load: Callable[[bytes], Any]) -> Any:
    name = os.fspath(path)
    try:
        return load(Path(path).read_bytes())
    except OSError as error:
        raise HostsError(f"{what}: {name!r} can't be read: check that it is there, and that this user may") from error
    except (ValueError, TypeError) as error:
        raise HostsError(f"{what}: {name!r} is no PEM file of that kind: {error}") from error


def _common_name(certificate: Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(from_cryptography().NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def from_cryptography() -> Any:
    """Its module `x509`.

    :raises ImportError: when `cryptography` is not installed.
    """
    try:
        from cryptography import x509
    except ModuleNotFoundError as error:
        raise ImportError(f"certificates need cryptography ({error}): {to_install('hosts')}") from error
    return x509


# ---- made ----------------------------------------------------------------------------------------


def new_key() -> EllipticCurvePrivateKey:
    """A key that nobody has."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def make_certificate(
    common_name: str,
    key: EllipticCurvePrivateKey,
    issuer: tuple[Certificate, EllipticCurvePrivateKey] | None,
    days: float,
    names: Sequence[str] = (),
) -> Certificate:
    """Makes a certificate: of an authority if nobody issues it, of a hub if it has names, else of a host.

    A hub serves and connects. A host only connects: with its certificate nobody can pass for a hub.

    :param issuer: certificate and key of the authority.
    :param days: that it is good for, and no longer than that of its issuer; from an hour ago on, as clocks differ.
    :param names: DNS names and IP addresses by which others connect to it.
    """
    x509 = from_cryptography()
    from cryptography.hazmat.primitives import hashes

    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    last = now + timedelta(days=days)
    last = last if issuer is None else min(last, issuer[0].not_valid_after_utc)
    signer = key if issuer is None else issuer[1]
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=subject if issuer is None else issuer[0].subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=min(now, last) - SKEW,
        not_valid_after=last,
    )
    for extension, is_critical in _extensions(x509, names, is_authority=issuer is None):
        builder = builder.add_extension(extension, is_critical)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    made: Certificate = builder.sign(signer, hashes.SHA256())
    return made


def _extensions(x509: Any, names: Sequence[str], is_authority: bool) -> Iterator[tuple[Any, bool]]:
    yield x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), True
    others = dict.fromkeys(_OTHER_USES, False)
    yield x509.KeyUsage(digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **others), True
    if not is_authority:
        purposes = [x509.ExtendedKeyUsageOID.CLIENT_AUTH, *([x509.ExtendedKeyUsageOID.SERVER_AUTH] if names else [])]
        yield x509.ExtendedKeyUsage(purposes), False
    if names:
        yield x509.SubjectAlternativeName([_general_name(x509, name) for name in dict.fromkeys(names)]), False


def _general_name(x509: Any, name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def pem(made: Certificate | EllipticCurvePrivateKey) -> bytes:
    """A certificate or a key as the text of a file. The key is not encrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509 import Certificate

    if isinstance(made, Certificate):
        return made.public_bytes(Encoding.PEM)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
