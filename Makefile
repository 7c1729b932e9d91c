# Two commands set everything up: `make demo` and `make test`. PYTHON names the interpreter to build the environment with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RESULTS ?= results
SELECTORS := no_crop,full_crop,semclip,random_crop,center_crop,oracle
MAIN_SELECTORS := no_crop,full_crop,semclip
# A Python with lmms-eval, decord and transformers 4.
PEER ?= $(BIN)/python
# Questions of each benchmark in a sweep: null is all of them.
LIMIT ?= null
SWEEP = $(BIN)/semclip-eval -m 'benchmark=glob(*,exclude=custom)' selector=$(MAIN_SELECTORS) run.limit=$(LIMIT) run.output_dir=$(RESULTS)

.PHONY: help demo test test-slow lint install regression baseline bench-throughput bench-pipeline bench-scaling bench-peer sweep sweep-mini clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## a virtual environment with the package and its pinned dependencies

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: install  ## the main job on the miniature: selectors on 2000 questions, the tables and the report
	$(BIN)/python scripts/demo.py --output $(RESULTS)/demo

test: install lint  ## ruff, mypy and the quick tests, a worker a core
	$(BIN)/python -m pytest -n logical --dist loadfile

test-slow: install  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

regression: install  ## a small split of every miniature benchmark against results/baselines/mini.csv
	$(BIN)/python scripts/regression.py

baseline: install  ## write results/baselines/mini.csv anew (after a change that is meant to move it)
	$(BIN)/python scripts/regression.py --write

bench-throughput: install  ## against a naive loop and pure model time, with V*'s image size (a quarter of an hour)
	$(BIN)/python scripts/bench_throughput.py

bench-pipeline: install  ## how busy a (simulated) accelerator is kept
	$(BIN)/python scripts/bench_pipeline.py

bench-scaling: install  ## how time and memory grow: questions, candidates, megapixels (half an hour)
	$(BIN)/python scripts/bench_scaling.py

bench-peer: install  ## the same questions under lmms-eval, where PEER is a Python that has it
	$(BIN)/python scripts/bench_peer.py --peer $(PEER)

sweep-mini: install  ## every benchmark of the miniature with the three main selectors (LIMIT=40 for a quick look)
	$(SWEEP) profile=mini run.batch_size=8

sweep: install  ## the same with the published models and data (a GPU and the Hub, or local copies)
	$(SWEEP) profile=full

clean:  ## remove the environment and caches, keep results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
