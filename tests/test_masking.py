"""What is told of a URL: never its password or token, and all the rest."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import pytest

from conftest import RunScript
from pipert_shm import ConfigError, PipeFailed, PipelineFile, PipertError
from pipert_shm.display.masking import masked, needs_escapes
from pipert_shm.errors import Fault, RemoteRefusal, describe, shown
from pipert_shm.system.streams import say
from pipert_shm.video import VideoError, VideoSource
from pipert_shm.video.capture import cannot_open

SECRET = "Xy7kQ2pW"

USERINFO = [
    "rtsp://admin:{}@10.0.0.5/live",
    "RTSP://Admin:{}@10.0.0.5/live",
    "rtsps://admin:{}@cam.example:322/live",
    "http://admin:{}@[fe80::1%25eth0]:8080/video.mjpg",
    "rtsp://admin:{}@cam/live",
    "rtsp://:{}@10.0.0.5/live",
    "rtsp://{}@10.0.0.5/live",
    "rtsp://{}:@10.0.0.5/live",
    "https://{}:x-oauth-basic@cam.example/live",
    "rtsp://admin:one:{}@10.0.0.5/live",
    "rtsp://admin:one%40{}@10.0.0.5/live",
    "rtsp://admin:one@{}@10.0.0.5/live",
    "rtsp://admin:one/{}@10.0.0.5/live",
    "rtsp://admin:one@two/{}@10.0.0.5/live",
    "rtsp://admin:12/{}@10.0.0.5/live",
    "rtsp://one/{}@10.0.0.5/live",
    "rtsp://admin:one#{}@10.0.0.5/live",
    "rtsp://admin:one?{}@10.0.0.5/live",
    "rtsp://admin:one {}@10.0.0.5/live",
    "rtsp://admin:12 {}@10.0.0.5/live",
    "rtsp://admin:one'{}@10.0.0.5/live",
    "admin:{}@10.0.0.5/live",
    "//admin:{}@10.0.0.5/live",
    "ffmpeg:rtsp://admin:{}@10.0.0.5/live#video=h264",
]
PARAMETERS = [
    "http://cam/video.cgi?user=admin&pwd={}&channel=1",
    "http://cam/video.cgi?USER=Admin&PWD={}",
    "http://cam/videostream.cgi?loginuse=admin&loginpas={}",
    "http://cam/live?u=admin&p={}",
    "http://cam/live?pass%77ord={}&x=1",
    "http://cam/live;password={};x=1",
    "rtsp://10.0.0.5/user=admin&password={}&channel=1&stream=0.sdp",
    "rtsp://10.0.0.5:554/user=admin_password={}_channel=1_stream=0.sdp",
    "https://cam/stream.mjpg?token={}",
    "https://cam/stream.mjpg#access_token={}",
    "https://cam/live.m3u8?auth={}&t=3",
    "https://cam/live.m3u8?api_key={}",
    "https://cam/live.m3u8?key={}",
    "https://cam/live.m3u8?sessionid={}",
    "https://cam/live.m3u8?sv=2020&sig={}",
    "https://cam/live.m3u8?X-Amz-Security-Token={}&X-Amz-Expires=60",
    "https://cam/live.m3u8?hdnts=exp=1~hmac={}",
    "http://cam/snap.jpg?login=admin:{}&x=1",
    "http://cam/snap.jpg?adminpass={}",
    "http://cam/snap.jpg?pswd={}",
    "http://cam/snap.jpg?api={}",
    "srt://10.0.0.5:9000?passphrase={}&pbkeylen=16",
    "srt://10.0.0.5:9000?streamid=publish:cam:admin:{}",
    "srt://10.0.0.5:9000?streamid=#!::r=cam,u=admin,s={}",
    "rtspsrc location=rtsp://10.0.0.5/live user-id=admin user-pw={} ! decodebin",
]
PATHS = [
    "rtsps://192.168.1.1:7441/{}AbCdEfGh?enableSrtp",
    "rtmp://a.rtmp.youtube.com/live2/{}-abcd-efgh",
    "rtmp://live.twitch.tv/app/live_1_{}",
    "rtsps://stream.dropcam.com:443/sdm_live_stream/{}",
    "rtsp://10.0.0.5/0/admin:{}/main",
    "https://cam/hls/{}9vT4mZ8c/index.m3u8",
    "https://cam/live/token/{}/index.m3u8",
    "https://api.telegram.org/bot123:{}/getFile",
    "https://cam/live?x=eyJhbGciOiJI.eyJzdWIiOiIx.{}",
]
NESTED = [
    "http://go2rtc:1984/api/stream?src=rtsp://admin:{}@10.0.0.5/live",
    "http://proxy.local/?url=rtsp%3A%2F%2Fadmin%3A{}%4010.0.0.5%2Flive",
    "http://proxy.local/?url=rtsp%253A%252F%252Fadmin%253A{}%254010.0.0.5",
    "http://proxy.local/?url=http%3A%2F%2Fcam%2Fv%3Fuser%3Dadmin%26password%3D{}",
]
USERINFO_ODD = ["rtsp://admin:one\n{}@10.0.0.5/live", "rtsp://admin:{}\uff2010.0.0.5/live"]
SAID = [
    "http://cam/?user=admin&password[]={}",
    "https://cam/live?cred={}",
    "https://cam/live?code={}&x=1",
    "rtmp://10.0.0.5/live user=admin pass={}",
    'Authorization: Digest username="admin", response="{}"',
    "Cookie: session={}",
    "Set-Cookie: sid={}; Path=/",
    "X-Api-Key: {}",
    "x-auth-token: {}",
    "{{'password': '{}'}}",
    '{{"token": "{}", "fps": 5}}',
    '{{\\"token\\": \\"{}\\"}}',
    "password: {}",
    "camera password: {} is wrong",
    "password = {}",
    "ffmpeg --password {} -i x",
    "curl -u admin:{} http://10.0.0.5",
]
KINDS = [*USERINFO, *PARAMETERS, *PATHS, *NESTED]
TEXTS = [
    "{}",
    "can't open the video {!r}: nothing answers",
    "[tcp @ 0x5566] Connection to {} failed: timed out",
    '{{"source": "{}", "mail": "somebody@example.org"}}',
    "rtsp://10.0.0.5/one, {}",
]


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_url_shows_its_secret_wherever_it_stands(kind: str) -> None:
    for text in TEXTS:
        told = masked(text.format(kind.format(SECRET)))
        assert SECRET not in told
        assert "***" in told
        assert masked(told) == told


@pytest.mark.parametrize("kind", [*USERINFO_ODD, *SAID])
def test_nor_does_what_else_tells_of_one_by_its_form(kind: str) -> None:
    for text in ("{}", "said: {}", "{}\nand more"):
        told = masked(text.format(kind.format(SECRET)))
        assert SECRET not in told
        assert "***" in told
        assert masked(told) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"token": "a", "fps": 5}', '{"token": "***", "fps": 5}'),
        ("{'password': 'a b', 'x': 1}", "{'password': '***', 'x': 1}"),
        ("Cookie: session=a; x=b\r\nRange: x", "Cookie: ***\r\nRange: x"),
        ("curl -u admin:a http://10.0.0.5/", "curl -u admin:*** http://10.0.0.5/"),
        ("rtsp://admin:a@10.0.0.5:554/live?channel=1", "rtsp://admin:***@10.0.0.5:554/live?channel=1"),
        ("rtsp://a:b@10.0.0.5/1,rtsp://c:d@10.0.0.6/2", "rtsp://a:***@10.0.0.5/1,rtsp://c:***@10.0.0.6/2"),
        ("http://cam/v?user=a&pwd=b&channel=1", "http://cam/v?user=a&pwd=***&channel=1"),
        ('f("rtsp://a:b@10.0.0.5/1", token="two words")', 'f("rtsp://a:***@10.0.0.5/1", token=***)'),
        ("Authorization: Basic YTpi\r\nRange: x", "Authorization: ***\r\nRange: x"),
    ],
)
def test_all_the_rest_is_told(text: str, told: str) -> None:
    assert masked(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://10.0.0.5:554/Streaming/Channels/101",
        "rtsp://10.0.0.5/cam/realmonitor?channel=1&subtype=0&unicast=true&proto=Onvif",
        "http://cam.local:8080/video?fps=5&size=640x480&author=me&keyframe=2",
        "rtmp://10.0.0.5/live/cam1",
        "https://example.org/@somebody/clips",
        "http://10.0.0.5/video?mail=somebody@example.org",
        "can't open 'rtsp://cam:554/live': nothing [rtsp @ 0x5566] method DESCRIBE failed",
        "/data/somebody@example/key=3/walk.mp4",
        "give it a token=, or serve it on 127.0.0.1; in a browser, open /?token=… once",
        "max_queue_sizes=4, key=3, session=2",
        "fps: 29.9",
        "[ WARN:0@0.162] global cap.cpp:212 open VIDEOIO(FFMPEG)",
        "[ERROR:12@100.5] global",
        "walk.yaml:3: routines.camera.token: Input should be a valid string",
        "login(user: str, password: str = '') takes {'token': None}",
        "token = read_token(path)",
        "give --token or --token TOKEN; -u 1000:1000",
        "cookies: 3, tokens: 5, key: value, pass=2, compass: north, x-position: 7",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


MORE_UNITS = [
    "token",
    "token: ",
    'token:"',
    "password:\\",
    "cookie:",
    "x-a-",
    "--a-",
    " -u ",
    " -u=",
    "authorization:\n",
    'authorization="',
]


@pytest.mark.parametrize(
    "unit", ["a", "://", "?u=1&", "a:", "rtsp://a/", "%25", "password=", "rtsp://a:b/", " @", "A1b/", *MORE_UNITS]
)
def test_any_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    """What takes the square of it would take minutes, and the test's time would be up."""
    masked("://" + unit * (200_000 // len(unit)) + "://=@")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://admin:pa#ss@10.0.0.5/live", True),
        ("rtsp://admin:pa/ss@10.0.0.5/live", True),
        ("rtsp://admin:pa?ss@10.0.0.5/live", True),
        ("rtsp://admin:pa ss@10.0.0.5/live", True),
        ("rtsp://admin:pa%23ss@10.0.0.5/live", False),
        ("rtsp://10.0.0.5/live?mail=a@b", False),
        ("rtsp://10.0.0.5/live", False),
    ],
)
def test_a_password_that_ends_its_own_url_is_told_how_to_be_written(url: str, expected: bool) -> None:
    assert needs_escapes(url) == expected
    assert ("%23" in str(cannot_open(url))) == expected


