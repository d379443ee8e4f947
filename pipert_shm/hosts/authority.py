"""The authority of a hub: a folder from which it invites hosts, and lets them in (the extra `hosts`).

It holds `ca.pem` and `ca.key` (the authority), `hub.pem` and `hub.key` (the hub's certificate), `hosts.json` (who is let in)
and `invitations/NAME/` (what the host NAME needs). Files have mode 0600, and take the place of others whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipert_shm.errors import HostsError
from pipert_shm.hosts.access import Admitted, access_control, check_host_name
from pipert_shm.hosts.certificates import from_cryptography, load_certificate, load_key, make_certificate, new_key, pem

AUTHORITY_DAYS = 3650  # also the hub's own certificate
HOST_DAYS = 365
ALWAYS = ("localhost", "127.0.0.1", "::1")  # names that every hub has
HOSTS, INVITATIONS, INVITATION = "hosts.json", "invitations", "host.json"
CA, CERTIFICATE, KEY = "ca.pem", "certificate.pem", "key.pem"  # in an invitation


@dataclass(frozen=True, slots=True)
class Host:
    """A host that was invited.

    Attributes:
        number: of its invitation. After a revocation it takes another one, with the next number.
        is_operator: whether it may ask other hosts to do something.
        expires: day on which its newest certificate ends, as 2027-11-30.
        is_revoked: whether the hub lets it in no more.
    """

    name: str
    number: int
    is_operator: bool
    expires: str
    is_revoked: bool = False

    @property
    def common_name(self) -> str:
        """Of its certificates. Those of before a revocation have another one."""
        return self.name if self.number == 1 else f"{self.name}#{self.number}"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a host needs to connect.

    Attributes:
        name: the host's.
        hub: the hub's address, such as `tls/hub.example:7447`.
        ca, certificate, key: paths of files.
    """

    name: str
    hub: str
    ca: str
    certificate: str
    key: str


