"""A /dev/shm that is too small, full, or read-only, at any time: an error that says what to do, nothing lost, nothing left."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from conftest import Finished, RunScript

PRIVATE_MOUNTS = ("unshare", "-m") if os.getuid() == 0 else ("unshare", "-rm")

_TRIED = subprocess.run([*PRIVATE_MOUNTS, "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True, check=False)

pytestmark = pytest.mark.skipif(
    _TRIED.returncode != 0,
    reason="no private mounts for us here: neither root nor user namespaces",
)


def mounted(options: str) -> tuple[str, ...]:
    """A command prefix that gives what it runs a /dev/shm of its own."""
    return (*PRIVATE_MOUNTS, "sh", "-c", f'mount -t tmpfs -o {options} none /dev/shm && exec "$@"', "sh")


def small(megabytes: int) -> tuple[str, ...]:
    """The same, of that size."""
    return mounted(f"size={megabytes}m,mode=1777")


FRAMES = """
import logging, os, sys
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, PipeFailed, SharedMemoryFull, SourceRoutine, Wire

logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
SHAPE = (1080, 1920, 3)

class Camera(SourceRoutine):
    count = 0
    def main_logic(self):
        self.count += 1
        if self.count > 20:
            raise EndOfStream
        return {make}
    def cleanup(self):
        print("cleaned up")

class Show(DestinationRoutine):
    def main_logic(self, data):
        assert data.min() == data.max()

pipe = Pipe(policy="block")
camera, show = Camera("camera"), Show("show")
pipe.create_flow("a", False, camera)
pipe.create_flow("b", False, show)
pipe.link(Wire(camera, show))

def told(error):
    assert 0 < error.free < error.needed, (error.free, error.needed)
    for word in (f"{{error.needed:,}} bytes", f"{{error.free:,}} are free", "/dev/shm", "--shm-size=", "'camera'"):
        assert word in str(error), (word, str(error))

def end():
    assert not os.listdir("/dev/shm"), os.listdir("/dev/shm")
    print("nothing is left")
"""


def told(script: Finished) -> list[str]:
    assert script.returncode == 0, (script.returncode, script.stderr, script.stdout)
    assert script.stderr == ""
    assert script.lines[-1] == "nothing is left"
    return script.lines


def test_declared_frames_that_do_not_fit_are_told_by_build(run_script: RunScript) -> None:
    script = run_script(
        FRAMES.format(make="self.loan(SHAPE)")
        + """
camera.declare_output(SHAPE)
try:
    pipe.build()
except SharedMemoryFull as error:
    told(error)
    print(error)
end()
""",
        small(4),
    )
    (message, _) = told(script)
    assert re.search(r"--shm-size=\d+m", message)


@pytest.mark.parametrize("make", ["self.loan(SHAPE)", "np.zeros(SHAPE, np.uint8)"])
def test_undeclared_frames_that_do_not_fit_are_told_by_join_and_the_log(run_script: RunScript, make: str) -> None:
    script = run_script(
        FRAMES.format(make=make)
        + """
pipe.build()
pipe.notify_event("start")
try:
    pipe.join()
except PipeFailed as error:
    print("join:", error)
end()
""",
        small(4),
    )
    lines = told(script)
    logged, joined = (next(line for line in lines if line.startswith(start)) for start in ("Pipe.a.camera ERROR", "join:"))
    for line in (logged, joined):
        for words in ("'camera'", "bytes of shared memory", "are free", "--shm-size="):
            assert words in line, line
    assert "cleaned up" in lines


def test_frames_for_which_there_is_room_for_a_few_slots_only(run_script: RunScript) -> None:
    script = run_script(
        FRAMES.format(make="np.full(SHAPE, self.count, np.uint8)")
        + """
pipe.build()
pipe.notify_event("start")
pipe.join()
wire = pipe.statistics().wires["camera", "show"]
print(wire.received, wire.lost)
end()
""",
        small(44),  # half of it is the budget: three of the twelve slots that the ring would like to have
    )
    assert "20 0" in told(script)


def test_a_shm_that_others_have_filled(run_script: RunScript) -> None:
    """The budget would allow it, but when it comes to it there is no memory: an error, and never a SIGBUS."""
    script = run_script(
        FRAMES.format(make="np.full(SHAPE, self.count, np.uint8)")
        + """
