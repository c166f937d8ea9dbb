# Run `make` for the list of targets. A fresh machine needs Python 3.11 or later and make.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := .cache/lowest
SPACE := .cache/space/env
# as in pyproject.toml
LOWEST_TRANSFORMERS := 5.4.0
DEMO_FOLDER ?= outputs/spelling_to_sound
DEMO_VISION_FOLDER ?= outputs/picture_questions
# one thread a worker: the models of the tests are too small for more
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
# prints what makes the packages of .venv and the project itself visible in another environment, behind its own
ALL_ELSE := $(BIN)/python -c 'import site; print(site.getsitepackages()[0]); print("$(CURDIR)")'
SITE_PACKAGES := -c 'import site; print(site.getsitepackages()[0])'

.PHONY: help install demo demo-vision start seeds results results-distillation results-translation results-vision cards space test test-all test-peer test-lowest \
  test-space check lint types mlinter format bench bench-overhead bench-vision clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## Install the package and all that its developers use into .venv, in the pinned versions

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

DEMO := $(BIN)/python examples/spelling_to_sound.py --output_dir $(DEMO_FOLDER)
demo: $(INSTALLED)  ## Train a teacher on real data, distil it, compare, save and use the result (ten to twenty minutes on two cores)
	$(DEMO) --overwrite

demo-vision: $(INSTALLED)  ## Teach a model to see: emoji and charts, projector first (ten minutes on two cores)
	$(BIN)/python examples/picture_questions.py --output_dir $(DEMO_VISION_FOLDER) --overwrite

START := $(BIN)/python examples/start_from_decoder_only.py
DOCSTRINGS := --task docstrings
JAVA_TO_CSHARP := --task codexglue --data_dir $(CODEXGLUE)
# the rows on which the recipe was chosen
CHOSEN_ON := --skip_rows 0 --score_rows 60
start: $(INSTALLED)  ## Compare starts from SmolLM2 with random ones (CODEXGLUE=FOLDER of its files; many hours)
	$(START) $(DOCSTRINGS) --minutes 120 --first_minutes 7.5 --students whole whole-random small
	$(START) $(JAVA_TO_CSHARP) --minutes 120 --first_minutes 7.5 --students whole whole-random small
	$(START) $(DOCSTRINGS) --minutes 6 --first_minutes 1.5 $(CHOSEN_ON) --results examples/results/start_six_minutes.json
	$(START) $(JAVA_TO_CSHARP) --minutes 6 --first_minutes 1.5 $(CHOSEN_ON) --results examples/results/start_six_minutes.json
	$(START) $(JAVA_TO_CSHARP) --minutes 2 $(CHOSEN_ON) --students trials --results examples/results/start_trials.json
	$(START) $(DOCSTRINGS) --minutes 6 --first_minutes 3 --students adapted --results examples/results/start_adapted.json
	$(BIN)/python examples/start_from_decoder_only_report.py

seeds: $(DEMO_FOLDER)/comparison.json  ## Compare the demo's students with and without its teacher, seed by seed (half an hour)
	$(BIN)/python examples/spelling_seeds.py --words 4000

results: $(DEMO_FOLDER)/comparison.json  ## The paper's ablations: splits of the layers, with and without a teacher (an hour; GPU=1 for larger)
	$(BIN)/python examples/ablations.py --config examples/configs/ablations_$(if $(GPU),small,tiny).yaml
	$(BIN)/python examples/ablations_report.py

# what a GPU has time for
LONGER := --teacher_steps 600 --train_rows 4000 --max_steps 500 --students half small
DISTIL := $(BIN)/python examples/distillation_results.py $(if $(GPU),$(LONGER) --output_dir outputs/distillation_longer)
results-distillation: $(INSTALLED)  ## Compare distillation with labels alone (CODEXGLUE=FOLDER for both tasks, GPU=1 for more; hours)
	$(DISTIL) $(DOCSTRINGS)
	$(if $(CODEXGLUE),$(DISTIL) $(JAVA_TO_CSHARP))
	$(BIN)/python examples/distillation_results_report.py

TRANSLATION = --task codexglue_java_cs --data $(CODEXGLUE)/valid.java $(CODEXGLUE)/valid.cs
# of the small translator's training: one a core, or one a GPU
PROCESSES ?= 2
TRANSLATORS := outputs/small_translator outputs/java_to_csharp
# the one of results-distillation, if it is there
TRANSLATING_TEACHER := $(wildcard outputs/distillation_results/codexglue/teacher)
# the small one is quick enough to be asked by a beam search too, and with its pairs in memory
BEAMS := outputs/small_translator/scores_5_beams
MEMORY := outputs/small_translator_memory
SCORED := outputs/copy outputs/small_translator/scores $(BEAMS) $(MEMORY)/scores $(MEMORY)/scores_5_beams \
  outputs/java_to_csharp/scores $(addsuffix /scores,$(TRANSLATING_TEACHER))
