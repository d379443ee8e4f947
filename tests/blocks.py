"""The code blocks of a page in Markdown, and what a console block says. `pages` tells what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FENCE = re.compile(r"^( *)(`{3,})([^\s`]*)[^`]*$")
FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)$")
NOT_RUN = re.compile(r"<!-- not run: *(.*?) *-->")


@dataclass(frozen=True)
class Block:
    """A fenced block: its line on the page, its language, the line above it, and its text."""

    line: int
    language: str
    comment: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it is written to, if it says so."""
        named = FILE_NAME.match(self.text.split("\n", 1)[0])
        return named[1] if named and self.language != "console" else None

    @property
    def reason(self) -> str | None:
        """Why it is not run, where it says so."""
        told = NOT_RUN.fullmatch(self.comment)
        return told[1] if told else None


def blocks_of(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        number += 1
        if fence is None:
            continue
        indent, marks, language = fence.groups()
        began = number
        while number < len(lines) and lines[number].strip() != marks:
            number += 1
        inside = "\n".join(line.removeprefix(indent) for line in lines[began:number])
        yield Block(began, language, lines[began - 2].strip() if began > 1 else "", inside)
        number += 1


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that follow it."""
    commands: list[tuple[str, list[str]]] = []
    lines = iter(text.rstrip().split("\n"))
    for line in lines:
        if not line.startswith("$ "):
            commands[-1][1].append(line)
            continue
        command = line[2:]
        while command.endswith("\\"):
            command += "\n" + next(lines)
        commands.append((command, []))
    return commands


def changed(text: str, diff: str) -> str:
    """A file's text, with the lines of a diff that begin with `-` replaced by those that begin with `+`.

    :raises ValueError: when the file does not have exactly one such place.
    """
    lines = diff.split("\n")
    old, new = ("".join(line[1:] + "\n" for line in lines if not line.startswith(other)) for other in "+-")
    if text.count(old) != 1:
        raise ValueError(f"the file has {text.count(old)} times, not once:\n{old}")
    return text.replace(old, new)


def pattern_of(lines: list[str], decimals_vary: bool = False) -> str:
    """What the output has to match, from its start."""
    return "".join(r"(?:.*\n)*?" if line.strip() == "..." else _pattern_of_line(line, decimals_vary) for line in lines)


def _pattern_of_line(line: str, decimals_vary: bool) -> str:
    pattern = re.escape(line.rstrip()).replace(r"\.\.\.", ".*?")
    if decimals_vary:
        pattern = re.sub(r"\d+\\\.\d+", r"\\d+\\.\\d+", pattern)
        pattern = re.sub(r"(\\ ){2,}", r" {2,}", pattern)  # columns move with what is in them
    return pattern + r" *\n"
