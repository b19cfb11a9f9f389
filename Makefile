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
.PHONY: help install quickstart docs test gpu-test study-arc study-hour study-smollm2 study-gemma3 study-published lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

study-arc: $(STAMP) ## puzzles of grids in the lab, three seeds (docs/arc.md), a quarter of an hour of processor time; goes on where it was cut
	@$(ONE_THREAD) $(BIN)/python benchmarks/arc.py --first-seed 10 --jobs $(WORKERS) --folder runs/study-arc

# What a study of a real model needs: contexts with questions in two files, and where wanted a model's folder in place of
# its name on the hub, and a teacher's edits.
STUDY = --train "$(TRAIN)" --evaluate "$(EVALUATE)" --jobs $(WORKERS) $(if $(MODEL),--model "$(MODEL)") \
	$(if $(TEACHER),--teacher "$(TEACHER)")
GIVEN = @test -n "$(TRAIN)" -a -n "$(EVALUATE)" || { echo "make $@: TRAIN and EVALUATE are not both set: name two files \
	with contexts and questions, as TRAIN=squad_train.json EVALUATE=squad_val.json (docs/study.md)" | tr -s '\t ' ' ' >&2; exit 2; }

study-hour: $(STAMP) ## SmolLM2-135M learns the contexts of TRAIN and EVALUATE in every way, at a size of an hour or so on a core
	$(GIVEN)
	@$(BIN)/python benchmarks/study.py --config configs/study/smollm2.yaml --out runs/study-hour --small $(STUDY)

study-smollm2: $(STAMP) ## the same at full size: 50 + 100 contexts, three seeds, sft and distill; a day or two on two cores
	$(GIVEN)
	@$(BIN)/python benchmarks/study.py --config configs/study/smollm2.yaml --out runs/study-smollm2 --seeds 3 \
	    --objectives sft distill --generator configs/study/generator-smollm2.yaml $(STUDY)

study-gemma3: $(STAMP) ## the same with Gemma-3-270M, a base model; three days on two cores
	$(GIVEN)
	@$(BIN)/python benchmarks/study.py --config configs/study/gemma3-270m.yaml --out runs/study-gemma3 --seeds 3 \
	    --objectives sft distill $(STUDY)

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
