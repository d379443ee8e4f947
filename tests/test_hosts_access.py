"""Certificates and what they allow: an authority's folder, real TLS on the loopback interface, and who gets nothing."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import PACKAGE_ROOT
from hosts_ends import COUNT, OPEN, WRONG, receiving, sending
from pipert_shm import HostsError
from pipert_shm.cli import main
from pipert_shm.hosts import Hub, RemoteReceiver, RemoteSender
from pipert_shm.hosts.access import Admitted, access_control, check_host_name
from pipert_shm.hosts.authority import Authority, read_invitation
from pipert_shm.hosts.certificates import identity_of, load_certificate, load_key, make_certificate, new_key, pem
from streams import free_port
from waiting import Board, eventually

NAME = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "hub", [NAME], 7447)


# ---- the folder ----------------------------------------------------------------------------------


def test_all_that_it_writes_is_for_its_user_only(authority: Authority) -> None:
    authority.invite("edge-1")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in authority.folder.rglob("*")}
    assert len(modes) == 11
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_an_invitation_has_all_that_a_host_needs(authority: Authority) -> None:
    invitation = read_invitation(authority.invite("edge-1", days=10))
    assert (invitation.name, invitation.hub) == ("edge-1", f"tls/{NAME}:7447")
    identity = identity_of(invitation.ca, invitation.certificate, invitation.key)
    assert identity.host == "edge-1"
    assert timedelta(days=9) < identity.expires - datetime.now(UTC) < timedelta(days=11)


def test_openssl_finds_nothing_wrong_with_the_certificates(authority: Authority) -> None:
    ca, hub, edge = authority.folder / "ca.pem", authority.folder / "hub.pem", authority.invite("edge-1") / "certificate.pem"
    for purpose, path, fits in (
        ("sslserver", hub, True),
        ("sslclient", hub, True),
        ("sslclient", edge, True),
        ("sslserver", edge, False),
    ):
        end = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, path], capture_output=True
        )
        assert (end.returncode == 0) is fits, (purpose, path, end.stdout, end.stderr)


def test_nothing_is_overwritten_without_being_told(authority: Authority) -> None:
    folder = authority.invite("edge-1")
    before = {path: path.read_bytes() for path in authority.folder.rglob("*.*") if path.is_file()}
    with pytest.raises(HostsError, match="--replace makes another"):
        Authority.create(authority.folder, [NAME], 7447)
    with pytest.raises(HostsError, match="--replace makes the next"):
        authority.invite("edge-1")
    assert {path: path.read_bytes() for path in before} == before
    authority.invite("edge-1", replace=True)
    assert (folder / "key.pem").read_bytes() != before[folder / "key.pem"]
    Authority.create(authority.folder, [NAME], 7447, replace=True)
    assert Authority(authority.folder).hosts == []
    assert not folder.exists()


def test_a_host_that_was_revoked_is_let_in_with_its_next_invitation_only(authority: Authority) -> None:
    authority.invite("edge-1")
    authority.revoke("edge-1")
    assert authority.access_control()["subjects"] == []
    again = read_invitation(authority.invite("edge-1"))
    assert identity_of(again.ca, again.certificate, again.key).host == "edge-1"
    assert Authority(authority.folder).access_control()["subjects"] == [{"id": "edge-1", "cert_common_names": ["edge-1#2"]}]
    with pytest.raises(HostsError, match="no host 'edge-2' was invited; these were: edge-1"):
        authority.revoke("edge-2")


@pytest.mark.parametrize("name", ["", "all", "-", "a/b", "*", "a#2", "..", "x" * 64, "é"])
def test_a_name_that_would_be_something_else_in_a_key_is_refused(name: str, authority: Authority) -> None:
    with pytest.raises(ValueError, match="a host can't be called"):
        check_host_name(name)
    with pytest.raises(ValueError, match="a host can't be called"):
        authority.invite(name)


def test_what_is_no_authority_or_no_invitation_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match="`pipert-shm hub init` makes one"):
        Authority(tmp_path)
    (tmp_path / "hosts.json").write_text("{")
    with pytest.raises(HostsError, match="damaged"):
        Authority(tmp_path)
    with pytest.raises(HostsError, match="`pipert-shm hub invite NAME` makes one"):
        read_invitation(tmp_path)


# ---- a host's own files --------------------------------------------------------------------------


def ended(authority: Authority, folder: Path) -> None:
    """Puts a certificate into the folder that ended yesterday."""
    issuer = load_certificate("ca", authority.folder / "ca.pem"), load_key(authority.folder / "ca.key")
    (folder / "certificate.pem").write_bytes(pem(make_certificate("edge-1", load_key(folder / "key.pem"), issuer, -1)))


def other_key(authority: Authority, folder: Path) -> None:
    (folder / "key.pem").write_bytes(pem(new_key()))


def other_authority(authority: Authority, folder: Path) -> None:
    (folder / "ca.pem").write_bytes((Authority.create(folder / "other", [NAME], 1).folder / "ca.pem").read_bytes())


def no_key(authority: Authority, folder: Path) -> None:
    (folder / "key.pem").unlink()


def no_certificate(authority: Authority, folder: Path) -> None:
    (folder / "certificate.pem").write_text("junk")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (ended, r"ended on \d{4}-\d\d-\d\d: `pipert-shm hub invite edge-1` makes a new one"),
        (other_key, "is not that of the certificate"),
        (other_authority, "is of another authority than"),
        (no_key, "key: .* can't be read"),
        (no_certificate, "certificate: .* is no PEM file of that kind"),
    ],
)
def test_a_host_says_what_is_wrong_with_its_files(
    spoil: Callable[[Authority, Path], None], text: str, authority: Authority
) -> None:
    folder = authority.invite("edge-1")
    spoil(authority, folder)
    invitation = read_invitation(folder)
    hub = Hub(connect=invitation.hub, ca=invitation.ca, certificate=invitation.certificate, key=invitation.key)
    with pytest.raises(HostsError, match=text):
        hub.identify()


def test_a_host_does_not_take_another_ones_name(authority: Authority) -> None:
    invitation = read_invitation(authority.invite("edge-2"))
    files = {"ca": invitation.ca, "certificate": invitation.certificate, "key": invitation.key}
    with pytest.raises(HostsError, match="is that of the host 'edge-2', not of 'edge-1'"):
        Hub(connect=invitation.hub, host="edge-1", peer="gpu", **files).identify()
    assert Hub(connect=invitation.hub, peer="gpu", **files).identify() is not None


def test_without_certificates_an_end_says_who_it_is() -> None:
    with pytest.raises(ValueError, match="give host=, too"):
        Hub(connect="tcp/a:1", peer="gpu")
    assert Hub(connect="tcp/a:1", host="edge-1", peer="gpu").ends(None) == ("edge-1", "gpu")
    assert Hub(connect="tcp/a:1").ends(None) == ("-", "-")


# ---- a hub ---------------------------------------------------------------------------------------


def test_who_is_not_let_in_says_hears_and_answers_nothing(authority: Authority, tmp_path: Path) -> None:
    for name in ("edge-1", "gpu", "bad", "ended"):
        authority.invite(name, out=tmp_path / name)
    authority.invite("laptop", out=tmp_path / "laptop", is_operator=True)
    Authority.create(tmp_path / "another", [NAME], 7447).invite("edge-1", out=tmp_path / "of another authority")
    ended(authority, tmp_path / "ended")
    own = new_key()
    (tmp_path / "of no authority").mkdir()
    (tmp_path / "of no authority" / "certificate.pem").write_bytes(pem(make_certificate("edge-1", own, None, 1)))
    (tmp_path / "of no authority" / "key.pem").write_bytes(pem(own))
    command = [sys.executable, str(PACKAGE_ROOT / "tests" / "hosts_strangers.py"), str(tmp_path), str(free_port())]
    end = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert end.returncode == 0, end.stderr
    got: dict[str, Any] = json.loads(end.stdout)
    refused = {name: got.pop(f"refused {name}") for name in ("None", "of another authority", "ended", "of no authority")}
    assert refused == {
        "None": "it asks for a certificate",
        "of another authority": "it does not trust the authority of this host's certificate",
        "ended": "this host's certificate has ended",
        "of no authority": "it does not accept this host's certificate",
    }
    assert got == {
        "gpu hears": [
            "pipert/bad/all/alive/1",
            "pipert/bad/gpu/wire/other/sender",
            "pipert/edge-1/all/alive/1",
            "pipert/edge-1/gpu/wire/gate/sender",
            "pipert/edge-1/gpu/wire/gate/sender/alive/1",
        ],
        "bad hears": ["pipert/bad/all/alive/1", "pipert/edge-1/all/alive/1", "pipert/edge-1/bad/wire/gate/sender"],
        "an operator asks edge-1": ["edge-1"],
        "an operator asks bad": ["bad"],
        "a host asks": [],
        "a host asks as an operator": [],
        "an operator asks as another": [],
        "after a revocation": ["pipert/edge-1/gpu/after", "pipert/edge-1/gpu/before"],
    }


def named(ca: str, certificate: str, key: str) -> dict[str, Any]:
    return {"ca": ca, "certificate": certificate, "key_file": key}


def test_a_wire_goes_through_between_two_hosts_by_certificate(authority: Authority) -> None:
    """They connect to each other; the one that listens lets in the other one only, by the name in its certificate."""
    port, board, other = free_port(), Board(), Board()
    board[OPEN] = other[OPEN] = 1
    hub = authority.files()
    ends = {name: read_invitation(authority.invite(name)) for name in ("edge-1", "bad")}
    address = f"tls/{NAME}:{port}"
    files = hub["ca"], hub["certificate"], hub["key"]
    receiver = RemoteReceiver("gate", "receiver", listen=address, peer="edge-1", **named(*files))

    def sender(end: str) -> RemoteSender:
        files = named(ends[end].ca, ends[end].certificate, ends[end].key)
        return RemoteSender("gate", "sender", connect=address, peer=NAME, **files)

    with receiving(board, receiver) as here, sending(other, sender("bad"), fps=50) as there:
        eventually(lambda: there.statistics().routines["sender"].counters["dropped"] > 10, "frames that nobody takes")
        with sending(board, sender("edge-1"), fps=50):
            board.wait(COUNT, 10)
        assert here.statistics().routines["receiver"].errors == 0
        assert there.statistics().routines["sender"].counters["sent"] == 0
    assert board[WRONG] == 0


def test_the_rules_name_each_host_and_no_other() -> None:
    rules = access_control([Admitted("edge-1", "edge-1"), Admitted("laptop", "laptop#2", is_operator=True)])
    assert [policy["subjects"] for policy in rules["policies"]] == [["edge-1"], ["laptop"]]
    asking = [rule for rule in rules["rules"] if "query" in rule["messages"] and rule["flows"] == ["ingress"]]
    assert [rule["key_exprs"] for rule in asking] == [["pipert/laptop/*/ask/**"]]


# ---- the command line ----------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str, status: int = 0) -> str:
        assert main(arguments) == status
        streams = capsys.readouterr()
        return streams.out + streams.err

    monkeypatch.chdir(tmp_path)
    assert "an authority for the hub tls/hub.example:7447" in said("hub", "init", "--name", "hub.example")
    assert "--replace makes another" in said("hub", "init", status=1)
    assert "pipert-hub/invitations/edge-1: the invitation of edge-1" in said("hub", "invite", "edge-1")
    said("hub", "invite", "laptop", "--operator", "-o", "there")
    assert read_invitation(tmp_path / "there").hub == "tls/hub.example:7447"
    assert said("hub", "revoke", "edge-1") == "edge-1 may do nothing any more\n"
    listed = json.loads(said("hub", "invited", "--json"))
    told = [(host["name"], host["is_operator"], host["is_revoked"]) for host in listed]
    assert told == [("edge-1", False, True), ("laptop", True, False)]
    assert "revoked" in said("hub", "invited")
    assert "a host can't be called 'a/b'" in " ".join(said("hub", "invite", "a/b", status=2).split())
