"""The room for what is added to a running pipe: memory is taken when it is used, and reading takes none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audit import take_snapshot
from conftest import RunScript
from growing import camera_pipe, moves
from killing import pipe_id_of, running
from pipert_shm import START_EVENT_NAME, Pipe, Wire, WiresValidation
from pipert_shm.launcher.footprint import control_bytes
from pipert_shm.shm.listing import Control, list_pipe
from pipert_shm.statistics import read_statistics
from routines import Forward, Frames, Sink

MANY = 60  # routines, which is more than there was room for once


def memory_of(pipe: Pipe) -> int:
    """Bytes of memory that the pipe's control segment has."""
    return os.stat(f"/dev/shm/pipert-{pipe_id_of(pipe)}-c").st_blocks * 512


def test_a_pipe_takes_memory_for_what_it_has_and_to_read_takes_none() -> None:
    with camera_pipe() as (pipe, _):
        moves(pipe, "camera", "preview")
        assert pipe._session is not None
        taken = memory_of(pipe)
        assert taken == control_bytes(pipe._session.plan, pipe.name) < 250_000
        assert os.stat(f"/dev/shm/pipert-{pipe_id_of(pipe)}-c").st_size > 10 * taken
        pipe.statistics()
        assert list_pipe(pipe_id_of(pipe)) is not None
        take_snapshot(pipe_id_of(pipe))
        with Control(pipe_id_of(pipe), stale=False) as control:
            seen = read_statistics(control.process, control.flows, control.routines)
        assert set(seen.wires) == {("camera", "preview")}
        assert memory_of(pipe) == taken
        pipe.join(to_kill=True)


def test_many_routines_are_added_and_their_memory_is_used_again() -> None:
    with camera_pipe() as (pipe, camera):
        sizes = []
        for turn in range(3):
            members = [Frames("many", None), *(Forward(f"{number}") for number in range(MANY))]
            pipe.create_flow("many", True, *members)
            pipe.create_flow("beside", False, beside := Sink("beside"))
            pipe.link(Wire(camera, beside), Wire(members[-1], beside))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            moves(pipe, members[-1].name, "beside", 3)
            sizes.append(memory_of(pipe))
            if turn == 0:
                assert len(pipe.statistics().routines) == MANY + 4
            pipe.remove_flow("many", "beside")
        assert sizes[0] == sizes[1] == sizes[2]
        pipe.join(to_kill=True)


def test_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused until something is removed."""
    monkeypatch.setattr("pipert_shm.launcher.footprint.NEWCOMERS", 2)
    with camera_pipe() as (pipe, camera):
        for name in ("one", "two", "three"):
            pipe.create_flow(name, False, sink := Sink(name))
            pipe.link(Wire(camera, sink))
            if name == "three":
                with pytest.raises(WiresValidation, match="room for 4; 1 more are too many"):
                    pipe.build()
                pipe.remove_flow("one")
                pipe.create_flow(name, False, sink)
                pipe.link(Wire(camera, sink))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            moves(pipe, "camera", name, 3)
        assert sorted(pipe.statistics().routines) == ["camera", "preview", "three", "two"]
        pipe.join(to_kill=True)


def test_long_queues_leave_room_for_fewer_wires() -> None:
    """Else their address space, which is taken at once, would be many gigabytes."""
    pipe = Pipe(policy="block", capacity=65_536)
    pipe.create_flow("both", True, Frames("camera", 100), Sink("screen"))
    with running(pipe):
        assert os.stat(f"/dev/shm/pipert-{pipe_id_of(pipe)}-c").st_size < 200 << 20
        pipe.join()
    assert pipe.statistics().wires["camera", "screen"].received == 100


def test_a_build_for_which_there_is_no_memory(run_script: RunScript, tmp_path: Path) -> None:
    """/dev/shm is full: it says so, nothing has changed, and it works when there is room again."""
    script = run_script(
        """
        import os
        from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SharedMemoryFull, SourceRoutine, Wire

        class Camera(SourceRoutine):
            def main_logic(self):
                return b"x" * 10000

        class Screen(DestinationRoutine):
            def main_logic(self, data):
                pass

        FILLER = "/dev/shm/filler"

        def fill():
            with open(FILLER, "wb", buffering=0) as file:
                for size in (1 << 16, 4096):
                    try:
                        while True:
                            file.write(bytes(size))
                    except OSError:
                        pass

        camera = Camera("camera")
        with Pipe(policy="block") as pipe:
            pipe.create_flow("camera", False, camera)
            pipe.create_flow("screen", False, screen := Screen("screen"))
            pipe.link(Wire(camera, screen))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            while not pipe.statistics().wires["camera", "screen"].received:
                pass
            for attempt in range(2):
                late = [Screen(f"late {number}") for number in range(30)]
                pipe.create_flow("late", False, *late)
                pipe.link(Wire(camera, late))
                if not attempt:
                    fill()
                try:
                    pipe.build()
                except SharedMemoryFull as error:
                    print(error.name)
                os.path.exists(FILLER) and os.unlink(FILLER)
            pipe.notify_event(START_EVENT_NAME)
            while not pipe.statistics().wires["camera", "late 29"].received:
                pass
            print(len(pipe.statistics().routines), len(pipe.statistics().wires))
            pipe.join(to_kill=True)
        """,
        ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"', "sh"),
    )
    assert script.returncode == 0, script.stderr
    assert script.lines[0].startswith("the pipe's control segment, for")
    assert script.lines[-1] == "32 31"