# ---- what tells of URLs --------------------------------------------------------------------------

URL = f"http://cam/live?password={SECRET}"


def test_errors_keep_secrets() -> None:
    errors = [
        PipertError(URL),
        VideoError(URL, URL),
        RemoteRefusal(URL),
        PipeFailed([URL], {}),
        ConfigError([Fault("a.yaml", 1, "source", URL)]),
    ]
    for error in errors:
        for one in (error, pickle.loads(pickle.dumps(error))):
            assert (
                SECRET
                not in f"{one} {one!r} {getattr(one, 'causes', '')} {getattr(one, 'video', '')} {getattr(one, 'faults', '')}"
            )
    assert SECRET not in describe(ValueError(URL)) + shown(URL) + shown({"source": URL})
    assert SECRET not in describe(ValueError("x" * 1_000_000 + URL + "x" * 1_000_000))


def test_a_pipeline_file_that_does_not_fit_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"routines:\n  camera: {URL}\nflows:\n  f: {{routines: [camera], queue: '{URL}'}}\n")
    with pytest.raises(ConfigError) as caught:
        PipelineFile(path)
    assert SECRET not in str(caught.value)


def test_standard_error_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    say(URL)
    assert heard.getvalue() == "http://cam/live?password=***\n"


def test_a_video_that_can_not_be_opened_keeps_them() -> None:
    error = cannot_open(URL)
    assert SECRET not in str(error) + error.video
    with pytest.raises(ValueError, match=r"password=\*\*\*"):
        VideoSource(URL, loop=True)


