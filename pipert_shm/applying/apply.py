"""Brings a running pipe to what a pipeline's file says: all of it, or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pipert_shm.applying.change import Change
from pipert_shm.applying.difference import Difference
from pipert_shm.applying.work import Planner
from pipert_shm.errors import PipeStateError
from pipert_shm.limits import check_flag, check_seconds
from pipert_shm.pipe import Pipe, check_pipe
from pipert_shm.pipeline_file.loading import PipelineFile

PATIENCE = 60.0  # seconds that the setup() of new routines may take


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply_pipeline` has done, or would do. `print()` shows it, a line for each change; it is false if there is none.

    Attributes:
        difference: the changes.
        dry_run: whether they were only looked at.
    """

    difference: Difference
    dry_run: bool = False

    def __bool__(self) -> bool:
        return bool(self.difference)

    def __str__(self) -> str:
        return str(self.difference)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"dry_run": self.dry_run, "changes": self.difference.lines(), **self.difference.as_json()}


def apply_pipeline(
    pipe: Pipe,
    file: PipelineFile | str | os.PathLike[str],
    *,
    dry_run: bool = False,
    patience: float = PATIENCE,
) -> Applied:
    """Brings a running pipe to what a pipeline's file says: what differs is changed, and all the rest goes on.

    :param pipe: one that `PipelineFile.make_pipe()` made, and that is built.
    :param file: the file, or its path.
    :param dry_run: only look what differs.
    :param patience: seconds that `setup()` of the new routines may take, besides a second for each flow that is started.
    :raises ConfigError: when the file has faults, or asks for what can't be changed while the pipe runs, which a dry run just
        tells. Nothing was touched.
    :raises NotApplied: when a step fails: a `setup()` raises or takes too long, a flow dies, a wire can't be linked, there is
        too little memory. What was done is put back then.
    :raises PipeStateError: when the pipe was not made from a file, is not built, or has ended.
    """
    check_pipe("apply_pipeline(pipe, …)", pipe)
    check_flag("dry_run", dry_run)
    check_seconds("patience", patience, positive=True)
    after = file if isinstance(file, PipelineFile) else PipelineFile(file)
    with pipe._building:
        before = pipe._pipeline_file
        if not isinstance(before, PipelineFile):
            raise PipeStateError("this pipe was not made from a pipeline's file, and can't be changed by one: see PipelineFile")
        session = pipe._built()
        pipe._require_alive("apply_pipeline")
        session.require_no_handler("apply_pipeline()")
        work = Planner(pipe, session.plan, before, after).plan(refuse=not dry_run)
        if work.difference and not dry_run:
            Change(pipe, session, work, patience).make()
        if not dry_run:
            after.named |= before.named
            after.arguments = {**before.arguments, **after.arguments}
            pipe._pipeline_file = after
    return Applied(work.difference, dry_run)


def await_setup(pipe: Pipe, patience: float = PATIENCE) -> str:
    """Waits until `setup()` of all routines of a pipe that was just started has returned. Returns the pipe's id.

    :param patience: seconds that it may take, besides a second for each flow.
    :raises RoutineError: when it has raised.
    :raises FlowDied: when a flow died before.
    :raises PipeStateError: when the pipe is not built or has ended, or it takes too long.
    """
    session = pipe._built()
    session.changes.await_runs(tuple(session.plan.flows), patience)
    return session.segment.pipe_id
