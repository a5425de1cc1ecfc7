# SPDX-License-Identifier: Apache-2.0
# make demo | test | check-long | lint | cpp | wheels | clean. Everything happens in the virtual environment $(VENV).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
ifeq ($(origin CXX),default)
CXX := c++
endif
export CXX
VENV ?= .venv
BIN := $(VENV)/bin
WHEELS := build/wheel
SOURCES := $(shell find export ortops runtime edge_configs examples/cpp -type f -not -path '*/__pycache__/*') \
           pyproject.toml LICENSE README.md
PYTEST_ARGS ?=

.PHONY: demo test check-long lint cpp wheels clean requirements
.DELETE_ON_ERROR:

demo: $(VENV)/installed-demo
	$(BIN)/noisystore demo

test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(PYTEST_ARGS)

check-long: $(VENV)/installed-test
	$(BIN)/pytest -m long $(PYTEST_ARGS)
	.ci/check_ort_versions

lint: $(VENV)/installed-lint
	.ci/lint

cpp:
	.ci/check_cpp

wheels: $(VENV)/installed-test
	.ci/wheels

requirements:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "make: needs Python 3.10 or newer as $(PYTHON) (try: make PYTHON=python3.12)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "make: needs Python's venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@command -v $(firstword $(CXX)) >/dev/null || \
	  { echo "make: needs a C++ compiler (Debian, Ubuntu: apt install g++)" >&2; exit 2; }

$(BIN)/python: | requirements
	$(PYTHON) -m venv $(VENV)

$(WHEELS)/built: $(SOURCES) | $(BIN)/python
	rm -rf $(WHEELS)
	$(BIN)/python -m pip wheel -q --no-deps -w $(WHEELS) .
	touch $@

# The wheel is installed over what is there; its dependencies only where they are missing.
$(VENV)/installed-%: $(WHEELS)/built
	@echo "installing noisystore[$*] (the first time this fetches PyTorch, a few GB)"
	$(BIN)/python -m pip install -q --no-deps --force-reinstall $(WHEELS)/*.whl
	wheel=$$(echo $(WHEELS)/*.whl) && $(BIN)/python -m pip install -q "$$wheel[$*]"
	touch $@

clean:
	rm -rf build noisystore-demo