pipe._memory_budget = 1 << 30
pipe.build()
with open("/dev/shm/somebody-else-s", "wb") as file:
    os.posix_fallocate(file.fileno(), 0, os.statvfs("/dev/shm").f_bavail * 4096 - 3_000_000)
pipe.notify_event("start")
try:
    pipe.join()
except PipeFailed as error:
    assert error.exit_codes == {}, error.exit_codes
    assert "--shm-size=" in str(error), error
    print("told")
os.unlink("/dev/shm/somebody-else-s")
end()
""",
        small(100),
    )
    assert "told" in told(script)


@pytest.mark.parametrize("kilobytes", [16, 64, 128])
def test_a_shm_that_is_too_small_for_anything(run_script: RunScript, kilobytes: int) -> None:
    script = run_script(
        FRAMES.format(make="np.zeros(SHAPE, np.uint8)")
        + """
try:
    pipe.build()
    pipe.notify_event("start")
    pipe.join()
except (SharedMemoryFull, PipeFailed) as error:
    assert "--shm-size=" in str(error), error
    print("told")
end()
""",
        mounted(f"size={kilobytes}k"),
    )
    assert "told" in told(script)


def test_a_shm_that_can_t_be_written_to(run_script: RunScript) -> None:
    script = run_script(
        FRAMES.format(make="np.zeros(SHAPE, np.uint8)")
        + """
try:
    pipe.build()
except OSError as error:
    assert "/dev/shm" in str(error), error
    print("told")
end()
""",
        mounted("size=4m,ro"),
    )
    assert "told" in told(script)


def test_a_shm_that_becomes_read_only_with_a_stale_pipe_in_it(run_script: RunScript) -> None:
    """It can't be swept, which is not what a start fails of; `ls` shows it, `clean` says in one line that it can't."""
    script = run_script(
        FRAMES.format(make="np.zeros(SHAPE, np.uint8)")
        + """
import subprocess
from pipert_shm import binding
from pipert_shm.shm.segments import ControlSegment

child = os.fork()
if child == 0:
    ControlSegment.create(binding.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
    os._exit(0)
os.waitpid(child, 0)
(name,) = os.listdir("/dev/shm")
subprocess.run(["mount", "-o", "remount,ro", "/dev/shm"], check=True)
try:
    pipe.build()
except OSError as error:
    assert "can't create" in str(error) and "/dev/shm" in str(error) and "Read-only" in str(error), error
    print("told")
def cli(word):
    return subprocess.run([sys.executable, "-m", "pipert_shm.cli", word], capture_output=True, text=True)
ls, clean = cli("ls"), cli("clean")
assert (ls.returncode, ls.stderr) == (0, ""), ls
assert name in ls.stdout and " stale " in ls.stdout, ls
assert (clean.returncode, clean.stdout) == (1, ""), clean
print(clean.stderr, end="")
subprocess.run(["mount", "-o", "remount,rw", "/dev/shm"], check=True)
clean = cli("clean")
assert (clean.returncode, clean.stderr) == (0, ""), clean
end()
""",
        small(4),
    )
    told_, line, _ = told(script)
    assert told_ == "told"
    assert re.fullmatch(
        r"pipert-shm: can't remove [0-9a-f]{12} from /dev/shm, which is read-only or not ours to write to", line
    )


# ---- while the pipe runs -------------------------------------------------------------------------

# Two cameras, each in a flow of its own; somebody else fills /dev/shm in the midst of it.
RUNNING = """
import logging, mmap, os, signal, sys, time
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, PipeFailed, PipeStateError, SourceRoutine, Wire

logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
FILLER = "/dev/shm/somebody-else-s"
board = np.frombuffer(mmap.mmap(-1, 64), np.int64)  # until the gate is open, only frames before the later ones are taken
GATE, SEEN, LATER, OF_CAMERA, OF_STEADY = 0, 1, 2, 3, 4
board[LATER] = 1 << 40

def fill(but=0):
    with open(FILLER, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs("/dev/shm").f_bavail * 4096 - but)
    assert os.statvfs("/dev/shm").f_bavail * 4096 == but

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)

