# Run `make` for the list of targets. A fresh machine needs Python 3.11 or later and make.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := .cache/lowest
# as in pyproject.toml
LOWEST_TRANSFORMERS := 5.4.0
DEMO_FOLDER ?= outputs/spelling_to_sound
# one thread a worker: the models of the tests are too small for more
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help install demo start results test test-all test-peer test-lowest check lint types mlinter format bench clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## Install the package and all that its developers use into .venv, in the pinned versions

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)  ## Train a teacher on real data, distil it, compare, save and use the result (ten minutes on two cores)
	$(BIN)/python examples/spelling_to_sound.py --output_dir $(DEMO_FOLDER) --overwrite

START := $(BIN)/python examples/start_from_decoder_only.py
DOCSTRINGS := --task docstrings
JAVA_TO_CSHARP := --task codexglue --data_dir $(CODEXGLUE)
# the rows on which the recipe was chosen
CHOSEN_ON := --skip_rows 0 --score_rows 60
start: $(INSTALLED)  ## Compare starts from SmolLM2 with random ones (CODEXGLUE=FOLDER of its files; many hours)
	$(START) $(DOCSTRINGS) --minutes 30 --first_minutes 2 --students whole small
	$(START) $(JAVA_TO_CSHARP) --minutes 30 --first_minutes 2 --students whole small
	$(START) $(DOCSTRINGS) --minutes 6 --first_minutes 1.5 $(CHOSEN_ON) --results examples/results/start_six_minutes.json
	$(START) $(JAVA_TO_CSHARP) --minutes 6 --first_minutes 1.5 $(CHOSEN_ON) --results examples/results/start_six_minutes.json
	$(START) $(JAVA_TO_CSHARP) --minutes 2 $(CHOSEN_ON) --students trials --results examples/results/start_trials.json
	$(START) $(DOCSTRINGS) --minutes 6 --first_minutes 3 --students adapted --results examples/results/start_adapted.json
	$(BIN)/python examples/start_from_decoder_only_report.py

results: $(INSTALLED)  ## Compare distillation with labels alone (CODEXGLUE=FOLDER for both tasks; two hours each, on a GPU minutes)
	$(BIN)/python examples/distillation_results.py --task docstrings
	$(if $(CODEXGLUE),$(BIN)/python examples/distillation_results.py --task codexglue --data_dir $(CODEXGLUE))
	$(BIN)/python examples/distillation_results_report.py

test: $(INSTALLED)  ## Run the tests: CPU, offline
	$(TEST)

test-all: $(INSTALLED)  ## Run all tests, also those marked slow, gpu and network
	$(TEST) -m ''

test-peer: $(INSTALLED)  ## Run Transformers' own common tests, from its source on PyPI, on our models
	$(BIN)/python tests/peer/fetch.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/peer

# an environment of its own for that release and what it needs; all else is the usual environment's
test-lowest: $(INSTALLED)  ## Run the model tests on the lowest supported Transformers
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet 'transformers==$(LOWEST_TRANSFORMERS)'
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0]); print("$(CURDIR)")' \
	  > $$($(LOWEST)/bin/python -c 'import site; print(site.getsitepackages()[0])')/all_else.pth
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 tests/models tests/test_remote_code.py

check: lint types mlinter  ## Check style, types and the conventions of Transformers' models

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# the rule left out (TRF028) asks for the Apache licence header; this project is under the MIT licence
mlinter: $(INSTALLED)
	mkdir -p .cache
	sed '/^\[rules.TRF028\]/,/^default_enabled/ s/^default_enabled = true/default_enabled = false/' \
	  $$($(BIN)/python -c 'import importlib.resources as r; print(r.files("mlinter") / "rules.toml")') > .cache/mlinter_rules.toml
	$(BIN)/mlinter --no-progress --rules-toml .cache/mlinter_rules.toml encdec_slm/models

format: $(INSTALLED)  ## Fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## Compare decoding with Transformers' T5 of equal size (a quiet machine, ten minutes)
	$(BIN)/python -m encdec_slm.benchmarks
	$(BIN)/python -m encdec_slm.benchmarks --overhead --input-length 64 --new-tokens 64 --repeats 15

clean:  ## Remove what the tools leave behind, but not .venv and not outputs
	rm -rf build dist .cache .pytest_cache .ruff_cache .mypy_cache encdec_slm.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
