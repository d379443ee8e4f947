"""Answers those who ask from outside, over HTTP or an attached process, to bring a pipe to what a text says."""

from __future__ import annotations

import json
from typing import Any

from pipert_shm.applying.apply import Applied, apply_pipeline
from pipert_shm.errors import ConfigError, PipertError, PipeStateError
from pipert_shm.pipe import Pipe
from pipert_shm.pipeline_file.loading import PipelineFile

KIND = "apply"  # of the questions that attached processes ask


def apply_text(
    pipe: Pipe,
    text: str,
    *,
    path: str | None = None,
    real_path: str | None = None,
    dry_run: bool = False,
    is_trusted: bool = False,
) -> Applied:
    """Brings a running pipe to what the text of a pipeline's file says.

    :param path: what errors call the text; by default the file that the pipe was made from.
    :param real_path: where that is, for one who asks from another working directory; code is imported from beside it.
    :param is_trusted: whether the text may name any class. Else it may name what the pipe's own file has named when it was
        loaded, and what this package offers: who controls a pipe gets no other code to run by that.
    :raises ConfigError, NotApplied, PipeStateError: as `apply_pipeline` does.
    """
    before = pipe._pipeline_file
    if not isinstance(before, PipelineFile):
        raise PipeStateError("this pipe was not made from a pipeline's file, and can't be changed by one")
    after = PipelineFile(path or before.path, text)
    after.real_path = real_path or before.real_path
    after.allowed = None if is_trusted else before.named
    if not is_trusted:
        _refuse_trust(before, after)
    return apply_pipeline(pipe, after, dry_run=dry_run)


def _refuse_trust(before: PipelineFile, after: PipelineFile) -> None:
    """Checks that no recording is trusted that the pipe's own file does not trust: its pickles may run any code.

    :raises ConfigError: when one is.
    """
    faults = [
        after.fault(("routines", name, "parameters", "trust"), "only the pipe's own file may trust a recording")
        for name, its in after.settings.routines.items()
        if _trusts(its.parameters) and its not in before.settings.routines.values()
    ]
    if faults:
        raise ConfigError(faults)


def _trusts(value: Any) -> bool:
    """Whether it is said anywhere in a parameter's value."""
    if isinstance(value, dict):
        return any((key == "trust" and each) or _trusts(each) for key, each in value.items())
    return isinstance(value, list) and any(map(_trusts, value))


def question(text: str, path: str, real_path: str, *, dry_run: bool) -> bytes:
    """What an attached process asks."""
    return json.dumps({"text": text, "path": path, "real_path": real_path, "dry_run": dry_run}).encode()


def answer(pipe: Pipe, body: bytes) -> bytes:
    """Answers an attached process. It runs as the same user, and could do all else, too: so its text is trusted.

    :raises PipertError: when it can't be applied, or the question makes no sense.
    """
    try:
        asked = json.loads(body)
        text, path, real_path, dry_run = asked["text"], asked["path"], asked["real_path"], asked["dry_run"]
    except (ValueError, KeyError, TypeError) as error:
        raise PipertError(f"this is no question to apply a pipeline: {error!r}") from None
    applied = apply_text(pipe, text, path=path, real_path=real_path, dry_run=bool(dry_run), is_trusted=True)
    return json.dumps(applied.as_json()).encode()
