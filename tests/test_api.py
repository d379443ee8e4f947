"""The HTTP control: a real server and a real client on a loopback socket, around a real pipe."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import BaseModel

from pipert_shm import (
    FlowStatistics,
    PipeStateError,
    PipeStatistics,
    RoutineStatistics,
    Tap,
    WireStatistics,
    create_app,
)
from pipert_shm.api.models import FlowModel, RoutineModel, StatisticsModel, WireModel
from serving import HELD, LET_GO, Served, free_port, make_pipe, serving
from waiting import PATIENCE, Board, eventually

FORMS = list(itertools.product(("POST", "GET"), ("", "/")))


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


# ---- the routes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "slash"), FORMS)
def test_every_route_in_every_form(served: Served, method: str, slash: str) -> None:
    def do(path: str, **request: Any) -> dict[str, Any]:
        return served.do(path + slash, method, **request)

    assert do("/pipe/structure") == served.pipe.get_pipe_structure()

    assert do("/start") == {"event": "start", "routine": None, "outcome": "on its way"}
    served.move()

    answer = do("/routines/events/scale/execute", json={"extra_args": {"factor": 3}})
    assert answer == {"event": "scale", "routine": None, "outcome": "on its way"}
    served.see("numbers", 3)
    served.see("times", 9)

    answer = do("/routines/times/events/scale/execute", json={"extra_args": {"factor": 5}})
    assert answer == {"event": "scale", "routine": "times", "outcome": "on its way"}
    served.see("times", 15)
    served.see("numbers", 3)

    statistics = do("/statistics")
    assert {routine["name"]: routine["flow"] for routine in statistics["routines"]} == {
        "numbers": "first",
        "times": "second",
        "end": "second",
    }

    assert do("/pause") == {"event": "stop", "routine": None, "outcome": "on its way"}
    eventually(lambda: served.states() == {"stopped"}, "a stopped pipe")

    assert do("/routines/numbers/events/start/execute")["outcome"] == "on its way"
    eventually(lambda: served.states() == {"running", "stopped"}, "one routine that runs")

    assert do("/kill") == {"event": "kill", "routine": None, "outcome": "the pipe has ended"}
    served.expect_end()


@pytest.mark.parametrize("path", ["/routines/events/kill/execute", "/routines/times/events/kill/execute"])
def test_kill_as_an_event_ends_pipe_and_server(served: Served, path: str) -> None:
    assert served.do(path)["outcome"] == "the pipe has ended"
    served.expect_end()


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_bodies_without_parameters(served: Served, method: str) -> None:
    served.do("/start")
    value = 1
    for body in (b"", b"null", b"{}", b'{"extra_args": {}}'):
        served.do("/routines/times/events/negate/execute", method, content=body, headers={"Content-Type": "application/json"})
        value = -value
        served.see("times", value)


def test_start_after_pause_goes_on(served: Served) -> None:
    served.do("/start")
    served.move()
    served.do("/pause")
    eventually(lambda: served.states() == {"stopped"}, "a stopped pipe")
    served.do("/start")
    served.move()


NO_LATENCY: dict[str, Any] = {"count": 0, "p50_us": None, "p99_us": None, "buckets": []}


@pytest.mark.parametrize(
    ("model", "counters"),
    [
        (RoutineModel, RoutineStatistics),
        (WireModel, WireStatistics),
        (FlowModel, FlowStatistics),
        (StatisticsModel, PipeStatistics),
    ],
)
def test_the_models_have_all_fields_of_the_statistics(model: type[BaseModel], counters: type) -> None:
    assert list(model.model_fields) == [field.name for field in dataclasses.fields(counters)]


def test_statistics_are_those_of_the_pipe(served: Served) -> None:
    before = served.do("/statistics")
    assert all(routine["age"] == NO_LATENCY for routine in before["routines"])
    served.do("/start")
    served.move()
    served.do("/pause")
    eventually(lambda: served.states() == {"stopped"}, "a stopped pipe")

    after = served.do("/statistics")
    mine = served.pipe.statistics()
    assert after["time_s"] > before["time_s"]
    for routine in after["routines"]:
        expected = mine.routines[routine["name"]]
        age = routine.pop("age")
        assert routine == {name: getattr(expected, name) for name in routine}
        assert age["count"] == expected.age.count
    wires = {(wire["sender"], wire["receiver"]): wire for wire in after["wires"]}
    assert set(wires) == {("numbers", "times"), ("times", "end")}
    hop = mine.wires["numbers", "times"].hop
    told = wires["numbers", "times"].pop("hop")
    assert (told["count"], told["p50_us"], told["p99_us"]) == (hop.count, hop.p50_us, hop.p99_us)
    assert sum(bucket["count"] for bucket in told["buckets"]) == hop.count
    assert wires["numbers", "times"] == {
        name: getattr(mine.wires["numbers", "times"], name) for name in wires["numbers", "times"]
    }
    assert after["flows"] == [dataclasses.asdict(flow) for flow in mine.flows.values()]


def test_the_schema_describes_every_route_once_per_method(served: Served) -> None:
    paths = served.do("/openapi.json", "GET")["paths"]
    assert list(paths) == [
        "/start",
        "/pause",
        "/kill",
        "/routines/events/{event}/execute",
        "/routines/{routine}/events/{event}/execute",
        "/routines/{routine}/fps",
        "/routines/{routine}/link",
        "/routines/{routine}/unlink",
        "/flows/{flow}/restart",
        "/flows/{flow}",
        "/pipeline",
        "/pipe/structure",
        "/statistics",
        "/why",
        "/health",
        "/ready",
        "/hosts",
        "/metrics",
        "/events",
        "/routines/{routine}/preview.jpg",
        "/routines/{routine}/preview",
        "/routines/{routine}/hls/index.m3u8",
        "/routines/{routine}/hls/{file}",
        "/routines/{routine}/webrtc",
        "/routines/{routine}/webrtc/{session}",
        "/trace",
    ]
    by_both = {path for path, methods in paths.items() if methods.keys() == {"get", "post"}}
    assert by_both >= {
        "/start",
        "/pause",
        "/kill",
        "/pipe/structure",
        "/statistics",
        *(path for path in paths if "execute" in path),
    }
    operations = [operation for path in paths.values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["description"] for operation in operations)


def test_why_says_what_slows_the_pipe_down(served: Served) -> None:
    before = served.do("/why", "GET", params={"seconds": 0.05})
    assert before["seconds"] >= 0.05
    assert any("not started" in finding["what"] for finding in before["findings"])
    served.do("/start")
    served.move()
    served.do("/routines/end/events/hold/execute")
    served.board.wait(HELD)
    found: list[dict[str, Any]] = []

    def is_found() -> bool:
        found[:] = served.do("/why/", "GET", params={"seconds": 0.1})["findings"]
        return any((one["kind"], one["where"], one["severity"]) == ("hang", "end", "problem") for one in found)

    eventually(is_found, f"the routine that holds a message, after {found}")
    served.board[LET_GO] = 1
    assert all(finding["drawn_from"] for finding in found)


@pytest.mark.parametrize("seconds", ["0", "6", "nan", "soon"])
def test_why_refuses_other_times(served: Served, seconds: str) -> None:
    answer = served.client.get("/why", params={"seconds": seconds})
    assert answer.status_code == 422
    assert "query.seconds" in answer.json()["detail"]


def test_a_routine_is_slowed_down(served: Served) -> None:
    served.do("/routines/numbers/fps", json={"fps": 0})
    served.do("/start")
    eventually(lambda: served.received() > 500, "messages at full speed")
    served.do("/routines/numbers/fps", json={"fps": 0.001})
    with served.pipe.tap("numbers") as tap:
        eventually(lambda: ends_silent(tap), "a source that sends nothing more")


def ends_silent(tap: Tap) -> bool:
    """Whether nothing comes for a while."""
    try:
        tap.read(timeout=0.1)
    except TimeoutError:
        return True
    return False


def test_wires_are_linked_and_unlinked(served: Served) -> None:
    served.do("/start")
    served.do("/routines/numbers/link", json={"receiver": "end", "capacity": 3, "policy": "drop_newest"})
    eventually(lambda: served.pipe.statistics().wires["numbers", "end"].received > 0, "messages on the new wire")
    wire = served.pipe.statistics().wires["numbers", "end"]
    assert (wire.capacity, wire.policy, wire.linked) == (3, "drop_newest", True)

    answer = served.client.post("/routines/numbers/link", json={"receiver": "end"})
    assert (answer.status_code, "numbers" in answer.json()["detail"]) == (422, True)
    answer = served.client.post("/routines/end/link", json={"receiver": "numbers"})
    assert answer.status_code == 422
    answer = served.client.post("/routines/numbers/link", json={"receiver": "nobody"})
    assert (answer.status_code, set(answer.json()["known"])) == (404, ROUTINES)

    served.do("/routines/numbers/unlink", json={"receiver": "end"})
    eventually(lambda: not served.pipe.statistics().wires["numbers", "end"].linked, "a wire that is unlinked")
    served.move()


def test_a_flow_is_restarted(served: Served) -> None:
    served.do("/start")
    served.move()
    before = served.pipe.statistics().flows["first"].pid
    assert served.do("/flows/first/restart") == {"flow": "first", "outcome": "on its way"}
    eventually(lambda: served.pipe.statistics().flows["first"].pid not in (0, before), "another process")
    served.move()
    assert served.pipe.statistics().flows["first"].restarts == 1
    answer = served.client.post("/flows/third/restart")
    assert (answer.status_code, set(answer.json()["known"])) == (404, {"first", "second"})


def test_a_flow_is_removed(served: Served) -> None:
    served.do("/start")
    served.move()
    answer = served.client.delete("/flows/third")
    assert (answer.status_code, set(answer.json()["known"])) == (404, {"first", "second"})
    answer = served.client.delete("/flows/second/", params={"receivers_wait": True})
    assert (answer.status_code, answer.json()) == (200, {"flow": "second", "outcome": "removed"})
    assert {flow["name"] for flow in served.do("/statistics", "GET")["flows"]} == {"first"}
    assert {routine["flow_name"] for routine in served.do("/pipe/structure", "GET")["Routines"]} == {"first"}
    assert served.client.delete("/flows/second").status_code == 404


def test_health_and_readiness(served: Served) -> None:
    assert served.do("/health", "GET") == {"status": "ok"}
    assert served.do("/ready", "GET") == {"ready": True, "problems": []}
    os.kill(served.pipe.statistics().flows["first"].pid, signal.SIGKILL)
    eventually(lambda: served.client.get("/ready").status_code == 503, "a pipe that is not ready")
    assert served.client.get("/ready").json() == {
        "ready": False,
        "problems": ["flow 'first': failed", "routine 'numbers': failed"],
    }
    assert served.do("/health", "GET") == {"status": "ok"}
    served.do("/kill")
    served.expect_end()
    served.failure = None


# ---- refusals ------------------------------------------------------------------------------------


ROUTINES = {"numbers", "times", "end"}
LINK, UNLINK = (f"/routines/numbers/events/{event}/execute" for event in ("link", "unlink"))
SCALE = "/routines/events/scale/execute"
BODIES: dict[str, dict[str, Any]] = {"fps": {"fps": 2}, "link": {"receiver": "end"}, "unlink": {"receiver": "end"}}


def test_a_refusal_says_why_and_what_there_is(served: Served) -> None:
    served.do("/start")
    cases: list[tuple[str, bytes, int, str, set[str]]] = [
        ("/routines/nobody/events/start/execute", b"", 404, "nobody", ROUTINES),
        ("/routines/nobody/events/kill/execute", b"", 404, "nobody", ROUTINES),
        ("/routines/events/nothing/execute", b"", 404, "nothing", {"hold", "negate", "scale", "start", "stop", "kill"}),
        ("/routines/end/events/scale/execute", b"", 404, "scale", {"hold", "start", "stop", "kill"}),
        (SCALE, b"", 422, "factor", set()),
        (SCALE, b'{"extra_args": {"facto": 2}}', 422, "factor", set()),
        (SCALE, b'{"extra_args": {"factor": 2, "event_name": "stop"}}', 422, "event_name", set()),
        (SCALE, b'{"extra_args": {"factor": 2, "self": 1}}', 422, "self", set()),
        (SCALE, b'{"extra_args": {"factor": "%s"}}' % (b"x" * 3_000_000), 413, "3,000,030 bytes, and 1,048,576", set()),
        (SCALE, b'{"extra_args": {"factor": %s1%s}}' % (b"[" * 500, b"]" * 500), 413, "more than 100 levels", set()),
        ("/routines/numbers/fps", b'{"fps": 1e-300}', 422, "fps: fps must be 0 for no limit", set()),
        ("/routines/numbers/fps", b'{"fps": NaN}', 422, "not nan", set()),
        ("/routines/numbers/fps", b'{"fps": "5"}', 422, "not '5'", set()),
        ("/routines/numbers/fps", b'{"fps": true}', 422, "not True", set()),
        ("/routines/numbers/events/update_fps/execute", b'{"extra_args": {"fps": 1e999}}', 422, "not inf", set()),
        (LINK, b'{"extra_args": {"link_routine_name": "end", "timeout": "1s"}}', 422, "not '1s'", set()),
        (LINK, b'{"extra_args": {"link_routine_name": "end", "timeout": 1e300}}', 422, "86,400", set()),
        (LINK, b'{"extra_args": {"link_routine_name": "end", "capacity": true}}', 422, "not True", set()),
        (LINK, b'{"extra_args": {"link_routine_name": "end", "policy": {}}}', 422, "unknown policy {}", set()),
        (LINK, b'{"extra_args": {"link_routine_name": ["end"]}}', 422, "link_routine_name must be a str", set()),
        (LINK, b'{"extra_args": {"link_routine_name": "\\ud800"}}', 404, "ud800", ROUTINES),
        (UNLINK, b'{"extra_args": {"unlink_routine_name": {}}}', 422, "unlink_routine_name must be a str", set()),
        ("/routines/numbers/link", b'{"receiver": "end", "capacity": true}', 422, "capacity", set()),
        (SCALE, b'{"extra_args": {"factor": "%s"}}' % (b"x" * 5_000_000), 413, "4,194,304 bytes", set()),
        (SCALE, b'{"extra_args": {"factor": 2}', 422, "JSON", set()),
        (SCALE, b"\xff\xfe\x00", 422, "JSON", set()),
        (SCALE, b"[" * 100_000, 422, "JSON", set()),
        (SCALE, b"[1]", 422, "body", set()),
        (SCALE, b'{"extra_args": 2}', 422, "extra_args", set()),
        (SCALE, b'{"factor": 2}', 422, "factor", set()),
    ]
    for path, body, status, says, known in cases:
        response = served.client.post(path, content=body, headers={"Content-Type": "application/json"})
        answer = response.json()
        assert (response.status_code, says in answer["detail"]) == (status, True), (path, body[:50], answer)
        assert known <= set(answer.get("known", [])), (path, answer)
        assert bool(answer.get("known")) == bool(known), (path, answer)
    assert served.client.post("/nowhere").status_code == 404
    assert served.client.delete("/start").status_code == 405
    served.see("times", 1)


def test_a_pipe_that_has_ended_or_is_not_built_is_a_conflict() -> None:
    pipe = make_pipe(Board(2))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(pipe), port=port, loop="asyncio", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, "a server")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            assert client.get("/ready").json() == {
                "ready": False,
                "problems": ["the pipe is not built yet: call build() first"],
            }
            refusing = set()
            schema = client.get("/openapi.json").json()["paths"]
            for path, operations in schema.items():
                body = BODIES.get(path.rpartition("/")[2])
                there = path.format(routine="numbers", event="scale", flow="first", file="index.m3u8", session="1")
                for method, operation in operations.items():
                    response = client.request(method, there, json=body)
                    assert str(response.status_code) in operation["responses"], (method, path)
                    if path == "/pipeline":  # it takes a token in any case
                        assert response.status_code == 403
                        continue
                    if path.endswith("/webrtc"):  # it looks at the offer first
                        assert response.status_code == 422
                        continue
                    assert (response.status_code == 409) == ("409" in operation["responses"]), (method, path)
                    if response.status_code == 409:
                        assert "not built" in response.json()["detail"]
                        refusing.add(path)
            assert schema.keys() - refusing == {
                "/pipe/structure",
                "/health",
                "/ready",
                "/hosts",
                "/pipeline",
                "/routines/{routine}/webrtc",
                "/routines/{routine}/webrtc/{session}",
            }
            pipe.build()
            assert client.post("/kill").json()["outcome"] == "the pipe has ended"
            for path in ("/start", "/pause", "/routines/numbers/events/start/execute", "/flows/first/restart"):
                response = client.post(path)
                assert (response.status_code, "has ended" in response.json()["detail"]) == (409, True)
            assert client.post("/kill").status_code == 200
            assert client.get("/statistics").status_code == 200
    finally:
        server.should_exit = True
        thread.join()
        with suppress(PipeStateError):
            pipe.join(to_kill=True)
