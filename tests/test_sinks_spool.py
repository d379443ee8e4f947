"""What waits on the disk: it outlives its process, stays in bounds, and what is damaged of it costs only itself."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import Letter, SinkError
from pipert_shm.sinks.home_assistant import HomeAssistant
from pipert_shm.sinks.settings import SpoolSettings, read_headers, read_secret
from pipert_shm.sinks.spool import Spool

LOGGER = logging.getLogger("spool")


def letter(number: int, size: int = 10) -> Letter:
    return Letter(f"k{number}", "camera", "enter", {"number": number, "text": "x" * size})


@contextmanager
def opened(path: Path, **settings: Any) -> Iterator[Spool]:
    spool = Spool(SpoolSettings.of({"path": path, **settings}, ""), LOGGER)
    try:
        yield spool
    finally:
        spool.close()


def numbers(spool: Spool, most: int = 10_000) -> list[int]:
    """What can be read of it, to the end."""
    found: list[int] = []
    while letters := spool.read(most):
        found += [letter.body["number"] for letter in letters]
    return found


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*.spool"))


def test_what_was_not_acknowledged_is_there_after_a_new_start_and_in_order(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append([letter(0), letter(1), letter(2)])
        spool.append([letter(3)])
        first = spool.read(2)
        assert [one.key for one in first] == ["k0", "k1"]
        assert spool.waiting == 4
        spool.acknowledge(first[0].number)
    with opened(tmp_path) as spool:
        assert spool.waiting == 3
        spool.append([letter(4)])
        assert numbers(spool) == [1, 2, 3, 4]
        spool.acknowledge(5)
        assert (spool.waiting, spool.take_damaged()) == (0, 0)
    assert files(tmp_path) == []
    with opened(tmp_path) as spool:  # numbers go on, or a note of what was delivered would be of others
        spool.append([letter(5)])
        assert spool.read(9)[0].number == 6


def test_nobody_else_may_have_it_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipert_shm.sinks.spool.LOCK_PATIENCE", 0.1)
    with opened(tmp_path), pytest.raises(SinkError, match=f"in use by process {os.getpid()}; give each"), opened(tmp_path):
        pass
    with opened(tmp_path) as spool:
        spool.append([letter(0)])


def test_a_full_spool_drops_what_its_settings_say_and_stays_in_bounds(tmp_path: Path) -> None:
    limit = 1 << 16
    with opened(tmp_path / "bytes", max_bytes=limit) as spool:
        dropped = 0
        for number in range(1000):
            dropped += spool.append([letter(number, 200)])[0]
            assert sum(file.stat().st_size for file in files(tmp_path / "bytes")) <= limit
        assert dropped + spool.waiting == 1000
        assert numbers(spool) == list(range(dropped, 1000))
        assert spool.waiting > 150
        with pytest.raises(SinkError, match="takes 8,192 bytes at most"):
            spool.append([letter(0), letter(1, 9000)])
        assert numbers(spool) == []
    with opened(tmp_path / "messages", max_messages=10) as spool:
        assert spool.append([letter(number) for number in range(8)]) == (0, 0)
        read = spool.read(2)
        assert spool.append([letter(number) for number in range(8, 13)]) == (3, 0)
        assert [spool.is_dropped(one) for one in read] == [True, True]
        assert numbers(spool) == list(range(3, 13))
    with opened(tmp_path / "newest", max_messages=10, when_full="drop_newest") as spool:
        assert spool.append([letter(number) for number in range(8)]) == (0, 0)
        assert spool.append([letter(number) for number in range(8, 13)]) == (0, 5)
        assert numbers(spool) == list(range(8))


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda text: text.replace(b'"number": 7', b'"number": 9'), {7}),
        (lambda text: text.replace(b"\n", b"", 1), {0, 1}),
        (lambda text: text[:40] + os.urandom(100).replace(b"\n", b" ") + text[40:], {0}),
        (lambda text: text[:-10], {9}),
        (lambda text: text[:300] + b"\0" * (len(text) - 300), set(range(2, 10))),
        (lambda text: b"\0" * 3_000_000 + text, {0}),
        (lambda text: b"", set(range(10))),
    ],
    ids=["a bit", "a line's end", "something between", "cut", "zeros at the end", "zeros before", "all of the file"],
)
def test_what_is_damaged_costs_itself_and_is_counted(tmp_path: Path, damage: Any, lost: set[int]) -> None:
    with opened(tmp_path, max_bytes=1 << 23) as spool:
        spool.append([letter(number) for number in range(10)])
    with opened(tmp_path, max_bytes=1 << 23) as spool:
        spool.append([letter(number) for number in range(10, 20)])
    (file, _) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with opened(tmp_path, max_bytes=1 << 23) as spool:
        spool.append([letter(20)])
        assert set(numbers(spool)) == set(range(21)) - lost
        if file.exists():
            assert spool.take_damaged() == len(lost)
        assert spool.waiting == (21 if file.exists() else 11)


def test_a_last_line_that_is_torn_and_a_note_that_is_damaged(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append([letter(number) for number in range(3)])
        spool.acknowledge(1)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    with opened(tmp_path) as spool:
        spool.append([letter(3)])
        assert numbers(spool) == [1, 3]
        assert spool.take_damaged() == 1
    (tmp_path / "acknowledged").write_bytes(b"rubbish\n")
    with opened(tmp_path) as spool:  # sent again rather than lost
        assert numbers(spool) == [0, 1, 3]


def test_a_full_disk_is_an_error_that_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fills_up(fd: int, data: bytes) -> None:
        os.write(fd, data[:20])
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as spool:
        spool.append([letter(0)])
        with monkeypatch.context() as patch:
            patch.setattr("pipert_shm.sinks.spool.write_all", fills_up)
            with pytest.raises(SinkError, match="No space left on device; check that the disk has room"):
                spool.append([letter(1)])
        spool.append([letter(2)])
        assert numbers(spool) == [0, 2]
        assert spool.take_damaged() == 0

        def has_no_room_beside(fd: int, data: bytes) -> None:
            if files(tmp_path) == before:
                raise OSError(28, "No space left on device")
            os.write(fd, data)

        before = files(tmp_path)
        spool.acknowledge(2)  # the disk is full of what was delivered
        with monkeypatch.context() as patch:
            patch.setattr("pipert_shm.sinks.spool.write_all", has_no_room_beside)
            spool.append([letter(3)])
        assert numbers(spool) == [3]
        assert (spool.take_damaged(), spool.waiting) == (0, 1)


def test_a_step_of_the_clock_makes_no_letter_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as spool:
        spool.append([letter(0)])
        monkeypatch.setattr(time, "time", lambda: 0.0)
        spool.append([letter(1)])
        first, second = spool.read(2)
        assert 0 <= second.time - first.time < 10
        assert -0.001 <= spool.now - first.time < 10  # it is kept to the millisecond


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"max_byte": 1}, r"spool: there is no setting 'max_byte'; .*did you mean 'max_bytes'\?"),
        ({"max_bytes": 1000}, "spool: max_bytes must be a whole number of at least 65536"),
        ({"max_messages": 0}, "spool: max_messages must be"),
        ({"max_age": -1}, "spool: max_age must be seconds"),
        ({"when_full": "block"}, "unknown spool: when_full 'block'"),
        ({"path": 3}, "spool: path is the path of a directory, not 3"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        SpoolSettings.of(given, "sink")


def test_secrets_stand_where_they_are_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("one\n")
    monkeypatch.setenv("SINK_SECRET", "two")
    given: list[Any] = [{"file": str(tmp_path / "secret")}, {"env": "SINK_SECRET"}, "three", None]
    assert [read_secret("password", secret) for secret in given] == ["one", "two", "three", None]
    with pytest.raises(ValueError, match="password: the environment variable SINK_NOTHING is not set"):
        read_secret("password", {"env": "SINK_NOTHING"})


def test_more_at_once_than_a_spool_takes_stays_in_bounds_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=1 << 16, max_messages=150) as spool:
        assert spool.append([letter(number) for number in range(1, 1001)]) == (850, 0)
        assert spool.waiting == 150
    with opened(tmp_path / "bytes", max_bytes=1 << 16) as spool:
        dropped, _ = spool.append([letter(number, 2000) for number in range(1, 101)])
        assert sum(path.stat().st_size for path in files(tmp_path / "bytes")) <= 1 << 16
        assert [each.body for each in spool.read(1000)][-1] == letter(100, 2000).body
        assert 0 < dropped < 100
        assert spool.append([letter(101)])[1] == 0


def test_a_value_that_no_header_can_have_is_told_at_the_start_without_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "Bearer secret\n")
    assert read_headers({"Authorization": {"env": "TOKEN"}, "X-Empty": ""}) == {"Authorization": "Bearer secret", "X-Empty": ""}
    for value in (" secret", "sec\rret", "sécret"):
        with pytest.raises(ValueError, match="headers: X-Key: its value has a blank at an end, a line's end, or") as told:
            read_headers({"X-Key": value})
        assert value not in str(told.value)


def test_a_time_that_is_no_number_of_seconds_is_the_spools() -> None:
    for given in (10**400, -1, float("nan"), True, "1"):
        assert Letter("1", "yard", "data", {"time": given, "capture_time": 7}, time=3.0).captured == 7.0
        assert Letter("1", "yard", "data", {"time": given}, time=3.0).captured == 3.0


def test_home_assistant_takes_no_two_rules_for_one() -> None:
    entities = HomeAssistant("homeassistant", "pipert")
    told = [
        json.loads(entities.of(Letter("1", camera, "dwell", {"rule": rule, "phase": "start", "id": "1"}))[0].payload)
        for camera, rule in (("yard", "gate_in"), ("yard_gate", "in"))
    ]
    assert told[0]["unique_id"] != told[1]["unique_id"]
