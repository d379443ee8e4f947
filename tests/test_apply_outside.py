"""A pipe is brought to what its file says from outside: by its name, and over HTTP."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import httpx
import pytest

from applying import Sink, branches, notes, routine, wire, yard
from killing import pipe_id_of
from pipert_shm import APIWrapper, ConfigError, Pipe, PipelineFile, PipeStateError, UnknownTarget, apply_pipeline
from pipert_shm.agents.rollout import Rollout
from pipert_shm.applying.service import apply_text
from pipert_shm.cli.apply import apply_file, is_url
from pipert_shm.cli.commands import main
from pipert_shm.cli.several import _applied_here

pytestmark = pytest.mark.shm

TOKEN = "a token for tests"


def test_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = branches(tmp_path)
    data["pipe"]["name"] = f"yard-{tmp_path.name}"
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        data["routines"]["step"]["parameters"]["level"] = 4
        it.save()
        assert main(["apply", str(it.path), "--dry-run"]) == 0
        line = "~ routine 'step', without a restart: routines.step.parameters.level: 1 -> 4\n"
        assert capsys.readouterr().out == line
        assert notes(tmp_path / "step") == ["setup 1 1"]
        assert main(["apply", str(it.path)]) == 0
        assert capsys.readouterr().out == line
        assert notes(tmp_path / "step") == ["setup 1 1", "level 4"]
        assert main(["apply", str(it.path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["changes"] == []
        (line,) = _applied_here(PipelineFile(it.path), Rollout("yard"), dry_run=True)
        assert f"has no flow in the file any more, and goes on: `pipert-shm ctl {pipe_id_of(it.pipe)} kill` ends it" in line
        assert main(["apply", str(it.path), "--to", data["pipe"]["name"]]) == 0
        assert capsys.readouterr().out == "nothing differs\n"
        data["routines"]["step"]["parameters"]["size"] = 13
        it.save()
        assert main(["apply", str(it.path)]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"pipert-shm: {it.path}:")
        assert "setup failed: RuntimeError: there is no such size; the pipe is as it was before" in told
    with pytest.raises(UnknownTarget, match="`pipert-shm run` with this file starts one"):
        apply_file(it.path, None, dry_run=True, token=None)


def test_the_pipe_of_this_very_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files of one stem, in two folders: each is applied to the pipe that runs from it, from whatever working directory."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    monkeypatch.chdir(one)
    with yard(one, branches(one)) as its, yard(other, branches(other)) as others:
        for it in (its, others):
            assert it.pipe.name != "yard", "else it would be found by that"
        monkeypatch.chdir(tmp_path)
        os.symlink(other, tmp_path / "link")
        others.data["routines"]["step"]["parameters"]["level"] = 4
        others.save()
        assert main(["apply", "link/yard.yaml"]) == 0
        assert notes(one / "step") == ["setup 1 1"]
        assert notes(other / "step") == ["setup 1 1", "level 4"]
        monkeypatch.chdir(other)
        assert main(["apply", "yard.yaml"]) == 0
        assert capsys.readouterr().out.endswith("nothing differs\n")
        assert main(["ls", pipe_id_of(its.pipe), pipe_id_of(others.pipe), "--json"]) == 0
        shown = {pipe["pipe_id"]: pipe["file"] for pipe in json.loads(capsys.readouterr().out)}
        assert {shown.pop(pipe_id_of(it.pipe)) for it in (its, others)} == {str(one / "yard.yaml"), str(other / "yard.yaml")}
        with yard(other, others.data):
            assert main(["apply", "yard.yaml"]) == 1
            told = capsys.readouterr().err
            assert f"2 pipes run from {other / 'yard.yaml'}: name one of them by its id: " in told
            assert told.endswith("; --to NAME|ID says which pipe is meant\n")


def test_a_pipe_of_the_same_name_and_another_file_is_not_taken_for_it(tmp_path: Path) -> None:
    data = branches(tmp_path)
    data["pipe"]["name"] = f"yard-{tmp_path.name}"
    with yard(tmp_path, data) as it:
        copy = tmp_path / "copy.yaml"
        copy.write_bytes(it.path.read_bytes())
        with pytest.raises(PipeStateError, match=f"runs from {it.path}, and does not run from {copy}; --to"):
            apply_file(copy, None, dry_run=True, token=None)
        told = apply_file(copy, data["pipe"]["name"], dry_run=True, token=None)
        assert told["changes"] == []


def test_an_address_is_told_from_a_name() -> None:
    assert all(map(is_url, ("127.0.0.1:8080", "http://yard", "localhost:80")))
    assert not any(map(is_url, ("yard", "yard:north", "8080", ":80")))


# ---- over HTTP -----------------------------------------------------------------------------------


def test_over_http(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it, APIWrapper("127.0.0.1", 0, it.pipe, token=TOKEN).run() as server:
        url = f"127.0.0.1:{server.port}"
        it.moves("step", "sink")
        data["routines"]["step"]["parameters"] |= {"level": 4, "size": 2}
        data["routines"]["more"] = routine(Sink)
        data["flows"]["more"] = {"routines": ["more"]}
        data["wires"].append(wire("numbers", "more"))
        it.save()
        lines = apply_file(it.path, url, dry_run=True, token=TOKEN)["changes"]
        assert [line.split(":")[0] for line in lines] == [
            "+ flow 'more'",
            "~ flow 'step' gets a new process",
            "+ wire numbers -> more",
        ]
        assert notes(tmp_path / "step") == ["setup 1 1"]
        assert apply_file(it.path, url, dry_run=False, token=TOKEN)["changes"] == lines
        assert notes(tmp_path / "step")[-1] == "setup 4 2"
        it.moves("numbers", "more")
        with httpx.Client(base_url=f"http://{url}", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            for body, status, said in (
                (b"", 422, "the file is empty"),
                (b"\xff", 422, "the body is not UTF-8"),
                (it.path.read_bytes().replace(b"size: 2", b"sise: 2"), 422, "takes no 'sise'"),
                (it.path.read_bytes().replace(b"size: 2", b"size: 13"), 409, "the pipe is as it was before"),
                (it.path.read_bytes().replace(b"grace_period: 2.0", b"grace_period: 3.0"), 422, "not while the pipe runs"),
                (bytes(5 << 20), 413, "is not read"),
            ):
                answer = client.put("/pipeline", content=body)
                assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
            it.moves("step", "sink")


def test_a_client_gets_no_other_code_to_run(tmp_path: Path) -> None:
    """Over HTTP a text names only what the pipe's own file names, and what the package offers."""
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        text = it.path.read_text()
        for evil in (
            text.replace("applying.Sink", "subprocess.Popen"),
            text.replace("applying.Sink", "applying.Yard"),
            text.replace("applying.Sink", "pipert_shm.system.calls.cpus_of"),
            text.replace("size: 1", "size: {class: os.system, parameters: {command: 'touch /tmp/evil'}}").replace(
                "level: 1", "level: {class: os.getpid}"
            ),
        ):
            with pytest.raises(ConfigError, match="is not named in the file that the pipe runs"):
                apply_text(it.pipe, evil)
        assert apply_text(it.pipe, text.replace("applying.Sink", "applying.Step"), dry_run=True)


def test_without_a_token_no_client_may(tmp_path: Path) -> None:
    with (
        yard(tmp_path, branches(tmp_path)) as it,
        APIWrapper("127.0.0.1", 0, it.pipe).run() as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        answer = client.put("/pipeline", content=it.path.read_bytes())
        assert (answer.status_code, "this takes a token" in answer.json()["detail"]) == (403, True)


def test_a_pipe_of_no_file_is_refused(tmp_path: Path) -> None:
    with yard(tmp_path, branches(tmp_path)) as it:
        with pytest.raises(PipeStateError, match="was not made from a pipeline's file"):
            apply_pipeline(Pipe(), it.path)
        with pytest.raises(TypeError, match="takes a pipe"):
            apply_pipeline(3, it.path)  # type: ignore[arg-type]


def test_several_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    data = branches(tmp_path)
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        text = it.path.read_text()
        failures: list[BaseException] = []

        def change(level: int) -> None:
            try:
                apply_text(it.pipe, text.replace("level: 1", f"level: {level}"))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=change, args=(level,)) for level in range(20, 26)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert sorted(notes(tmp_path / "step")[1:]) == [f"level {level}" for level in range(20, 26)]
