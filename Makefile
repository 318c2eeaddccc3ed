# `make demo` and `make test` need python3 (>= 3.11) with venv and pip, make and git, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# One more than there are cores: some tests mostly wait for processes.
JOBS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')

# The tests start some hundreds of processes: compiling everything anew in each takes longer than the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test interop lint fuzz soak bench clean

demo: .venv/.installed
	$(BIN)/swarm demo

test: .venv/.tested
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --ignore=tests/interop --ignore=tests/netlab

# Other clients, real trackers and gateways, kernel NATs: what is not installed or allowed is skipped with its reason.
interop: .venv/.tested
	$(BIN)/python -m pytest tests/interop tests/netlab

lint: .venv/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: .venv/.tested
	SWARM_FUZZ=$${SWARM_FUZZ:-10000000} $(BIN)/python -m pytest -m "fuzz or not fuzz" -k "fuzz or random_bytes or damaged"

soak: .venv/.tested
	$(BIN)/python -m pytest -m soak -s

bench: .venv/.tested
	$(BIN)/python -m bench.throughput

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.tested: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	touch $@ .venv/.installed

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