class Camera(SourceRoutine):
    def __init__(self, name, count, grows=None):
        super().__init__(name)
        self.count, self.grows = count, grows
    def main_logic(self):
        n = self.meta.sequence
        if n == self.count:
            raise EndOfStream
        if n == self.grows:
            until(lambda: board[OF_CAMERA] == n and board[OF_STEADY] != 0)  # so the other one has its memory
            fill()
        size = 100_000 if self.grows is None or n < self.grows else 1_000_000
        frame = self.loan((size,))
        frame[:] = n % 251
        return frame

class Show(DestinationRoutine):
    def main_logic(self, data):
        assert data.min() == data.max() == self.meta.sequence % 251
        until(lambda: self.meta.origin != "camera" or self.meta.sequence < board[LATER] or board[GATE])
        board[SEEN] += 1
        board[OF_CAMERA] += self.meta.origin == "camera"
        board[OF_STEADY] += self.meta.origin == "steady"

def make_pipe(grows=None, steady=500, camera=500, **options):
    pipe = Pipe(policy="block", grace_period=0.2, **options)
    show = Show("show")
    pipe.create_flow("a", False, Camera("camera", camera, grows))
    pipe.create_flow("b", False, Camera("steady", steady))
    pipe.create_flow("c", False, show)
    pipe.link(*(Wire(next(iter(pipe.flows[flow].routines.values())), show) for flow in "ab"))
    pipe.build()
    return pipe

def end():
    os.unlink(FILLER)
    assert not os.listdir("/dev/shm"), os.listdir("/dev/shm")
    print("nothing is left")
"""


def test_full_when_all_of_it_is_in_use_already(run_script: RunScript) -> None:
    """What a pipe has is its own: it needs no more for what it does, and never meets a SIGBUS. Stops and starts included."""
    script = run_script(
        RUNNING
        + """
board[LATER] = 1
pipe = make_pipe()
pipe.notify_event("start")
until(lambda: pipe.statistics().wires["camera", "show"].received > 1)  # most slots are still as they were made
until(lambda: pipe.statistics().wires["steady", "show"].sent > 0)
fill()
board[GATE] = 1
pipe.notify_event("stop")
until(lambda: all(pipe.statistics().routines[name].state == "stopped" for name in ("camera", "steady")))
pipe.notify_event("start")
pipe.join()
now = pipe.statistics()
print([(wire.sent, wire.received, wire.lost) for wire in now.wires.values()], board[SEEN])
assert {flow.restarts for flow in now.flows.values()} == {0}
end()
""",
        small(8),
    )
    assert told(script)[0] == "[(500, 500, 0), (500, 500, 0)] 1000"


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_full_when_frames_grow(run_script: RunScript, on_failure: str) -> None:
    """The routine whose frames grew ends with the error; what it sent before arrives. The other goes on, or not, by policy."""
    script = run_script(
        RUNNING
        + f"""
pipe = make_pipe(grows=50, steady=500 if {on_failure!r} == "continue" else -1, on_failure={on_failure!r})
pipe.notify_event("start")
try:
    pipe.join()
except PipeFailed as error:
    assert error.exit_codes == {{}}, error.exit_codes
    print("join:", error)
now = pipe.statistics()
print([(wire.sent, wire.received, wire.lost) for wire in now.wires.values()])
print([now.routines[name].state for name in ("camera", "steady", "show")])
end()
""",
        small(8),
    )
    lines = told(script)
    for start in ("Pipe.a.camera ERROR", "join:"):
        (line,) = (line for line in lines if line.startswith(start))
        assert "the ring of 'camera' (3 slots of 1,003,520 bytes) needs 3,014,656 bytes of shared memory and 0 are free" in line
        assert "--shm-size=" in line
    if on_failure == "continue":
        assert "[(50, 50, 0), (500, 500, 0)]" in lines
        assert "['failed', 'ended', 'ended']" in lines
    else:
        assert any(line.startswith("[(50, 50, 0), ") for line in lines)


def test_full_when_a_flow_is_restarted_and_stays_so(run_script: RunScript) -> None:
    """A sender needs memory to begin with: it fails, by its policy, and says why. A receiver needs none."""
    script = run_script(
        RUNNING
        + """
