"""YAML files that are not meant well: refused with a line, in bounded time and memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pipert_shm.errors import ConfigError
from pipert_shm.pipeline_file.reader import MOST_BYTES, MOST_LEVELS, MOST_VALUES, Where, YamlFile, listed


def doubling(first: str, again: str, times: int = 40) -> str:
    """Each line stands for the one before, twice."""
    return f"a0: &a0 {first}\n" + "".join(f"a{n}: &a{n} {again.format(f'*a{n - 1}')}\n" for n in range(1, times))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (doubling("[x, x]", "[{0}, {0}]"), 15, f"its aliases make more than {MOST_VALUES:,} values of it"),
        (doubling("{x: 1}", "{{l: {0}, r: {0}}}"), 16, "its aliases make more than"),
        (doubling("{x: 1}", "{{<<: [{0}, {0}]}}"), 15, "its aliases make more than"),
        (doubling("[x]", "[{0}]", 150), MOST_LEVELS, f"its aliases nest it more than {MOST_LEVELS} levels deep"),
        ("a: 1\nroutines: &all\n  camera: *all\n", 2, "what this anchor names has an alias of itself in it"),
        ("a: &a [1, [2, *a]]", 1, "an alias of itself"),
        ("a: &a {<<: *a, b: 1}", 1, "an alias of itself"),
        ("a:\n  " + "[" * 300 + "]" * 300, 2, f"nested more than {MOST_LEVELS} levels deep"),
        ("a:\n  " + "- " * 300 + "a", 2, "nested more than"),
        ("a: 1\nb: " + "1" * 5000, 2, "no value can be made of this: Exceeds the limit"),
        ("a: 1\nb: 2026-02-31", 2, "no value can be made of this: day "),
        ("a: 1\n? [b]\n: c", 2, "a key must be a text"),
        ("a: b\n---\nc: d", 2, "this is not YAML: expected a single document"),
        ("a: *b", 1, "this is not YAML: found undefined alias"),
        ("#" * MOST_BYTES + "\na: b", 0, f"it is larger than {MOST_BYTES:,} bytes"),
    ],
)
def test_a_hostile_file_is_a_fault_with_a_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as refused:
        YamlFile(path)
    (fault,) = refused.value.faults
    assert (fault.line, fault.file) == (line, str(path))
    assert message in fault.message
    assert len(fault.message) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kB"


def test_reading_ends_at_the_first_value_that_is_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipert_shm.pipeline_file.reader.MOST_VALUES", 100)
    path = tmp_path / "pipeline.yaml"
    path.write_text("a: 1\nb: [" + "1,\n" * 98 + "}")  # and so does not come to what is no YAML
    with pytest.raises(ConfigError, match=r"yaml:97: these are more than 100 values; keep long lists in files of their own"):
        YamlFile(path)


def test_a_file_without_an_end_is_read_to_its_limit_only() -> None:
    with pytest.raises(ConfigError, match="it is larger than"):
        YamlFile(Path("/dev/zero"))


def test_a_field_has_the_line_where_it_is_written_in_merged_and_aliased_parts_too(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("base: &base\n  x: 1\n  y: 2\na:\n  <<: *base\n  y: 3\nb: *base\nc:\n  0: d\nd:\n  - 1\n  - {e: 2}\n")
    file = YamlFile(path)
    assert file.data["a"] == {"x": 1, "y": 3}
    fields: list[Where] = [("a", "x"), ("a", "y"), ("b", "y"), ("c", 0), ("d", 1, "e"), ("d", 1, "lacking"), ("lacking",)]
    assert [file.fault(field, "").line for field in fields] == [2, 6, 3, 9, 12, 12, 1]
    assert file.fault(("d", 1, "e"), "").field == "d[1].e"


def test_names_are_listed_with_the_one_that_was_meant() -> None:
    assert listed("there are", ["a", "b"], "camera") == "there are: a, b"
    assert listed("it takes", [], "camera") == "it takes none"
    many = [f"camera{number}" for number in range(5000)]
    assert len(listed("there are", many, "camera")) < 420, "and no time is spent on comparing them"
