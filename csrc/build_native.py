"""Builds the binding of csrc/ (cffi, API mode).

The declarations in cdef/ are the part of the headers that Python uses. The C compiler checks them against the headers: where a
declaration has `...`, it fills in what stands there.

hot/ is linked into the same file, as a module of its own: see hot/hot.h.
"""

from pathlib import Path

import numpy as np
from cffi import FFI

MODULE = "pipert_shm._native"

HERE = Path(__file__).resolve().parent
# As the headers include each other: a declaration may use the types of those before it.
SUBJECTS = (
    "ring", "queue", "counters", "policy", "control", "ring_table", "edge", "tickets", "process", "lease", "fork", "message",
    "port", "send", "receive", "recover", "trace", "memory", "thread",
)  # fmt: skip
# With hidden symbols, a call from one C file to another goes straight to the function. Else it would go by way of a table,
# since another library might replace the function, and nothing could be inlined.
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"]


def relative(paths: "list[Path]") -> "list[str]":
    return [str(path.relative_to(HERE.parent)) for path in sorted(paths)]


ffibuilder = FFI()
for subject in SUBJECTS:
    ffibuilder.cdef((HERE / "cdef" / f"{subject}.h").read_text(encoding="utf-8"))
ffibuilder.set_source(
    MODULE,
    '#include <sys/mman.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n#include "pshm.h"\n',
    sources=relative([*HERE.glob("*.c"), *HERE.glob("hot/*.c")]),
    include_dirs=["csrc", np.get_include()],
    depends=relative([*HERE.glob("*.h"), *HERE.glob("hot/*.h"), *HERE.glob("cdef/*.h")]),
    extra_compile_args=FLAGS,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
