"""What errors say, however odd, long or far away they are."""

from __future__ import annotations

import logging
import pickle
from typing import Any, NoReturn

import pytest

from pipert_shm import errors
from pipert_shm.errors import LONGEST_TEXT, Fault, PipertError, describe, shortened, shown


class Odd(Exception):
    """Its `__str__` does what it was told to."""

    def __init__(self, failure: Any) -> None:
        super().__init__()
        self.failure = failure

    def __str__(self) -> str:
        if isinstance(self.failure, BaseException):
            raise self.failure
        return self.failure  # type: ignore[no-any-return]


class Text(str):
    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not to be sent")


@pytest.mark.parametrize("failure", [RuntimeError(), AttributeError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_an_exception_whose_text_raises(failure: BaseException) -> None:
    assert describe(Odd(failure)) == f"Odd: (its text can't be told: its __str__ raises {type(failure).__name__})"


@pytest.mark.parametrize("nonsense", [None, 3, b"bytes"])
def test_an_exception_whose_text_is_none(nonsense: object) -> None:
    assert describe(Odd(nonsense)) == "Odd: (its text can't be told: its __str__ raises TypeError)"


def test_a_text_is_one_that_can_be_sent_and_written() -> None:
    told = describe(Odd(Text("plain \ud800")))
    assert told == "Odd: plain \\ud800"
    assert type(told) is str
    pickle.dumps(told)
    assert describe(Odd("")) == "Odd"


def test_a_long_text_begins_and_ends_as_it_did() -> None:
    told = describe(ValueError("the model does not fit: " + "x" * 5_000_000 + " at layer 7"))
    assert len(told) <= LONGEST_TEXT + len("ValueError: ")
    assert told.startswith("ValueError: the model does not fit: xxx")
    assert told.endswith("xxx at layer 7")
    assert "characters left out" in told


@pytest.mark.parametrize("length", [0, 99, 100, 101, 150, 100_000])
@pytest.mark.parametrize("limit", [100, 101, 1000])
def test_shortened_adds_up(length: int, limit: int) -> None:
    text = "".join(chr(ord("a") + n % 26) for n in range(length))
    short = shortened(text, limit)
    assert len(short) <= limit
    if length <= limit:
        assert short == text
        return
    beginning, rest = short.split(" [… ")
    left_out, end = rest.split(" characters left out …] ")
    assert text.startswith(beginning)
    assert text.endswith(end)
    assert len(beginning) + len(end) + int(left_out.replace(",", "")) == length


class Unshowable:
    def __repr__(self) -> str:
        raise SystemExit(1)


def test_values_that_are_shown() -> None:
    assert shown([1]) == "[1]"
    assert shown(Unshowable()) == "something of type Unshowable"
    assert shown(10**5000) == "something of type int"
    assert len(shown("x" * 5000)) <= 200


ERRORS = [
    PipertError("text"),
    errors.EndOfStream(),
    errors.RoutineError("camera", "is not fit"),
    errors.UniqueRoutineName("camera", "twice"),
    errors.WiresValidation("a cycle"),
    errors.UnknownEvent("zoom", ["start", "stop"]),
    errors.UnknownTarget("routine", "camra", ["camera"]),
    errors.PipeStateError("ended"),
    errors.SharedMemoryFull("a ring", 100, 10, 16 << 20),
    errors.NoFreeSlot("camera", 3, {"screen": 3}),
    errors.PayloadError("camera", "data['lock']", "it is a lock"),
    errors.PayloadError("", "'image'", "too large", size=2000, limit=1000, what="the event 'zoom'"),
    errors.FlowDied("camera", -9),
    errors.PipeFailed(["setup failed"], {"camera": 1}),
    errors.ConfigError([Fault("a.yaml", 1, "wires", "wrong")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_cross_processes_whole(error: PipertError) -> None:
    error.__cause__ = ValueError("stays here")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_payload_errors_say_whose_they_are() -> None:
    returned = errors.PayloadError("camera", "data['lock']", "it is a lock")
    assert str(returned) == "what routine 'camera' returned can't be sent to another process: data['lock']: it is a lock"
    carried = errors.PayloadError("", "'image'", "too large", what="the event 'zoom'")
    assert str(carried) == "the event 'zoom' can't be sent to another process: 'image': too large"


def test_logging_such_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise Odd(RuntimeError())
    except Odd as error:
        logging.getLogger("test").error("%s", describe(error), exc_info=error)
    assert "its text can't be told" in caplog.text


@pytest.mark.parametrize("before", range(80, 700, 7))
def test_no_secret_is_torn_where_a_text_is_shortened(before: int) -> None:
    url = "rtsp://admin:Xy7kQ2pWn4@10.0.0.5/live "
    for text in (
        "z" * before + " " + url + "z" * 150,
        "z" * 150 + " " + url + "z" * before,
        ("http://h/?pwd=" + "x" * 30 + " ") * 9 + url * before,
    ):
        short = shortened(text, 120)
        assert "Xy7" not in short
        assert "Wn4" not in short
        assert len(short) <= 120
