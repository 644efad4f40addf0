# make demo · make test · make lint · make bench: each sets up .venv first, and only when something changed.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*)
STAMP := $(VENV)/.installed
# any Python from 3.11 on; PYTHON=/path/to/python chooses another
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)

.PHONY: demo test lint format types bench install constraints clean

demo: install
	$(BIN)/python runner.py run experiments/rosita_refcoco+.yaml --demo

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "vlrun needs Python 3.11 or later; none was found (set PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-e '.[profile,dev]' $(foreach plugin,$(PLUGINS),-e $(plugin))
	touch $(STAMP)

# The pins of what is installed now.
constraints: install
	$(BIN)/python -m pip freeze --exclude-editable

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
