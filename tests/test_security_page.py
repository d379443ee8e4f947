"""The page on security promises only what a test holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_promise_names_a_test_that_there_is() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ") and not row.startswith(("| Promise ", "| ---"))]
    assert len(rows) >= 12
    for row in rows:
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(), test
