# `make demo` and `make test` need nothing but Python 3.11+ and make: they set up .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# tests in a process for each core, at most four
SPREAD := -n auto --maxprocesses 4 --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo check test test-slow wheel bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

setup: $(READY)  ## virtual environment with the package and its tools in .venv

demo: setup  ## compress, verify and restore the bundled sample images; prints a table
	$(BIN)/python demo/run.py

check: setup  ## lint, format, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p osoa_pl
	$(BIN)/codespell --skip '*.bin,*.osoa' osoa_pl tests docs scripts benchmarks demo README.md CHANGELOG.md

test: setup  ## the tests that take minutes in all
	$(BIN)/python -m pytest -m 'not slow' $(SPREAD)

test-slow: setup  ## every test
	$(BIN)/python -m pytest $(SPREAD)

wheel: setup  ## build a wheel, install it alone, round-trip with it
	$(BIN)/python tests/wheel_round_trip.py

bench: setup  ## the measurements that README.md and docs/ quote
	$(BIN)/python benchmarks/coder_speed.py
	$(BIN)/python benchmarks/exact_step.py
	$(BIN)/python benchmarks/function_accuracy.py

clean:  ## remove what was built here
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
