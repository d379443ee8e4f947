"""The command that an error message names where an extra is missing: right for how the package was installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipert_shm import extras

CLONE = {"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}}
WHEEL = {"url": "file:///tmp/pipert_shm-1-cp311-abi3-linux_x86_64.whl", "archive_info": {}}
GIT = {"url": "https://host/pipert_shm", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}


@pytest.mark.parametrize(
    ("noted", "command"),
    [
        (None, "pip install 'pipert_shm[onnx,rpc]'"),
        (CLONE, "pip install -e '/home/me/my clone[onnx,rpc]'"),
        (CLONE | {"dir_info": {}}, "pip install '/home/me/my clone[onnx,rpc]'"),
        (WHEEL, f"pip install 'pipert_shm[onnx,rpc] @ {WHEEL['url']}'"),
        (GIT, "pip install 'pipert_shm[onnx,rpc] @ git+https://host/pipert_shm@c0ffee'"),
    ],
    ids=["from an index", "a clone, editable", "a clone", "a wheel", "a repository"],
)
def test_the_command_fits_the_installation(
    noted: object, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "pipert_shm-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: pipert_shm\nVersion: 1\n")
    if noted:
        (installed / "direct_url.json").write_text(json.dumps(noted))
    (tmp_path / "pipert_shm.egg-info").mkdir()
    (tmp_path / "pipert_shm.egg-info" / "PKG-INFO").write_text("Name: pipert_shm\nVersion: 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert extras.to_install("onnx", "rpc") == command
