"""What a routine sends, over HTTP: as HLS, and by WebRTC. All who watch share one encoder."""

from __future__ import annotations

import asyncio
import builtins
import threading
import time
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import pytest

from pipert_shm import DetectedFrame, Detections, Pipe, SourceRoutine
from pipert_shm.api import hls, streams, webrtc
from pipert_shm.api.streams import Streams, shown_of
from pipert_shm.data import Meta
from pipert_shm.errors import PipertError
from pipert_shm.streaming import broadcast
from routines import Forward, Sink, chain
from serving import Served, serving
from stream_ends import WebRtcClient, number_of, numbered
from waiting import PATIENCE, Board, eventually

SENT = {"Content-Type": "application/sdp"}


class Camera(SourceRoutine):
    """Sends numbered frames in I420, 30 a second."""

    def main_logic(self) -> np.ndarray:
        frame = self.loan((360, 320))
        frame[...] = numbered(self.meta.sequence)
        self.meta.format = "i420"
        return frame


class Words(SourceRoutine):
    def main_logic(self) -> str:
        return "no picture"


def with_camera(board: Board) -> Pipe:
    pipe = Pipe(grace_period=1)
    camera, words = Camera("camera"), Words("words")
    camera.set_const_fps(30)
    words.set_const_fps(30)
    chain(pipe, camera, Forward("middle"), Sink("screen"))
    pipe.create_flow("talk", True, words, Sink("ear"))
    return pipe


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make=with_camera) as one:
        one.do("/start")
        yield one


def state_of(served: Served) -> Any:
    return served.wrapper._app.state


async def until(condition: Any, what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.02)


def test_five_watchers_by_webrtc_cost_one_encoder_and_leave_nothing(served: Served) -> None:
    async def watch() -> None:
        address = f"http://127.0.0.1:{served.port}"
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client:
            clients = [WebRtcClient() for _ in range(5)]
            await asyncio.gather(*(one.watch(client, "camera") for one in clients))
            await until(lambda: all(len(one.frames) >= 10 for one in clients), "frames")
            assert {(width, height) for one in clients for _, width, height in one.frames} == {(320, 240)}
            (stream,) = state_of(served).streams.all
            assert stream.watchers == 5
            before, began = stream.encoded, time.monotonic()
            await until(lambda: stream.encoded >= before + 15, "more frames")
            assert stream.encoded - before <= 31 * (time.monotonic() - began) + 3
            assert (await client.delete(clients[0].location)).status_code == 200
            assert (await client.delete(clients[0].location)).status_code == 404
            for one in clients:
                await one.close()
            await until(lambda: not len(state_of(served).peers), "an end of all")
            assert stream.watchers == 0
            assert state_of(served).peers.lost == 0
            await asks_for_a_key_frame(client, stream)

    async def asks_for_a_key_frame(client: httpx.AsyncClient, stream: Any) -> None:
        one = WebRtcClient()
        await one.watch(client, "camera", width=1280)
        await until(lambda: one.frames, "a frame")
        stream._wants_key = False
        (receiver,) = one.connection.getReceivers()
        (peer,) = state_of(served).peers._peers.values()
        await receiver._send_rtcp_pli(peer[0].getSenders()[0]._ssrc)
        await until(lambda: stream._wants_key or stream._key_ns > time.monotonic_ns() - 5e8, "a key frame that was asked for")
        await one.close()

    asyncio.run(watch())
    served.do("/kill")
    served.expect_end()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("stream-", "push-"))]


def test_hls_begins_when_somebody_asks_and_ends_when_nobody_does(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hls, "IDLE_S", 3.0)
    monkeypatch.setattr(broadcast, "LINGER_S", 0.2)
    address = "/routines/camera/hls"
    assert served.client.get(f"{address}/init-1.mp4").status_code == 404
    answer = served.client.get(f"{address}/index.m3u8")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/vnd.apple.mpegurl")
    assert answer.text.startswith("#EXTM3U")
    with av.open(f"http://127.0.0.1:{served.port}{address}/index.m3u8") as container:
        numbers = [number_of(frame) for _, frame in zip(range(40), container.decode(video=0), strict=False)]
    assert len(set(numbers)) >= 15
    (stream,) = state_of(served).streams.all
    eventually(lambda: not stream.watchers and stream._thread is None, "its end")
    assert served.client.get(f"{address}/{answer.text.split()[-1]}").status_code == 404


