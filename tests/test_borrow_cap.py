"""A routine that keeps its frames starves nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import DestinationRoutine, Pipe, Wire
from placing import run
from routines import Frames, Record, one_value, received


class Hoarder(DestinationRoutine):
    """Keeps everything, and looks through it at the end."""

    def setup(self) -> None:
        self.hoard: list[tuple[int, np.ndarray]] = []

    def main_logic(self, data: np.ndarray) -> None:
        self.hoard.append((self.meta.sequence, data))

    def cleanup(self) -> None:
        assert [one_value(frame) for _, frame in self.hoard] == [number % 251 for number, _ in self.hoard]
        self._logger.info("%d frames are as they were", len(self.hoard))


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_a_hoarder_starves_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: Any) -> None:
    caplog.set_level("INFO")
    pipe = Pipe(policy="block")
    source = Frames("source", 300, (60, 60, 3), loan=True)
    hoarder, record = Hoarder("hoarder"), Record("record", tmp_path / "r", one_value)
    for routine in (source, hoarder, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, hoarder, policy=policy), Wire(source, record))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [n % 251 for n in range(300)]
    wires = pipe.statistics().wires
    assert wires["source", "record"].private_bytes == 0
    hoarded = wires["source", "hoarder"]
    assert hoarded.sent == 300 == hoarded.received + hoarded.lost
    assert hoarded.dropped["no_slot"] == 0
    if policy == "block":
        assert hoarded.received == 300
    assert hoarded.received < 4 or hoarded.private_bytes > 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "'source'" in warnings[0]
    assert f"{hoarded.received} frames are as they were" in caplog.messages