board[LATER] = 100
pipe = make_pipe()
pipe.notify_event("start")
until(lambda: board[SEEN] > 100 and pipe.statistics().wires["camera", "show"].received == 101)
fill()
os.kill(pipe.statistics().flows["c"].pid, signal.SIGKILL)
until(lambda: pipe.statistics().flows["c"].restarts == 1 and pipe.statistics().wires["camera", "show"].received == 102)
os.kill(pipe.statistics().flows["a"].pid, signal.SIGKILL)
until(lambda: pipe.statistics().flows["a"].state == "failed")
board[GATE] = 1
try:
    pipe.join()
except PipeFailed as error:
    print("join:", error)
    assert error.exit_codes == {"a": 1}, error.exit_codes
now = pipe.statistics()
wire = now.wires["steady", "show"]
assert (wire.sent, wire.received, wire.lost) == (500, 500, 0)
wire = now.wires["camera", "show"]
assert wire.sent == wire.received + wire.lost
assert now.flows["a"].restarts == 5
end()
""",
        small(8),
    )
    lines = told(script)
    for start in ("Pipe.a ERROR", "join:"):
        found = [line for line in lines if line.startswith(start)]
        assert len(found) == (5 if start == "Pipe.a ERROR" else 1)
        for line in found:
            assert (
                "the messages of 'camera' (3 slots of 4,096 bytes) needs 16,384 bytes of shared memory and 0 are free" in line
            )
            assert "--shm-size=" in line
    assert not [line for line in lines if "Traceback" in line]


def test_full_when_a_flow_is_restarted_and_then_no_more(run_script: RunScript) -> None:
    """As soon as there is room a restart succeeds, and what failed before is no failure of the pipe."""
    script = run_script(
        RUNNING
        + """
board[LATER] = 100
pipe = make_pipe()
pipe.notify_event("start")
until(lambda: board[SEEN] > 100 and pipe.statistics().wires["camera", "show"].received == 101)
fill()
os.kill(pipe.statistics().flows["a"].pid, signal.SIGKILL)
until(lambda: pipe.statistics().flows["a"].restarts == 3)
os.truncate(FILLER, 0)
until(lambda: pipe.statistics().flows["a"].pid)
board[GATE] = 1
pipe.join()
now = pipe.statistics()
assert 3 <= now.flows["a"].restarts < 6
for wire in now.wires.values():
    assert wire.sent == wire.received + wire.lost
wire = now.wires["camera", "show"]
assert wire.lost == wire.dropped["crash"] <= 1
print(wire.sent)
end()
""",
        small(8),
    )
    assert 499 <= int(told(script)[-2]) <= 500  # a number may have been given, and its frame not yet sent


def test_full_when_a_tap_is_asked_for(run_script: RunScript) -> None:
    """There is no tap then, and whoever asked is told so, or it shows nothing until there is room; the routines go on."""
    script = run_script(
        RUNNING
        + """
pipe = Pipe(policy="block", grace_period=0.2)
pipe.create_flow("one", True, Camera("camera", -1), Show("show"))  # a flow of its own needs no memory
pipe.build()
pipe.notify_event("start")
until(lambda: board[SEEN] > 10)
fill()
for _ in range(20):  # more often than there are taps
    try:
        pipe.tap("camera")
    except PipeStateError as error:
        assert "bytes of shared memory and 0 are free" in str(error), error
    else:
        raise AssertionError("there is a tap")
os.unlink(FILLER)
fill(but=65536)  # enough for messages, but not for frames
with pipe.tap("camera") as tap:
    seen = board[SEEN]
    until(lambda: board[SEEN] > seen + 100)
    os.unlink(FILLER)
    frame = next(tap)
    print(frame.nbytes)
    del frame
now = pipe.statistics()
assert {routine.errors for routine in now.routines.values()} == {0}
pipe.join(to_kill=True)
fill()
end()
""",
        small(8),
    )
    assert told(script)[0] == "100000"
