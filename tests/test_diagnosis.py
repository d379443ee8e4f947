"""What is found out of made counters: each case, its place, and what it is put down to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_moments import chain, moment, routine, wire
from pipert_shm import FlowStatistics, Latency, binding
from pipert_shm.diagnosis import Finding, Moment, Ring, diagnose
from pipert_shm.diagnosis.finding import KINDS
from pipert_shm.diagnosis.losses import LOSSES
from pipert_shm.limits import POLICIES


def one(findings: list[Finding], kind: str, where: str | None = None) -> Finding:
    """The only finding of a kind, about this place if one is given."""
    (found,) = (finding for finding in findings if finding.kind == kind and where in (None, finding.where))
    return found


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def advice(finding: Finding) -> str:
    return "\n".join(finding.advice)


SLOW = routine("detector", received=50, sent=50, busy_s=9.9)
LOSSY = wire("camera", "detector", sent=100, received=48, waiting=2, dropped={"oldest": 50})


# ---- nothing is wrong ----------------------------------------------------------------------------


def test_nothing_is_wrong() -> None:
    (finding,) = chain()
    assert (finding.kind, finding.severity) == ("fine", "note")
    assert "detector" in finding.what
    assert "40 %" in finding.what
    assert "10.0 messages a second" in finding.what


def test_a_source_that_waits_for_its_camera_in_main_logic_is_not_the_slowest() -> None:
    (finding,) = chain(
        routine("camera", sent=100, busy_s=9.9), now={"cpu_s": {"camera": 1.0}}, before={"cpu_s": {"camera": 0.9}}
    )
    assert "slowest is detector" in finding.what


def test_every_finding_has_a_known_kind_and_says_what_it_is_drawn_from() -> None:
    found = chain(SLOW, LOSSY, routine("screen", received=100, errors=3, logs_lost=1))
    assert {"bottleneck", "drops", "errors", "logs lost"} == set(kinds(found))
    assert all(finding.kind in KINDS and finding.drawn_from for finding in found)
    assert found == sorted(found, key=lambda finding: finding.place)


# ---- the bottleneck ------------------------------------------------------------------------------


def test_the_bottleneck_and_what_its_input_loses() -> None:
    found = chain(SLOW, LOSSY)
    assert (found[0].kind, found[0].severity, found[0].where) == ("bottleneck", "problem", "detector")
    for part in ("99 %", "5.0 messages a second", "camera -> detector loses 5.0", "oldest"):
        assert part in found[0].what
    assert "198.0 ms" in found[0].why
    for part in ("replicas=2", "batch_size", "camera.set_const_fps(5)", 'policy="block"'):
        assert part in advice(found[0])
    drop = one(found, "drops")
    assert (drop.severity, drop.where) == ("cost", "camera -> detector")
    assert "bottleneck" in drop.why


def test_a_bottleneck_behind_a_blocked_source_loses_nothing() -> None:
    full = wire("camera", "detector", policy="block", sent=50, received=48, waiting=2)
    found = chain(SLOW, full, earlier=(wire("camera", "detector", policy="block", waiting=2),))
    bottleneck, blocked = one(found, "bottleneck"), one(found, "blocked")
    assert (bottleneck.severity, bottleneck.where, blocked.where) == ("cost", "detector", "camera -> detector")
    assert "camera waits" in bottleneck.what
    assert "detector" in blocked.why
    assert "drop_oldest" in advice(blocked)


def test_a_queue_that_drops_blocks_nobody() -> None:
    assert "blocked" not in kinds(chain(SLOW, LOSSY, earlier=(wire("camera", "detector", waiting=2),)))


def test_a_queue_that_is_full_at_one_look_only_blocks_nobody() -> None:
    full = wire("camera", "detector", policy="block", sent=100, received=98, waiting=2)
    assert kinds(chain(full)) == ["fine"]


def test_who_waits_for_whom_is_followed_to_the_end() -> None:
    first = {"policy": "block", "waiting": 2}
    found = chain(
        routine("detector", received=50, sent=50, busy_s=1.0),
        routine("screen", received=50, busy_s=9.9),
        wire("camera", "detector", sent=50, received=48, **first),
        wire("detector", "screen", sent=50, received=48, **first),
        earlier=(wire("camera", "detector", **first), wire("detector", "screen", **first)),
    )
    assert one(found, "bottleneck").where == "screen"
    assert "screen" in one(found, "blocked", "camera -> detector").why


def test_a_call_that_has_not_ended_counts_as_work() -> None:
    slow = routine("detector", received=1, busy_s=0.0)
    found = chain(slow, LOSSY, now={"in_call_s": {"detector": 9.9}})
    assert one(found, "bottleneck").where == "detector"
    assert "bottleneck" not in kinds(chain(slow, LOSSY, now={"in_call_s": {"detector": 1.0}}))
    spent_before = chain(routine("detector", received=1, busy_s=9.9), LOSSY, before={"in_call_s": {"detector": 9.0}})
    assert "bottleneck" not in kinds(spent_before)


def test_a_bottleneck_that_waits_and_one_that_computes() -> None:
    def bottleneck(cpu_s: float, machine: float, processors: int = 4) -> Finding:
        now = {"cpu_s": {"detector": cpu_s}, "machine_s": (machine, 40.0), "processors": processors}
        return one(chain(SLOW, LOSSY, now=now, before={"cpu_s": {"detector": 0.0}}), "bottleneck")

    assert "waits" in bottleneck(0.3, 2.0).why
    assert "0.03 of a processor" in bottleneck(0.3, 2.0).why
    assert "computes" in bottleneck(9.5, 12.0).why
    assert "replicas=" in advice(bottleneck(9.5, 12.0))
    assert "replicas won't help" in advice(bottleneck(9.5, 39.0))
    assert "replicas=" in advice(bottleneck(0.3, 40.0))


def test_replicas_are_one_bottleneck() -> None:
    names = [f"detector#{number}" for number in range(2)]
    parts: list[Any] = [routine("camera", sent=100)]
    for name in names:
        parts += [
            routine(name, received=25, sent=25, busy_s=9.8),
            wire("camera", name, sent=50, received=25, dropped={"oldest": 25}),
        ]
    before: list[Any] = [routine("camera"), *map(routine, names), *(wire("camera", name) for name in names)]
    finding = one(diagnose(moment(20.0, *parts), moment(10.0, *before)), "bottleneck")
    assert finding.where == "detector"
    assert "2 processes" in finding.what
    assert "replicas=4" in advice(finding)


def test_a_name_with_a_number_is_no_replica_where_its_flow_is_none() -> None:
    parts = (routine("cam#1", flow="f", sent=10), routine("cam#2", flow="f", sent=10))
    (finding,) = diagnose(moment(20.0, *parts), moment(10.0, routine("cam#1", flow="f"), routine("cam#2", flow="f")))
    assert "cam#1" in finding.what


def test_a_video_source_before_a_bottleneck_is_named_with_its_options() -> None:
    found = chain(video(), SLOW, LOSSY)
    assert "VideoSource(…, 'camera', fps=5" in advice(one(found, "bottleneck"))


def test_routines_that_share_an_interpreter() -> None:
    found = chain(
        routine("detector", received=100, sent=100, busy_s=8.0),
        routine("screen", flow="detector", received=100, busy_s=7.0),
        now={"cpu_s": {"detector": 9.8}},
        before={"cpu_s": {"detector": 0.0}},
    )
    finding = one(found, "shared interpreter")
    assert (finding.where, finding.severity) == ("detector", "cost")
    assert "screen 70 %" in finding.what


def test_a_routine_at_its_limit_before_it_loses_anything() -> None:
    found = chain(routine("detector", received=100, sent=100, busy_s=9.5))
    finding = one(found, "at its limit")
    assert "bottleneck" not in kinds(found)
    assert (finding.where, finding.severity) == ("detector", "note")


def test_a_source_that_computes_sets_the_pace() -> None:
    usage: dict[str, Any] = {"now": {"cpu_s": {"camera": 9.9}}, "before": {"cpu_s": {"camera": 0.0}}}
    finding = one(chain(video(sent=100, busy_s=9.9), **usage), "pace")
    assert (finding.where, finding.severity) == ("camera", "note")
    assert "skip_frame" in advice(finding)


# ---- the machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "severity"), [(0, "note"), (7, "problem")])
def test_a_machine_that_the_flows_fill(late: int, severity: str) -> None:
    now = {"cpu_s": {"camera": 12.0, "detector": 7.0}, "machine_s": (18.6, 20.0), "processors": 2}
    found = chain(video(sent=100, late=late), now=now, before={"cpu_s": {"camera": 0.0, "detector": 0.0}})
    finding = one(found, "processors")
    assert finding.severity == severity
    assert "camera 1.20, detector 0.70" in finding.what
    assert "Other programs" not in finding.why


def test_a_machine_that_others_fill() -> None:
    now = {"cpu_s": {"camera": 1.0}, "machine_s": (20.0, 20.0), "processors": 2}
    finding = one(chain(LOSSY, now=now, before={"cpu_s": {"camera": 0.0}}), "processors")
    assert finding.severity == "problem"
    assert "Other programs" in finding.why


def test_a_full_machine_is_not_to_blame_for_a_routine_that_sleeps() -> None:
    now = {"cpu_s": {"detector": 0.1}, "machine_s": (20.0, 20.0), "processors": 2}
    found = chain(SLOW, LOSSY, now=now, before={"cpu_s": {"detector": 0.0}})
    assert one(found, "processors").severity == "note"


def test_cpu_of_another_process_is_not_compared() -> None:
    flow = FlowStatistics("camera", "running", 7, 0, 0)
    now = {"cpu_s": {"camera": 30.0}, "machine_s": (1.0, 20.0), "processors": 2}
    assert kinds(chain(flow, now=now, before={"cpu_s": {"camera": 0.0}})) == ["fine"]


# ---- losses --------------------------------------------------------------------------------------


def test_every_reason_of_the_core_has_its_text() -> None:
    assert LOSSES.keys() == binding.REASONS.keys()


@pytest.mark.parametrize("reason", [*binding.REASONS, "new"])
def test_a_loss_of_each_reason(reason: str) -> None:
    finding = one(chain(wire("camera", "detector", sent=100, received=90, dropped={reason: 10, "other": 0})), "drops")
    assert (finding.severity, finding.where) == ("problem", "camera -> detector")
    assert f"10 of 100 messages, 1.0 a second ({reason})" in finding.what


def test_what_was_lost_before_is_not_told_again() -> None:
    now = wire("camera", "detector", sent=110, received=100, dropped={"crash": 10})
    before = wire("camera", "detector", sent=10, dropped={"crash": 10})
    assert kinds(chain(now, earlier=(before,))) == ["fine"]


def test_counters_are_compared_with_those_of_the_earlier_moment() -> None:
    camera = {"copied_bytes": 92_160_000, "errors": 7, "logs_lost": 3}
    detector = {"private_bytes": 1000}
    found = chain(
        routine("camera", sent=200, busy_s=9.0, **camera),
        wire("camera", "detector", sent=200, received=200, **detector),
        earlier=(
            routine("camera", sent=100, busy_s=8.0, **camera),
            wire("camera", "detector", sent=100, received=100, **detector),
        ),
    )
    assert kinds(found) == ["fine"]


def test_the_larger_loss_comes_first() -> None:
    found = chain(
        wire("camera", "detector", sent=100, received=90, dropped={"crash": 10}),
        wire("detector", "screen", sent=100, received=80, dropped={"crash": 20}),
    )
    assert [finding.where for finding in found] == ["detector -> screen", "camera -> detector"]


def test_a_full_queue_before_a_routine_that_is_not_busy() -> None:
    lossy = wire("camera", "detector", sent=100, received=90, dropped={"newest": 10})
    bursts = one(chain(lossy), "drops").why
    assert "only 40 %" in bursts
    assert "bursts" in bursts
    stopped = one(chain(lossy, routine("detector", state="stopped")), "drops").why
    assert "stopped" in stopped
    starved = {"rings": [Ring("detector", 3, 0, {"screen": 3})]}
    assert "free slot" in one(chain(lossy, now=starved, before=starved), "drops").why
    full = wire("detector", "screen", policy="block", sent=100, received=98, waiting=2)
    waits = one(chain(lossy, full, earlier=(wire("detector", "screen", policy="block", waiting=2),)), "drops").why
    assert "detector -> screen" in waits


def test_expired_messages_say_where_their_time_went() -> None:
    place = next(place for place, ns in enumerate(binding.BUCKET_NS) if ns > 50e6)
    waited = Latency((0,) * place + (10,))
    finding = one(chain(wire("camera", "detector", sent=100, received=90, hop=waited, dropped={"expired": 10})), "drops")
    assert "max_age" in finding.what
    assert "on this wire" in finding.why
    assert "capacity=1" in advice(finding)


def test_a_join_without_partners_names_all_its_wires() -> None:
    left = wire("camera", "screen", sent=100, received=100, dropped={"join": 40})
    other = wire("detector", "screen", sent=60, received=60, dropped={"oldest": 40})
    finding = one(chain(left, other), "drops", "camera -> screen")
    assert "detector -> screen brought 60, and lost 40" in finding.why


# ---- slots and copies ----------------------------------------------------------------------------


def test_a_ring_without_a_free_slot_names_who_holds_it() -> None:
    full = {"rings": [Ring("camera", 3, 0, {"camera": 1, "detector": 2})]}
    finding = one(chain(now=full, before=full), "no free slot")
    assert (finding.where, finding.severity) == ("camera", "problem")
    assert "detector holds 2" in advice(finding)
    assert kinds(chain(now=full, before={"rings": [Ring("camera", 3, 1, {"camera": 2})]})) == ["fine"]


@pytest.mark.parametrize(
    ("counter", "kind", "word"), [("copied_bytes", "copies", "loan"), ("in_band_bytes", "pickles", "numpy arrays")]
)
def test_frames_that_are_copied_or_pickled(counter: str, kind: str, word: str) -> None:
    finding = one(chain(routine("camera", sent=100, **{counter: 92_160_000})), kind)
    assert (finding.where, finding.severity) == ("camera", "cost")
    assert "921.6 kB of each message" in finding.what
    assert word in advice(finding)
    assert kinds(chain(routine("camera", sent=100, **{counter: 100 * 1000}))) == ["fine"]


def test_frames_that_a_receiver_keeps() -> None:
    finding = one(chain(wire("camera", "detector", sent=100, received=100, private_bytes=50_000_000)), "kept frames")
    assert finding.where == "camera -> detector"
    assert "5.0 MB a second" in finding.what


# ---- sources -------------------------------------------------------------------------------------


def video(**numbers: Any) -> Any:
    """A `VideoSource` by its counters."""
    own = {"connected": 1, "reconnects": 0, "skipped": 0, "late": 0, "damaged": 0, "idle": 0}
    counters = {name: numbers.pop(name, value) for name, value in own.items()}
    return routine("camera", **{"sent": 100, **numbers}, counters=counters)


def test_a_camera_that_is_not_connected() -> None:
    finding = one(chain(video(connected=0, sent=0)), "lost source")
    assert (finding.where, finding.severity) == ("camera", "problem")
    assert "lost source" not in kinds(chain(video(connected=0, state="ended")))


@pytest.mark.parametrize(
    ("counter", "severity", "word"),
    [
        ("late", "problem", "hwaccel"),
        ("damaged", "problem", "transport"),
        ("reconnects", "problem", "timeout"),
        ("skipped", "note", "fps"),
    ],
)
def test_what_a_camera_leaves_out(counter: str, severity: str, word: str) -> None:
    finding = one(chain(video(**{counter: 30}), earlier=(video(sent=0),)), counter)
    assert (finding.where, finding.severity) == ("camera", severity)
    assert word in advice(finding)
    assert counter not in kinds(chain(video(**{counter: 30}), earlier=(video(sent=0, **{counter: 30}),)))


def test_why_a_camera_skips_frames() -> None:
    start = (video(sent=0),)
    assert "fps=" in one(chain(video(skipped=30, busy_s=2.0), earlier=start), "skipped").why
    assert "idle" in one(chain(video(skipped=30, idle=1), earlier=start), "skipped").why
    full = {"policy": "block", "waiting": 2}
    finding = one(
        chain(
            video(skipped=30),
            wire("camera", "detector", sent=100, received=98, **full),
            earlier=(*start, wire("camera", "detector", **full)),
        ),
        "skipped",
    )
    assert finding.severity == "cost"
    assert "camera -> detector" in finding.why


# ---- faults --------------------------------------------------------------------------------------


def test_a_failed_flow_comes_first() -> None:
    found = chain(SLOW, LOSSY, FlowStatistics("screen", "failed", 0, 5, -11), routine("screen", state="failed"))
    assert (found[0].kind, found[0].about, found[0].where) == ("failed", "flow", "screen")
    assert "signal 11" in found[0].what
    assert kinds(found).count("failed") == 1


def test_a_failed_routine() -> None:
    assert one(chain(routine("screen", state="failed", errors=1)), "failed").where == "screen"


def test_restarts_now_and_earlier() -> None:
    flow = FlowStatistics("screen", "running", 100, 3, -9)
    now, earlier = one(chain(flow), "restarts"), one(chain(flow, earlier=(flow,)), "earlier restarts")
    assert (now.severity, earlier.severity) == ("problem", "note")
    assert "SIGKILL" in now.what
    assert "hang_timeout" in now.what
    replaced = one(chain(FlowStatistics("screen", "running", 100, 1, 0, "order")), "restarts")
    assert "on purpose: by `apply`" in replaced.what
    assert "nothing to do" in advice(replaced)
    died = FlowStatistics("screen", "restarting", 0, 0, 3)
    assert "exit status 3" in one(chain(died), "restarts").what


def test_a_call_that_does_not_end() -> None:
    found = chain(now={"in_call_s": {"detector": 60.0}})
    finding = one(found, "hang")
    assert (finding.where, finding.severity) == ("detector", "problem")
    assert "60.0 s" in finding.what
    assert "py-spy dump --pid 100" in advice(finding)
    assert one(chain(now={"in_call_s": {"camera": 60.0}}), "hang").severity == "note"
    assert "hang" not in kinds(chain(now={"in_call_s": {"detector": 9.0}}))


def test_errors_and_whether_anything_succeeds() -> None:
    some = one(chain(routine("detector", received=100, sent=90, errors=10)), "errors")
    assert "succeeds" not in some.what
    assert "1.0 a second" in some.what
    assert "Nothing that it does succeeds" in one(chain(routine("detector", received=100, errors=100)), "errors").what


def test_descriptors_that_do_not_fit() -> None:
    assert one(chain(wire("camera", "detector", sent=100, received=99, protocol_errors=1)), "errors").about == "wire"


@pytest.mark.parametrize(("state", "word"), [("built", "not started"), ("stopped", "paused"), ("ended", "ended")])
def test_a_pipe_that_rests(state: str, word: str) -> None:
    (finding,) = diagnose(moment(20.0, routine("camera", state=state)), moment(10.0, routine("camera", state=state)))
    assert (finding.kind, finding.about) == ("not running", "pipe")
    assert word in finding.what


def test_a_pipe_in_which_nothing_moves() -> None:
    parts = (routine("camera"), routine("screen"), wire("camera", "screen"))
    (finding,) = diagnose(moment(20.0, *parts), moment(10.0, *parts))
    assert "No message moved" in finding.what
    assert "camera (running)" in finding.why


def test_one_routine_that_is_stopped() -> None:
    finding = one(chain(routine("screen", received=50, state="stopped")), "not running")
    assert (finding.where, finding.severity) == ("screen", "problem")


def test_a_pipe_without_routines() -> None:
    (finding,) = diagnose(moment(20.0), moment(10.0))
    assert finding.kind == "not running"


# ---- whatever the numbers ------------------------------------------------------------------------

COUNTS = st.integers(0, 10**6)
STATES = st.sampled_from(["built", "running", "stopping", "stopped", "ended", "failed"])
NAMES = ("a", "b#0", "b#1", "c", "d")
VIDEO = {"connected": 1, "reconnects": 0, "skipped": 0, "late": 0, "damaged": 0, "idle": 0}


@st.composite
def moments(draw: st.DrawFn) -> Moment:
    """Any moment of a pipe, also one that a torn copy shows."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    parts: list[Any] = []
    for name in names:
        numbers = {
            field: draw(COUNTS) for field in ("received", "sent", "errors", "copied_bytes", "in_band_bytes", "logs_lost")
        }
        own = draw(st.sampled_from([{}, {"faces": 3}, {word: draw(COUNTS) for word in VIDEO}]))
        busy = draw(st.floats(0, 1e4))
        parts.append(routine(name, flow=name, state=draw(STATES), busy_s=busy, counters=own, **numbers))
    for sender, receiver in draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), unique=True)):
        if sender in names and receiver in names and sender != receiver:
            dropped = draw(st.dictionaries(st.sampled_from([*binding.REASONS, "new"]), COUNTS))
            numbers = {field: draw(COUNTS) for field in ("sent", "received", "private_bytes", "protocol_errors")}
            further: dict[str, Any] = {"policy": draw(st.sampled_from(POLICIES)), "waiting": draw(st.integers(0, 2))}
            parts.append(wire(sender, receiver, dropped=dropped, **numbers, **further))
    flow_states = st.sampled_from(["running", "restarting", "failed", "ended"])
    parts += [FlowStatistics(name, draw(flow_states), 100, draw(COUNTS), draw(st.integers(-64, 255))) for name in names]
    seconds = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e6))
    rings = [Ring(name, 3, draw(st.integers(0, 3)), {"a": 1, "tap 0": 2}) for name in names]
    machine = draw(st.floats(0, 1e6)), draw(st.floats(0, 1e6))
    further = {"in_call_s": draw(seconds), "cpu_s": draw(seconds), "rings": rings, "machine_s": machine}
    return moment(draw(st.floats(1, 1e6)), *parts, processors=draw(st.integers(0, 64)), **further)


@given(moments(), moments())
def test_any_two_moments_give_findings(now: Moment, before: Moment) -> None:
    found = diagnose(now, before)
    assert all(finding.kind in KINDS and finding.what and finding.drawn_from for finding in found)
    assert "nan" not in "".join(finding.what + finding.why for finding in found)
    assert found
