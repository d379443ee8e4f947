# Everything happens in .venv; PYTHON chooses the interpreter that it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.c csrc/*.h csrc/*.py)

.PHONY: demo test check bench bench-full bench-baseline bench-compare bench-instructions native-tests crash-points errno-points model model-full fuzz kill-campaign soak format clean

KILLS ?= 5000
MINUTES ?= 30
SECONDS ?= 60

BENCH_CALLS := $(BIN)/python -m pytest bench -o addopts="" -q --benchmark-only --benchmark-sort=name \
  --benchmark-columns=min,median,iqr,rounds

demo: $(VENV)/demo
	$(BIN)/pipert-shm demo

# Two at a time; then, alone, what looks at all processes of the machine.
test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile -m "not machine"
	$(BIN)/python -m pytest -m machine

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) -C csrc format-check

# A first look beside the peers, in about two minutes.
bench: $(VENV)/dev $(VENV)/bench-peers
	$(BIN)/python -m bench --quick

# All of it, in about twenty minutes, kept with its plots.
bench-full: $(VENV)/dev $(VENV)/bench-peers
	$(BIN)/python -m bench --json docs/benchmarks/run.json --plot docs/benchmarks

# Single calls, kept in .benchmarks/; and the same beside what was kept last.
bench-baseline: $(VENV)/dev
	$(BENCH_CALLS) --benchmark-save=baseline

bench-compare: $(VENV)/dev
	$(BENCH_CALLS) --benchmark-compare

# Instructions of a send and of a receive (apt-get install valgrind).
bench-instructions: $(VENV)/dev
	$(BIN)/python -m bench.instructions

native-tests:
	$(MAKE) -C csrc native-tests

# SIGKILL at every atomic step of the C core, and an audit after each.
crash-points:
	$(MAKE) -C csrc crash-points

# Every system call of the control plane fails once, with each error number, and an audit after each.
errno-points: $(VENV)/dev
	$(BIN)/python tests/errno_points.py

# The protocol, checked by Spin (apt-get install spin gcc); model-full takes a quarter of an hour.
model:
	$(PYTHON) csrc/model/run.py

model-full:
	$(PYTHON) csrc/model/run.py --full

# Damage to the words of shared memory: nothing may crash, hang or go astray. Needs clang.
fuzz:
	$(MAKE) -C csrc fuzz SECONDS=$(SECONDS)

# Random SIGKILLs of flows under load, and an audit after each recovery.
kill-campaign: $(VENV)/dev
	$(BIN)/python tests/campaign.py --kills $(KILLS)

soak: $(VENV)/dev
	$(BIN)/python tests/soak.py --minutes $(MINUTES)

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i csrc/*.c csrc/*.h csrc/tests/*.c csrc/tests/*.h

clean:
	rm -rf $(VENV) build dist *.egg-info pipert_shm/*.so
	$(MAKE) -C csrc clean

# An editable install with the extras of that name; again whenever the C sources change.
$(VENV)/demo $(VENV)/dev $(VENV)/bench-peers: $(VENV)/%: $(SOURCES) | $(VENV)/made
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@$(BIN)/python -c 'import cv2' || { echo 'OpenCV does not load: apt-get install libgl1 libglib2.0-0' >&2; exit 1; }
	@touch $@

$(VENV)/made:
	@command -v cc >/dev/null || { echo 'there is no C compiler: apt-get install build-essential' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo '$(PYTHON) is older than 3.10; name a newer one: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo '$(PYTHON) has no venv: apt-get install python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	  { echo '$(PYTHON) has no headers: apt-get install python3-dev' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
