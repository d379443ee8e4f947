"""What libraries write to standard error from C, in a flow: it comes as log records, collapsed and counted."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import RunScript
from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, Routine, SourceRoutine
from routines import Sink, chain


class Speaks(SourceRoutine):
    """Does this once, then ends."""

    def __init__(self, name: str, speak: Callable[[], object]) -> None:
        super().__init__(name)
        self.speak = speak

    def main_logic(self) -> None:
        self.speak()
        raise EndOfStream


def heard(
    caplog: pytest.LogCaptureFixture, speak: Callable[[], object], *others: Routine, **options: Any
) -> list[tuple[str, str]]:
    """The logger and the text of each record of a pipe with such a routine."""
    with caplog.at_level("INFO"), Pipe(policy="block") as pipe:
        if others:
            pipe.create_flow("flow", True, Speaks("camera", speak), *others, **options)
        else:
            chain(pipe, Speaks("camera", speak), Sink("sink"), **options)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    return [(record.name, record.getMessage()) for record in caplog.records if "standard error" in record.getMessage()]


def write(*lines: bytes) -> Callable[[], object]:
    return lambda: [os.write(2, line) for line in lines]


def write_apart(*parts: bytes) -> Callable[[], object]:
    """Each is written when the launcher has read what came before."""

    def write_them() -> None:
        for part in parts:
            os.write(2, part)
            while any(fcntl.ioctl(2, termios.FIONREAD, bytes(4))):
                time.sleep(0.001)

    return write_them


SAID = "routine 'camera', on standard error"


def test_a_line_is_a_record_of_the_routine(caplog: pytest.LogCaptureFixture) -> None:
    assert heard(caplog, write(b"connection ", b"refused\nno end")) == [
        ("Pipe.camera.camera", f"{SAID}: connection refused"),
        ("Pipe.camera.camera", f"{SAID}: no end"),
    ]


def test_of_a_flow_with_several_routines_it_is_the_flow_s(caplog: pytest.LogCaptureFixture) -> None:
    assert heard(caplog, write(b"a\n"), Sink("sink")) == [("Pipe.flow", "flow 'flow', on standard error: a")]


def test_what_children_write_comes_too(caplog: pytest.LogCaptureFixture) -> None:
    speak = lambda: subprocess.run(["sh", "-c", "echo from a child >&2"], check=True)  # noqa: E731
    assert heard(caplog, speak) == [("Pipe.camera.camera", f"{SAID}: from a child")]


def test_lines_that_differ_in_numbers_are_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    lines = [b"[h264 @ 0x55d%d] error while decoding MB %d 3\n" % (number, number) for number in range(500)]
    assert [text for _, text in heard(caplog, write(*lines))] == [
        f"{SAID}: [h264 @ 0x55d0] error while decoding MB 0 3",
        f"{SAID}, 499 times more: [h264 @ 0x55d499] error while decoding MB 499 3",
    ]


@pytest.mark.parametrize("address", ["tcp://10.0.0.%d:554", "10.0.0.%d", "rtsp://camera%d.local/live"])
def test_lines_about_different_addresses_are_told_each(caplog: pytest.LogCaptureFixture, address: str) -> None:
    lines = [f"connection to {address % (number % 3)} failed {number}\n".encode() for number in range(6)]
    assert [text for _, text in heard(caplog, write(*lines))] == [
        *(f"{SAID}: connection to {address % number} failed {number}" for number in range(3)),
        *(f"{SAID}, 1 times more: connection to {address % number} failed {number + 3}" for number in range(3)),
    ]


@pytest.mark.timeout(30)
def test_of_a_flood_a_few_lines_are_told_and_nothing_waits(caplog: pytest.LogCaptureFixture) -> None:
    lines = ["".join(chr(97 + number // 26**place % 26) for place in range(4)).encode() + b"\n" for number in range(40_000)]

    def flood() -> None:
        os.kill(os.getppid(), signal.SIGSTOP)  # the launcher, which reads
        for line in lines:  # far more than a pipe holds
            try:
                os.write(2, line)
            except BlockingIOError:
                continue
        os.kill(os.getppid(), signal.SIGCONT)

    texts = [text for _, text in heard(caplog, flood)]
    assert texts[0] == f"{SAID}: aaaa"
    assert len(texts) == 11
    assert texts[-1].startswith(f"{SAID}: ")
    assert texts[-1].endswith(" lines more")


def test_control_characters_do_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert heard(caplog, write(b"\x1b[31mred\x1b[0m \xff\x07 end\r\n")) == [("Pipe.camera.camera", f"{SAID}: red \ufffd  end")]


SECRET = "Xy7kQ2pWn4"
URL = f"rtsp://admin:{SECRET}@10.0.0.5/live".encode()


@pytest.mark.parametrize("before", [1970, 1980, 7970, 7980])
def test_a_secret_is_masked_before_a_long_line_is_cut(caplog: pytest.LogCaptureFixture, before: int) -> None:
    line = b"z" * before + b" " + URL + b" end\n"
    for lines in ((line,), (line[: before + 24], line[before + 24 :])):
        texts = [text for _, text in heard(caplog, write_apart(*lines))]
        assert len(texts) == 1
        assert texts[0].startswith(f"{SAID}: zzzz")
        assert SECRET[:4] not in texts[0]
        caplog.clear()


def test_of_a_line_that_goes_on_the_beginning_is_told_and_then_the_next_line(caplog: pytest.LogCaptureFixture) -> None:
    parts = [b"z" * 7990 + b" " + URL[:18], URL[18:], b"more" * 5000, b" end\nnext\n"]
    texts = [text for _, text in heard(caplog, write_apart(*parts))]
    assert texts == [f"{SAID}: {'z' * 2000}", f"{SAID}: next"]


def test_last_words_of_a_child_end_with_its_stacks(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [b"Fatal Python error: Aborted " + URL, b"", b"Current thread 0x1 (most recent call first):", b'  File "a\x1b[2J"']
    heard_lines = heard(caplog, write(*(line + b"\n" for line in lines), URL + b" failed\n", b"  late\n"))
    assert [text for _, text in heard_lines] == [f"{SAID}: rtsp://admin:***@10.0.0.5/live failed", f"{SAID}: late"]
    told = capfd.readouterr().err
    assert "Fatal Python error: Aborted rtsp://admin:***@10.0.0.5/live\n" in told
    assert 'Current thread 0x1 (most recent call first):\n  File "a"\n' in told
    assert "late" not in told
    assert SECRET not in told


def test_a_crash_does_not_lose_the_last_words(caplog: pytest.LogCaptureFixture) -> None:
    def crash() -> None:
        os.write(2, b"corrupted size vs. prev_size")
        faulthandler.disable()  # which would fill the output of the tests
        signal.raise_signal(signal.SIGSEGV)

    with Pipe(policy="block") as pipe:
        chain(pipe, Speaks("camera", crash), Sink("sink"), restart="never")
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        with pytest.raises(Exception, match="signal 11"):
            pipe.join()
    texts = [record.getMessage() for record in caplog.records]
    assert texts.index(f"{SAID}: corrupted size vs. prev_size") < texts.index(
        "flow 'camera' was killed by signal 11; it is not restarted"
    )


@pytest.mark.parametrize("option", [(), ("-u",)])
def test_what_python_writes_stays_where_it_was(run_script: RunScript, option: tuple[str, ...]) -> None:
    """Tracebacks, log handlers that hold on to the stream, and what faulthandler says of a crash."""
    end = run_script(
        """
        import faulthandler, logging, os, sys, traceback
        faulthandler.enable()
        own = logging.StreamHandler()
        logging.getLogger("own").addHandler(own)
        from pipert_shm import Pipe, SourceRoutine, DestinationRoutine, Wire

        class Camera(SourceRoutine):
            def main_logic(self):
                logging.getLogger("own").error("by a handler")
                print("by print", file=sys.stderr)
                try:
                    1 / 0
                except ZeroDivisionError:
                    traceback.print_exc()
                os.abort()

        class Screen(DestinationRoutine):
            def main_logic(self, data):
                pass

        logging.getLogger("Pipe").addHandler(logging.NullHandler())
        logging.getLogger("Pipe").propagate = False
        camera, screen = Camera("camera"), Screen("screen")
        pipe = Pipe()
        pipe.create_flow("a", False, camera, restart="never")
        pipe.create_flow("b", False, screen)
        pipe.link(Wire(camera, screen))
        pipe.build()
        pipe.notify_event("start")
        try:
            pipe.join()
        except Exception:
            print("join has raised")
        """,
        wrap=("sh", "-c", f'shift; exec "{sys.executable}" {" ".join(option)} "$@"', "sh"),
    )
    assert end.stdout == "join has raised\n", end.stderr
    for line in ("by a handler", "by print", "ZeroDivisionError: division by zero", "Fatal Python error: Aborted"):
        assert end.stderr.count(line) == 1, end.stderr
