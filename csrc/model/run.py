"""Checks the models with Spin, as ``configurations.txt`` says.

    python run.py              the short form
    python run.py --full       with the long configurations
    python run.py ring KM=1    the rows of one model that have the flag

A seeded bug counts as caught only where its row without the bug passes: so it is the bug that was caught.
"""

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
COMPILER = "clang" if shutil.which("clang") else "gcc"
QUICK = "tcc" if shutil.which("tcc") else COMPILER  # compiling is most of the short form, and tcc takes no time for it


@dataclass(frozen=True, slots=True)
class Row:
    """A model and its flags, and what must come of it."""

    long: bool
    model: str
    expected: str
    flags: tuple[str, ...]
    what: str

    def control(self) -> frozenset[str]:
        """The flags of the row that must pass if this one fails."""
        return frozenset(flag for flag in self.flags if not flag.startswith("B_"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    verdict: str
    states: int
    seconds: float


def read_rows() -> list[Row]:
    """Reads the table, and sees to it that each row that is to fail has one beside it that passes."""
    rows = []
    for line in (HERE / "configurations.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            head, what = line.split(" | ")
            form, model, expected, *flags = head.split()
            rows.append(Row(form == "long", model, expected, tuple(flags), what))
    passing = {(row.model, frozenset(row.flags)) for row in rows if row.expected == "pass" and not row.long}
    for row in rows:
        if row.expected != "pass" and (row.model, row.control()) not in passing:
            raise ValueError(f"no short row of {row.model} passes with {' '.join(sorted(row.control()))}: {row.what}")
    return rows


def run(arguments: list[str], directory: str, seconds: float = 600) -> str:
    """Runs a command; what it wrote."""
    done = subprocess.run(
        arguments, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False
    )
    return done.stdout


def judge(output: str) -> str:
    """Says what a verifier's output comes to."""
    errors = re.search(r"errors: (\d+)", output)
    if errors is None:
        return "failed"
    if errors[1] == "0":
        cut_short = re.search("out of memory|max search depth too small|Search not completed", output)
        return "cut short" if cut_short else "pass"
    return "caught" if "assertion violated" in output else "failed"


def check(row: Row) -> Outcome:
    """Generates, compiles and runs the verifier of one row, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="pipert-model-") as directory:
        definitions = [f"-D{flag}" for flag in row.flags]
        generated = run(["spin", *definitions, "-a", str(HERE / f"{row.model}.pml")], directory)
        options = [COMPILER, "-O2", "-DMEMLIM=9500"] if row.long else [QUICK, "-O0", "-DMEMLIM=3500"]
        options += ["-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=1024"]
        compiled = run([*options, "-o", "pan", "pan.c"], directory)
        if not Path(directory, "pan").exists():
            print(generated, compiled, file=sys.stderr)
            return Outcome("failed", 0, 0.0)
        bounds = ["-m2000000", "-w26"] if row.long else ["-m400000", "-w22"]
        started = time.monotonic()
        try:
            output = run(["./pan", "-E", *bounds], directory, 1800 if row.long else 120)
        except subprocess.TimeoutExpired:
            return Outcome("timed out", 0, time.monotonic() - started)
        states = re.search(r"(\d+) states, stored", output)
        return Outcome(judge(output), int(states[1]) if states else 0, time.monotonic() - started)


def main() -> int:
    """Runs the rows that were asked for and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="the long configurations, too")
    parser.add_argument("words", nargs="*", help="a model, and flags that a row must have")
    arguments = parser.parse_args()
    for tool in ("spin", COMPILER):
        if shutil.which(tool) is None:
            print(f"{tool} is missing: apt-get install spin gcc", file=sys.stderr)
            return 2
    wanted = set(arguments.words)
    rows = [row for row in read_rows() if (arguments.full or not row.long) and wanted <= {row.model, *row.flags}]
    if not rows:
        print("no such row", file=sys.stderr)
        return 2

    started = time.monotonic()
    wrong = []
    print(f"{'model':8}  {'configuration':40}  {'result':7} {'states':>11} {'seconds':>7}  what")
    for row in rows:
        outcome = check(row)
        result = outcome.verdict
        if result != row.expected:
            wrong.append(row)
            result = f"{result}, {row.expected} expected"
        print(
            f"{row.model:8}  {' '.join(row.flags):40}  {result:7} {outcome.states:11,} {outcome.seconds:7.1f}  {row.what}",
            flush=True,
        )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    passing = sum(row.expected == "pass" for row in rows)
    print(
        f"\n{passing} configurations to pass, {len(rows) - passing} errors to be found, {len(wrong)} not as expected; "
        f"{time.monotonic() - started:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of CPU), "
        f"{used.ru_maxrss >> 10:,} MB at the most"
    )
    for row in wrong:
        print(f"not as expected: {row.model} {' '.join(row.flags)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