def read_invitation(folder: Path) -> Invitation:
    """Reads the folder that `pipert-shm hub invite` made.

    :raises HostsError: when it is none.
    """
    try:
        told = json.loads((folder / INVITATION).read_text())
        name, hub = check_host_name(told["name"]), str(told["hub"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostsError(f"{folder} is no invitation ({error}): `pipert-shm hub invite NAME` makes one") from error
    return Invitation(name, hub, *(str((folder / file).absolute()) for file in (CA, CERTIFICATE, KEY)))


class Authority:
    """The authority in a folder, as it is now.

    :param folder: that `create` made.
    :raises HostsError: when it holds none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            told = json.loads((folder / HOSTS).read_text())
            self.hub = str(told["hub"])
            self._hosts = {host["name"]: Host(**host) for host in told["hosts"]}
        except FileNotFoundError:
            raise HostsError(f"there is no authority in {folder}: `pipert-shm hub init` makes one") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostsError(f"{folder / HOSTS} can't be read, or is damaged: {error}") from error

    @classmethod
    def create(
        cls, folder: Path, names: Sequence[str], port: int, *, days: int = AUTHORITY_DAYS, replace: bool = False
    ) -> Authority:
        """Makes an authority, and the hub's certificate.

        :param names: names and IP addresses by which hosts reach the hub; the first one stands in invitations.
        :param replace: whether to replace an authority that is there. No certificate of that one is good for the new one.
        :raises HostsError: when one is there already.
        :raises ValueError: when a name can't be that of a host.
        :raises ImportError: when `cryptography` is not installed.
        """
        from_cryptography()
        if not replace and ((folder / HOSTS).exists() or (folder / "ca.key").exists()):
            raise HostsError(f"there is an authority in {folder} already; --replace makes another, and ends all invitations")
        ca_key, hub_key = new_key(), new_key()
        ca = make_certificate("pipert_shm hub", ca_key, None, days)
        hub = make_certificate(names[0], hub_key, (ca, ca_key), days, (*names, *ALWAYS))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(folder / INVITATIONS, ignore_errors=True)
        for name, certificate, key in (("ca", ca, ca_key), ("hub", hub, hub_key)):
            _write(folder / f"{name}.pem", pem(certificate))
            _write(folder / f"{name}.key", pem(key))
        first = f"[{names[0]}]" if ":" in names[0] else names[0]
        _write(folder / HOSTS, json.dumps({"hub": f"tls/{first}:{port}", "hosts": []}).encode())
        return cls(folder)

    @property
    def hosts(self) -> list[Host]:
        """All that were invited, by their names."""
        return [self._hosts[name] for name in sorted(self._hosts)]

    @property
    def hosts_file(self) -> Path:
        """The file that each invitation and revocation replaces."""
        return self.folder / HOSTS

    def folder_of(self, host: str) -> Path:
        """Where the invitation of a host goes by default."""
        return self.folder / INVITATIONS / host

    def files(self) -> dict[str, str]:
        """The hub's own certificate: paths of `ca`, `certificate` and `key`."""
        names = {"ca": "ca.pem", "certificate": "hub.pem", "key": "hub.key"}
        return {what: str((self.folder / name).absolute()) for what, name in names.items()}

    def access_control(self) -> dict[str, Any]:
        """The router's rules, for Zenoh's `access_control`."""
        hosts = (host for host in self.hosts if not host.is_revoked)
        return access_control(Admitted(host.name, host.common_name, host.is_operator) for host in hosts)

    def invite(
        self, name: str, *, days: int = HOST_DAYS, is_operator: bool = False, out: Path | None = None, replace: bool = False
    ) -> Path:
        """Makes a certificate for a host. Returns the folder with all that it needs.

        A host that has one gets the next: both are good until they end. After a revocation the earlier ones stay refused.

        :param out: the folder; by default one in that of the authority.
        :param replace: whether to replace what that folder holds.
        :raises HostsError: when the folder holds an invitation.
        :raises ValueError: when a host can't be called so.
        """
        check_host_name(name)
        folder = out or self.folder_of(name)
        if not replace and (folder / INVITATION).exists():
            raise HostsError(f"there is an invitation in {folder} already; --replace makes the next one in its place")
        ca, ca_key = load_certificate("ca", self.folder / "ca.pem"), load_key(self.folder / "ca.key")
        key = new_key()
        with self._changing() as hosts:
            old = hosts.get(name)
            number = 1 if old is None else old.number + old.is_revoked
            expires = min(datetime.now(UTC) + timedelta(days=days), ca.not_valid_after_utc)
            host = hosts[name] = Host(name, number, is_operator, str(expires.date()))
        certificate = make_certificate(host.common_name, key, (ca, ca_key), days)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / CA, pem(ca))
        _write(folder / CERTIFICATE, pem(certificate))
        _write(folder / KEY, pem(key))
        _write(folder / INVITATION, json.dumps({"name": name, "hub": self.hub}).encode())
        return folder

    def revoke(self, name: str) -> None:
        """Lets a host in no more, whatever certificate it has. Its next invitation has another common name.

        :raises HostsError: when nobody of that name was invited.
        """
        with self._changing() as hosts:
            if name not in hosts:
                raise HostsError(f"no host {name!r} was invited; these were: {', '.join(sorted(hosts)) or 'none'}")
            hosts[name] = replace(hosts[name], is_revoked=True)
        shutil.rmtree(self.folder_of(name), ignore_errors=True)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Host]]:
        """The hosts as they are now, which no other process changes meanwhile; they are kept at the end of the block."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._hosts = Authority(self.folder)._hosts
            yield self._hosts
            _write(
                self.folder / HOSTS,
                json.dumps({"hub": self.hub, "hosts": [asdict(one) for one in self.hosts]}, indent=1).encode(),
            )
        finally:
            os.close(folder)


def _write(path: Path, data: bytes) -> None:
    """Replaces a file by one of mode 0600. Who reads it sees the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
