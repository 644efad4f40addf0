# make demo · make test · make lint · make bench · make faults · make fuzz · make wheels · make lowest: each sets up
# .venv first, and only when something changed.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*)
STAMP := $(VENV)/.installed
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
WHEELS := .venv-wheels
LOWEST := .venv-lowest
# One experiment of each task, and what the libraries of extras and plugins do
LOWEST_EXPERIMENTS := rosita_vqa lxmert_s_gqa lxmert_nlvr2 rosita_refcoco+ lxmert_s_ir demo_pretrain_rosita \
	rosita_zero_shot_flickr
LOWEST_TESTS := tests/core/features/test_features_importers.py tests/core/test_weight_sources.py \
	tests/core/test_reporting_profiler.py tests/core/test_reporting_files.py tests/core/test_completion.py \
	tests/core/test_wordpiece.py tests/plugins/detector/test_detector_weights.py \
	tests/plugins/detector/test_detector_images.py tests/plugins/hf tests/plugins/lxmert_s/test_lxmert_s_export.py \
	tests/plugins/serve \
	$(foreach name,$(LOWEST_EXPERIMENTS),\
	'tests/experiments/test_shipped_experiments.py::test_an_experiment_runs_on_the_demo_data[$(name)]')
# any Python from 3.11 on; PYTHON=/path/to/python chooses another
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)

# one more than there are cores, for some tests wait for processes
WORKERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((cores < 4 ? cores + 1 : 4)))

.PHONY: demo test lint format types bench faults fuzz wheels lowest install constraints clean

demo: install
	$(BIN)/python runner.py run experiments/rosita_refcoco+.yaml --demo

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/aims.py

# 100,000 damaged files for each reader of foreign files; FUZZ="npz YAML" chooses some of them.
fuzz: install
	OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore nice $(BIN)/python tools/fuzz.py $(FUZZ)

# Kills, signals, full disks, damaged files, company, and the same run spread otherwise: hours.
faults: install
	nice -n 10 $(BIN)/python -m faults

# The core and all plugins as wheels, installed where the repository is not.
wheels: install
	rm -rf $(WHEELS)
	$(PIP) wheel --no-deps --no-build-isolation -w $(WHEELS)/dist . $(PLUGINS)
	$(BIN)/python -m venv --without-pip $(WHEELS)
	$(PIP) --python $(WHEELS)/bin/python install --no-compile -c constraints.txt $(WHEELS)/dist/*.whl
	env -u PYTHONPATH OMP_NUM_THREADS=1 $(WHEELS)/bin/python -P tools/check_installed.py $(words $(PROJECTS))

# The lowest version of every dependency that any pyproject.toml declares.
lowest: $(LOWEST)/.installed
	env -u PYTHONPATH OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -p no:cacheprovider $(LOWEST_TESTS)

$(LOWEST)/.installed: $(STAMP) tools/lowest.py
	rm -rf $(LOWEST)
	$(BIN)/python -m venv --without-pip $(LOWEST)
	$(BIN)/python tools/lowest.py > $(LOWEST)/lowest.txt
	$(PIP) --python $(LOWEST)/bin/python install -c $(LOWEST)/lowest.txt hatchling editables
	$(PIP) --python $(LOWEST)/bin/python install --no-compile -c $(LOWEST)/lowest.txt --no-build-isolation \
		-e '.[test]' $(foreach plugin,$(PLUGINS),-e $(plugin)) playwright
	touch $@

install: $(STAMP)

$(STAMP): $(PROJECTS) constraints.txt
	@test -n "$(PYTHON)" || { echo "vlrun needs Python 3.11 or later; none was found (set PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt hatchling editables
	$(PIP) install -c constraints.txt --no-build-isolation \
		-e '.[dev]' $(foreach plugin,$(PLUGINS),-e $(plugin))
	touch $(STAMP)

# The pins of what is installed now.
constraints: install
	$(BIN)/python -m pip freeze --exclude-editable

clean:
	rm -rf $(VENV) $(WHEELS) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache
