"""Every code block of the documentation, run as `pages` says."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import pages
from blocks import Block, blocks_of
from pages import ROOT, RUN, SHOWN

EVERY_FILE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]
PAGES = [str(path.relative_to(ROOT)) for path in EVERY_FILE if "_build" not in path.parts]


def blocks(page: str) -> list[Block]:
    return list(blocks_of((ROOT / page).read_text()))


def runs(block: Block) -> bool:
    return block.language in RUN and block.reason is None


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(runs, blocks(page)))])
def test_the_blocks_of_a_page_run(page: str) -> None:
    end = subprocess.run([sys.executable, pages.__file__, ROOT / page], capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout + end.stderr


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_each_block_is(page: str) -> None:
    for block in blocks(page):
        where, language = f"{page}:{block.line}", block.language
        assert language in RUN + SHOWN or language.startswith("{"), f"{where}: {language!r} is none of {RUN + SHOWN}"
        assert block.reason != "", f"{where}: <!-- not run: … --> needs a reason"
        assert language != "console" or block.text.startswith("$ "), f"{where}: it needs to begin with a command"
        assert language != "yaml" or block.file or block.reason, f"{where}: it needs a first line such as # pipeline.yaml"


@pytest.mark.parametrize("page", PAGES)
def test_no_prompt_stands_where_people_paste(page: str) -> None:
    assert not re.findall(r"^ *>>>.*", (ROOT / page).read_text(), re.MULTILINE)