results-translation: $(INSTALLED)  ## Train two translators from Java to C# for an hour each, and score them (CODEXGLUE=FOLDER)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node $(PROCESSES) examples/small_translator.py --data_dir $(CODEXGLUE) \
	  --minutes 60 --output_dir outputs/small_translator
	$(BIN)/python examples/remember_pairs.py --model outputs/small_translator --data_dir $(CODEXGLUE) \
	  --output_dir $(MEMORY) --overwrite
	$(BIN)/python examples/java_to_csharp.py --data_dir $(CODEXGLUE) --minutes 60 --output_dir outputs/java_to_csharp
	$(BIN)/encdec-slm evaluate copy $(TRANSLATION) --output outputs/copy
	set -e; for model in $(TRANSLATORS); do \
	  $(BIN)/encdec-slm evaluate $$model $(TRANSLATION) --max-new-tokens 512 --output $$model/scores; done
	$(BIN)/encdec-slm evaluate outputs/small_translator $(TRANSLATION) --max-new-tokens 512 --num-beams 5 --output $(BEAMS)
	$(BIN)/encdec-slm evaluate $(MEMORY) --trust-remote-code $(TRANSLATION) --max-new-tokens 512 --output $(MEMORY)/scores
	$(BIN)/encdec-slm evaluate $(MEMORY) --trust-remote-code $(TRANSLATION) --max-new-tokens 512 --num-beams 5 \
	  --output $(MEMORY)/scores_5_beams
	$(if $(TRANSLATING_TEACHER),$(BIN)/encdec-slm evaluate $(TRANSLATING_TEACHER) $(TRANSLATION) --instruction '{source}' \
	  --max-new-tokens 512 --output $(TRANSLATING_TEACHER)/scores)
	$(BIN)/python examples/java_to_csharp_report.py $(SCORED)

results-vision: $(INSTALLED)  ## Compare budgets of image tokens, and with a decoder-only model of equal size (long)
	$(BIN)/python examples/picture_budgets.py

cards: $(INSTALLED)  ## Render the model cards from the records in model_cards
	$(BIN)/python model_cards/render.py

# as the demo leaves it, made where it is missing
$(DEMO_FOLDER)/comparison.json: | $(INSTALLED)
	$(DEMO)

space: $(SPACE)/.installed $(DEMO_FOLDER)/comparison.json  ## Serve a page that asks the demo's student and teacher, with clocks
	$(SPACE)/bin/python examples/space/app.py --model $(DEMO_FOLDER) --peer $(DEMO_FOLDER)/teacher \
	  --peer-template '{source}<s>' --max-new-tokens 32 --examples zygote zyzzyva Quidditch

# an environment of its own for Gradio and what it needs; all else is the usual environment's
$(SPACE)/.installed: constraints.txt examples/space/constraints.txt | $(INSTALLED)
	test -x $(SPACE)/bin/python || $(PYTHON) -m venv $(SPACE)
	sed '/^pillow==/d' constraints.txt > $(SPACE)/constraints.txt
	$(SPACE)/bin/python -m pip install --quiet --constraint $(SPACE)/constraints.txt \
	  --constraint examples/space/constraints.txt gradio selenium
	$(ALL_ELSE) > $$($(SPACE)/bin/python $(SITE_PACKAGES))/all_else.pth
	touch $@

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
	$(ALL_ELSE) > $$($(LOWEST)/bin/python $(SITE_PACKAGES))/all_else.pth
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 tests/models tests/test_remote_code.py

test-space: $(SPACE)/.installed  ## Run the tests of the page in headless Chromium (apt-get install chromium chromium-driver)
	OMP_NUM_THREADS=1 $(SPACE)/bin/python -m pytest tests/space

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

BENCH := $(BIN)/encdec-slm benchmark
RESULTS := examples/results
OF_THE_TWO := $(BENCH) encoder-decoder decoder-only --repeats 3
bench: $(INSTALLED)  ## Compare efficiency with decoder-only models, T5 and T5Gemma (a quiet machine, an hour or two)
	$(BENCH) encoder-decoder decoder-only t5 --repeats 3 --output $(RESULTS)/efficiency.json
	$(BENCH) encoder-decoder decoder-only t5gemma --repeats 3 --dtype $(or $(DTYPES),float32 bfloat16) --new-tokens 32 \
	  --output $(RESULTS)/efficiency_dtypes.json
	$(OF_THE_TWO) --uncached --new-tokens 16 --output $(RESULTS)/efficiency_uncached.json
	$(OF_THE_TWO) --batch-size 1 2 4 --new-tokens 32 --output $(RESULTS)/efficiency_batches.json
	$(OF_THE_TWO) --input-length 512 1024 2048 4096 8192 --new-tokens 32 --output $(RESULTS)/efficiency_lengths.json
	$(BIN)/python examples/efficiency_report.py
	$(BIN)/python model_cards/render.py

bench-overhead: $(INSTALLED)  ## Measure what the framework itself takes for a token
	$(BENCH) encoder-decoder t5 t5-shape --preset overhead --input-length 64 --new-tokens 64 --repeats 15

bench-vision: $(INSTALLED)  ## Compare images with a decoder-only model (a quiet machine, up to an hour)
	$(BIN)/python -m encdec_slm.benchmarks.vision --preset 330m --output examples/results/vision_benchmark.json

clean:  ## Remove what the tools leave behind, but not .venv and not outputs
	rm -rf build dist .cache .pytest_cache .ruff_cache .mypy_cache encdec_slm.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
