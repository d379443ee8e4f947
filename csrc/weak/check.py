"""Checks the orders of the C core's atomic accesses with relacy or GenMC, and that mutants are caught.

    python check.py relacy             programs and mutants, in random executions (apt-get install relacy-dev)
    python check.py genmc              the same, in every execution of RC11 and of IMM
    python check.py genmc evict        only one program, and its mutants
    python check.py relacy --trace pshm_queue_pop     what is found in the mutants of a function

Each program has to pass on the core as it is. Each row of ``mutants.txt`` weakens one order in a copy of the core, and the
program that it names has to find an error there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CORE = HERE.parent
LEFT_OUT = {"fork.c", "spread.c", "build_native.py"}  # nothing of these runs here
ITERATIONS = 20_000  # of a program under relacy; most mutants are caught within the first hundred
C_FLAGS = "-std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Wconversion"
# The values of the macros in relacy/stdatomic.h are cast, and often not used.
SHIM_FLAGS = f"{C_FLAGS} -Wno-ignored-qualifiers -Wno-unused-value -DPSHM_CRASH_POINTS -include hooks.h"

# Sizes that a search need not have, in the copy. Each text must occur once.
SMALLER = [
    ("control.h", "PSHM_RINGS 4096u", "PSHM_RINGS 2u"),
    ("counters.h", "PSHM_BUCKETS 608u", "PSHM_BUCKETS 8u"),
    ("port.h", "PSHM_INS 256u", "PSHM_INS 2u"),
]


class Stale(Exception):
    """A text that is to be replaced is not in the core any more."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One order of the core, weakened."""

    catchers: frozenset[str]  # who must catch it: relacy, and GenMC under rc11 and imm
    file: str
    function: str
    order: str
    nth: int
    weaker: str
    program: str
    what: str

    def __str__(self) -> str:
        nth = f" {self.nth}" if self.nth > 1 else ""
        return f"{self.function}: {self.order}{nth} -> {self.weaker}"

    def apply(self, text: str) -> str:
        """The file's text with the weaker order."""
        found = re.search(rf"^[a-z][^\n;=]*\b{self.function}\([^;{{}}]*\{{\n.*?^\}}", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise Stale(f"{self.file} has no function {self.function}")
        orders = list(re.finditer(rf"memory_order_{self.order}\b|__ATOMIC_{self.order.upper()}\b", found[0]))
        if len(orders) < self.nth:
            raise Stale(f"{self.function} in {self.file} has no {self.order} number {self.nth}")
        at, end = (found.start() + place for place in orders[self.nth - 1].span())
        c11 = text[at:end].startswith("memory_order_")
        return text[:at] + (f"memory_order_{self.weaker}" if c11 else f"__ATOMIC_{self.weaker.upper()}") + text[end:]


def read_mutants() -> list[Mutant]:
    """Reads the table."""
    mutants = []
    for line in (HERE / "mutants.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            head, what = line.split(" | ")
            catchers, file, function, order, weaker, program = head.split()
            order, _, nth = order.partition("#")
            mutants.append(Mutant(frozenset(catchers.split(",")), file, function, order, int(nth or 1), weaker, program, what))
    return mutants


def programs() -> list[str]:
    """The programs of this folder."""
    return sorted(path.stem for path in HERE.glob("*.c") if path.name != "genmc.c")


def runs_whole_ports(program: str) -> bool:
    """Whether it calls sends, receives and recoveries, which GenMC can't run: it copies no structures."""
    return '#include "world.h"' in (HERE / f"{program}.c").read_text()


def copy_core(to: Path) -> None:
    """Copies the core, with small sizes."""
    to.mkdir()
    for path in CORE.glob("*.[ch]"):
        if path.name not in LEFT_OUT:
            shutil.copy(path, to)
    for name, text, smaller in SMALLER:
        before = (to / name).read_text()
        if before.count(text) != 1:
            raise Stale(f"{name} has {text!r} {before.count(text)} times")
        (to / name).write_text(before.replace(text, smaller))


def copy_mutant(core: Path, to: Path, mutant: Mutant) -> Path:
    """Copies the core once more, with a mutant in it."""
    copy = to / "core"
    shutil.copytree(core, copy)
    path = copy / mutant.file
    path.write_text(mutant.apply(path.read_text()))
    return copy


def call(command: list[str]) -> None:
    """Runs a compiler, which must not fail."""
    subprocess.run(command, check=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run."""

    found: str  # the error; empty for none
    executions: int
    output: str


class Relacy:
    """Runs a program in random executions, the same ones each time."""

    MODELS = ("relacy",)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.core = directory / "core"
        self.cc = os.environ.get("CC", "gcc")
        self.cxx = os.environ.get("CXX", "g++")
        copy_core(self.core)
        for path in [*self.core.glob("*.c"), *(HERE / f"{program}.c" for program in programs())]:
            self.compile(path, directory)
        # relacy's own headers warn
        harness = [
            "-std=c++17",
            "-O1",
            "-w",
            "-DPSHM_CRASH_POINTS",
            f"-I{HERE / 'relacy'}",
            f"-I{HERE}",
            f"-I{self.core}",
            str(HERE / "relacy.cpp"),
        ]
        call([self.cxx, *harness, "-c", "-o", str(directory / "relacy.o")])

    @classmethod
    def missing(cls) -> str | None:
        """What has to be installed."""
        return None if Path("/usr/include/relacy/relacy.hpp").exists() else "relacy is missing: apt-get install relacy-dev"

    def compile(self, source: Path, to: Path, core: Path | None = None) -> None:
        """Compiles a file of the core, or a program, into a folder."""
        folders = [f"-I{HERE / 'relacy'}", f"-I{core or self.core}", f"-I{HERE}"]
        call([self.cc, *SHIM_FLAGS.split(), *folders, "-c", str(source), "-o", str(to / f"{source.stem}.o")])

    def run(self, program: str, mutant: Mutant | None) -> Iterator[tuple[str, Outcome]]:
        """Runs a program, on the core or on a mutant of it."""
        parts = {path.stem: self.directory / f"{path.stem}.o" for path in self.core.glob("*.c")}
        parts[program] = self.directory / f"{program}.o"
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            if mutant is not None:
                core = copy_mutant(self.core, Path(name), mutant)
                # a header goes into every file
                sources = [core / mutant.file] if mutant.file.endswith(".c") else [*core.glob("*.c"), HERE / f"{program}.c"]
                for source in sources:
                    self.compile(source, Path(name), core)
                    parts[source.stem] = Path(name, f"{source.stem}.o")
            yield "relacy", self.draw(program, list(parts.values()))

    def draw(self, program: str, parts: list[Path]) -> Outcome:
        """Links the parts and runs them."""
        binary = self.directory / "run"
        call([self.cxx, *map(str, parts), str(self.directory / "relacy.o"), "-o", str(binary)])
        done = subprocess.run([str(binary), str(ITERATIONS)], capture_output=True, text=True, timeout=300, check=False)
        found = re.search(r"^(.*)\niteration: (\d+)$", done.stdout, re.MULTILINE)
        if done.returncode == 1 and found is not None and found[1].startswith(("USER ASSERT FAILED", "DATA RACE")):
            return Outcome(found[1], int(found[2]), done.stdout)
        if done.returncode == 0:
            return Outcome("", ITERATIONS, done.stdout)
        raise RuntimeError(f"{program}: status {done.returncode}: {done.stdout}{done.stderr}")


class GenMC:
    """Runs a program in every execution that a memory model allows."""

    MODELS = ("rc11", "imm")

    def __init__(self, directory: Path) -> None:
        self.core = directory / "core"
        copy_core(self.core)

    @classmethod
    def missing(cls) -> str | None:
        """What has to be installed."""
        if shutil.which("genmc") is not None:
            return None
        return "genmc is missing: build GenMC 0.11 (github.com/MPI-SWS/genmc), and put it into the PATH"

    def run(self, program: str, mutant: Mutant | None) -> Iterator[tuple[str, Outcome]]:
        """Runs a program under each model, on the core or on a mutant of it."""
        core = self.core
        with tempfile.TemporaryDirectory(prefix="pipert-weak-") as directory:
            if mutant is not None:
                core = copy_mutant(self.core, Path(directory), mutant)
            for model in self.MODELS:
                if mutant is None or model in mutant.catchers:
                    yield model, self.search(program, core, model)

    def search(self, program: str, core: Path, model: str) -> Outcome:
        """Searches all executions, or up to the first error."""
        options = [f"--{model}", "--disable-estimation", "--disable-warn-on-unfreed-memory", "--disable-mm-detector"]
        # without -g0 it takes minutes to name each byte of weak_memory
        flags = ["-D_GNU_SOURCE", "-std=c11", "-g0", f"-I{core}", f"-I{HERE}", f"-DPROGRAM={program}.c"]
        command = ["genmc", *options, "--", *flags, str(HERE / "genmc.c")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600, check=False)
        count = re.search(r"complete executions explored: (\d+)", done.stdout)
        executions = int(count[1]) if count else 0
        if "No errors were detected" in done.stdout:
            return Outcome("", executions, done.stdout)
        found = re.search(r"Assertion violation|Non-atomic race|(?<=^Error: ).*", done.stdout, re.MULTILINE)
        if "Verification unsuccessful" not in done.stdout or found is None:
            raise RuntimeError(f"genmc could not search {program} under {model}:\n{done.stdout}")
        return Outcome(found[0], executions, done.stdout)


CHECKERS: dict[str, type[Relacy] | type[GenMC]] = {"relacy": Relacy, "genmc": GenMC}


def main() -> int:
    """Runs what was asked for and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checker", choices=sorted(CHECKERS))
    parser.add_argument("words", nargs="*", help="programs, or functions whose mutants are to run")
    parser.add_argument("--trace", action="store_true", help="print what the checker says of each error")
    arguments = parser.parse_intermixed_args()
    kind = CHECKERS[arguments.checker]
    missing = kind.missing()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 2
    try:
        mutants = read_mutants()
        for row in mutants:
            row.apply((CORE / row.file).read_text())
    except Stale as stale:
        print(f"mutants.txt does not fit the core: {stale}", file=sys.stderr)
        return 1
    mutants = [mutant for mutant in mutants if mutant.catchers.intersection(kind.MODELS)]
    can_run = [program for program in programs() if arguments.checker == "relacy" or not runs_whole_ports(program)]
    runs: list[tuple[str, Mutant | None]] = [(program, None) for program in can_run]
    runs += [(mutant.program, mutant) for mutant in mutants]
    words = set(arguments.words)
    runs = [(program, mutant) for program, mutant in runs if not words or words & {program, mutant and mutant.function}]
    if not runs:
        print("no such program or function", file=sys.stderr)
        return 2

    started = time.monotonic()
    wrong = []
    with tempfile.TemporaryDirectory(prefix="pipert-weak-") as directory:
        checker = kind(Path(directory))
        for program, mutant in runs:
            since = time.monotonic()
            for model, outcome in checker.run(program, mutant):
                sound = bool(outcome.found) == (mutant is not None)
                result = (outcome.found or "no error") + ("" if sound else ", NOT AS EXPECTED")
                name = str(mutant) if mutant else "as it is"
                seconds = time.monotonic() - since
                print(f"{program:16} {name:52} {model:6} {outcome.executions:8,} {seconds:6.1f} s  {result}", flush=True)
                if arguments.trace and outcome.found:
                    print(outcome.output)
                if not sound:
                    wrong.append(f"{program}, {name} under {model}")
                    if mutant is None:
                        print(outcome.output, file=sys.stderr)
    caught = sum(mutant is not None for _, mutant in runs)
    print(
        f"\n{arguments.checker}: {len(runs) - caught} programs, {caught} weakened orders to be caught, "
        f"{len(wrong)} not as expected; {time.monotonic() - started:.0f} s"
    )
    for each in wrong:
        print(f"not as expected: {each}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
