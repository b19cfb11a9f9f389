# Everything runs in .venv, which `make` creates and keeps up to date with pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What was installed: all that a run needs, or everything that tests, pages and extras need as well.
RUNS := $(VENV)/.runs
STAMP := $(VENV)/.installed
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two test processes with one thread each: more threads only get into each other's way.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help install quickstart docs test gpu-test study-published lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install the package in it, editable, with all extras and the pinned versions

$(RUNS): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a minute or two the first time)"
	@$(BIN)/pip install -qq -c constraints.txt -e .
	@touch $@

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) what tests and extras need (some minutes the first time)"
	@$(BIN)/pip install -qq -c constraints.txt -e '.[dev]'
	@touch $(RUNS)
	@# pyright does not know that callbacks/ is seal_lightning.callbacks; it looks here (stubPath in pyproject.toml)
	@mkdir -p $(VENV)/typings/seal_lightning
	@ln -sfn ../../../callbacks $(VENV)/typings/seal_lightning/callbacks
	@touch $@

quickstart: $(RUNS) ## SEAL in the lab: a tiny model learns to write better self-edits, a minute and a half on two cores
	@$(BIN)/seal quickstart

docs: $(STAMP) ## write docs/reference/ from the code, and the pages as a site in build/docs
	@$(BIN)/python docs/reference.py
	@$(BIN)/sphinx-build -q -W --keep-going docs build/docs
	@echo "the site: build/docs/index.html"

test: lint ## lint, check types and run the tests
	@$(ONE_THREAD) $(BIN)/pytest -q -n $(WORKERS)

gpu-test: $(STAMP) ## run the tests that need a CUDA device; they are skipped, with a line, where there is none
	@$(BIN)/pytest -q -m gpu

study-published: $(RUNS) ## the authors' published results in the folders DATA, computed again from their answers; a few seconds
	@test -n "$(DATA)" || { echo "make study-published: DATA is not set: name the folders with the authors' files, as DATA=results" >&2; exit 2; }
	@$(BIN)/python benchmarks/published.py $(DATA)

lint: $(STAMP) ## check style, formatting and types, without running a test
	@$(BIN)/ruff check -q --output-format concise .
	@$(BIN)/ruff format -q --check --output-format concise .
	@$(BIN)/pyright

clean: ## remove caches and builds; .venv and runs/ stay
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