PIPE = """
import logging, pathlib, sys
from pipert_shm import APIWrapper, DestinationRoutine, Pipe, PipeFailed, SourceRoutine

class Camera(SourceRoutine):
    def setup(self):
        self._logger.info("opening %s", "{url}", extra={{"note": "{url}"}})

    def main_logic(self):
        raise ValueError("lost {url}")

class End(DestinationRoutine):
    def main_logic(self, data): ...

class Handler(logging.Handler):
    def emit(self, record):
        print("record", record.getMessage(), record.exc_text, vars(record).get("note"), flush=True)

logger = logging.getLogger("pipe")
logger.setLevel("DEBUG")
logger.addHandler(Handler())
pipe = Pipe(logger=logger, on_failure="stop")
camera = Camera("camera")
camera.max_errors = 2
pipe.create_flow("flow", True, camera, End("end"), restart="never")
pipe.build()
pipe.notify_event("start")
try:
    pipe.join()
except PipeFailed as failure:
    print("failed", failure)
print(pipe.statistics(), pipe.get_pipe_structure())
"""


def test_a_pipe_tells_none_in_logs_tracebacks_errors_statistics_and_structure(run_script: RunScript) -> None:
    end = run_script(PIPE.format(url=URL))
    assert end.returncode == 0, end.stderr
    told = "\n".join(end.lines)
    assert "opening http://cam/live?password=***" in told
    assert "ValueError: lost http://cam/live?password=***" in told
    assert "Traceback" in told
    assert SECRET not in told + end.stderr
