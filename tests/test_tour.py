"""The pages on the internals name only files, and names in them, that exist.

Code spans of docs/architecture.md, docs/reliability.md and docs/glossary.md are looked at:

- A path, such as `csrc/send.c` or `flow/runner.py`, stands below the root of the repository, or below pipert_shm/.
- After `path`: come names that are defined in that file, or, if the path is a folder, in a file of that folder.
- `Class.name`, `module.name`, `call()` and `pshm_name` are defined somewhere.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipert_shm"
PAGES = ("architecture.md", "reliability.md", "glossary.md")

PATH = r"(?:[\w.-]+/)*[\w-]+\.(?:py|c|h|pml|md|rst|toml|json|txt)|(?:[\w-]+/)+"
NAMED_IN = re.compile(rf"`({PATH})`: ((?:`(?!(?:{PATH})`)[^`]+`(?:, | and )?)+)")
# other projects' names, and Python's own
FOREIGN = {"OSError", "np", "numpy", "os", "sys", "torch"}


def spans_of(page: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def place_of(path: str) -> Path | None:
    found = [base / path for base in (ROOT, PACKAGE) if (base / path).exists()]
    return found[0] if found else None


@cache
def text_of(place: Path) -> str:
    files = [place] if place.is_file() else sorted(file for kind in ("*.py", "*.[ch]") for file in place.rglob(kind))
    return "\n".join(file.read_text() for file in files)


@cache
def python() -> str:
    return text_of(PACKAGE)


@cache
def lines_of(text: str) -> dict[str, list[str]]:
    """The lines in which a word stands, by word."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        for word in set(re.findall(r"\w+", line)):
            found.setdefault(word, []).append(line)
    return found


def defines(text: str, name: str) -> bool:
    """Whether a source text defines a function, a class, a method, a constant, an attribute, or a C struct or enum."""
    first, _, rest = name.removesuffix("()").partition(".")
    if rest:
        parts = re.split(rf"^class {first}\b", text, flags=re.MULTILINE)[1:] if first in lines_of(text) else []
        return any(defines(re.split(r"^\S", part.split("\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0], rest) for part in parts)
    in_python = rf"^ *(?:async )?(?:def|class) {first}\b|^ *(?:self\.)?{first}(?:: [^=\n]+)?(?: =|$)"
    in_c = rf"^(?!\s|/).*\b{first}\(|^#define {first}\b|\b(?:struct|enum) {first} {{"
    member = rf"^ +{first}\b.*,|^ +[\w ]+[ *]{first}(?:\[.*\])?;"
    pattern = re.compile(f"{in_python}|{in_c}|{member}")
    return any(pattern.search(line) for line in lines_of(text).get(first, ()))


def is_ours(span: str) -> bool:
    """Whether the span is a name which `exists` can judge."""
    first = re.split(r"[.(]", span)[0]
    if first in FOREIGN or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)?(\(\))?", span):
        return False
    return span.startswith("pshm_") or span.endswith("()") or "." in span or re.match(r"[A-Z]\w*[a-z]", span) is not None


def exists(name: str) -> bool:
    first, _, rest = name.removesuffix("()").partition(".")
    if name.startswith("pshm_"):
        return all(re.search(rf"\b{word}\b", text_of(ROOT / "csrc")) for word in (first, rest) if word)
    if rest and first.islower():
        places = [*PACKAGE.rglob(f"{first}.py"), *PACKAGE.glob(f"{first}/")]
        return any(defines(text_of(place), rest) for place in places)
    return defines(python(), name)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_exists(page: str) -> None:
    paths = [span.split("::")[0] for span in spans_of(page)]
    named = [path for path in paths if re.fullmatch(PATH, path)]
    assert len(named) > 20
    assert [path for path in named if place_of(path) is None] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_is_named_with_names_has_them(page: str) -> None:
    missing = []
    for path, names in NAMED_IN.findall((ROOT / "docs" / page).read_text()):
        place = place_of(path)
        missing += [
            (path, name) for name in re.findall(r"`([^`]+)`", names) if place is None or not defines(text_of(place), name)
        ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_name_is_defined_somewhere(page: str) -> None:
    names = [span for span in spans_of(page) if is_ours(span) and not re.fullmatch(PATH, span)]
    assert len(names) > 5
    assert sorted({name for name in names if not exists(name)}) == []


def test_the_table_says_for_everything_where_to_go() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().split("## To change X, go to Y\n\n")[1].split("\n\n")[0]
    rows = [row.strip("|").split(" | ") for row in table.splitlines()[2:] if "| **" not in row]
    assert len(rows) > 30
    assert [what for what, where in rows if not re.search(rf"`(?:{PATH})`", where)] == []