def test_what_can_not_be_watched_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for routine, status, said in (
        ("words", 409, "it sends str, which is no picture"),
        ("screen", 409, "sends nothing that could be seen"),
        ("nobody", 404, "nobody"),
    ):
        for answer in (
            served.client.get(f"/routines/{routine}/hls/index.m3u8"),
            served.client.post(f"/routines/{routine}/webrtc", content="a=rtpmap:1 H264/90000", headers=SENT),
        ):
            assert answer.status_code == status, answer.text
            assert said in answer.json()["detail"]
    for offer, width, said in (
        (b"v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\n", 640, "no video in H.264"),
        (b"a=rtpmap:96 H264/90000", 640, "the offer can't be answered"),
        (b"m=video 9 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n" * 17, 640, "17 sections (m=); it may have 16"),
        (b"\xff", 640, "not UTF-8"),
        (b"x" * (webrtc.LONGEST_OFFER + 1), 640, "at most 65536 bytes"),
        (b"", 5, "320, 640, 960, 1280 or 1920"),
        (b"", "x", "width"),
    ):
        answer = served.client.post("/routines/camera/webrtc", content=offer, headers=SENT, params={"width": width})
        assert answer.status_code == 422, answer.text
        assert said in answer.json()["detail"]
    monkeypatch.setattr(webrtc, "MOST_PEERS", 0)
    answer = served.client.post("/routines/camera/webrtc", content="a=rtpmap:1 H264/90000", headers=SENT)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert len(state_of(served).peers) == 0
    eventually(lambda: not any(stream.watchers for stream in state_of(served).streams.all), "no watcher")


def test_names_of_no_routine_leave_nothing_in_memory() -> None:
    sessions = hls.Sessions(Streams(Pipe()))
    with pytest.raises(PipertError):
        asyncio.run(sessions.opened("nobody"))
    assert not sessions._openings


def test_without_the_extras_the_answer_says_what_to_install(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "find_spec", lambda name: None)
    answer = served.client.post("/routines/camera/webrtc", content="a=rtpmap:1 H264/90000", headers=SENT)
    assert answer.status_code == 501
    assert "[webrtc]" in answer.json()["detail"]
    load = builtins.__import__

    def without_av(name: str, *rest: Any) -> Any:
        if name == "av":
            raise ImportError("there is none")
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_av)
    answer = served.client.get("/routines/camera/hls/index.m3u8")
    assert answer.status_code == 501
    assert "[pyav]" in answer.json()["detail"]


def test_the_guard_stands_before_streams() -> None:
    with serving(make=with_camera, token="a-token") as served:
        for answer in (
            served.client.get("/routines/camera/hls/index.m3u8"),
            served.client.post("/routines/camera/webrtc", content="x", headers=SENT),
            served.client.delete("/routines/camera/webrtc/x"),
        ):
            assert answer.status_code == 401
        foreign = {"Authorization": "Bearer a-token", "Origin": "http://evil.example", **SENT}
        assert served.client.post("/routines/camera/webrtc", content="x", headers=foreign).status_code == 403


def test_a_detected_frame_is_shown_with_its_boxes_and_any_other_as_it_is() -> None:
    meta = Meta(("camera",), 0, 0)
    frame = np.zeros((48, 64, 3), np.uint8)
    found = Detections(np.array([[10, 10, 30, 30]], float), np.ones(1), np.zeros(1, int))
    assert shown_of(frame, meta).frame is frame
    assert shown_of(DetectedFrame(frame, Detections(np.empty((0, 4)))), meta).frame is frame
    shown = shown_of(DetectedFrame(frame, found), meta)
    assert shown.format == "bgr"
    assert shown.frame[10, 20].tolist() == [80, 220, 80]
    assert not frame.any()
    with pytest.raises(ValueError, match="which is no picture"):
        shown_of("words", meta)
    assert streams.WIDTH == 1280
