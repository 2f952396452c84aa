# `make help` lists the targets. Everything lives in this folder: .venv/ and outputs/.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp
ALGO  ?= espo
MODEL ?= tiny_dense
STEPS ?=
ARGS ?=
SEED  ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
IMAGE_ARGS ?=
DRIFT_ARGS ?=
STUDY_ARGS ?=
MUTANT_ARGS ?=

# A PYTHONPATH or a user site from outside would put other versions in front of the pinned ones.
unexport PYTHONPATH
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The first interpreter that runs and can make environments; the lock is compiled and tested for 3.11.
PYTHON ?= $(firstword $(foreach p,$(shell type -aP python3.11 python3.12 python3.10 python3),$(shell $(p) -c 'import ensurepip, sys; print(sys.executable if (3, 10) <= sys.version_info[:2] < (3, 13) else "")' 2>/dev/null)))

TORCH := $(shell grep '^torch==' requirements/cpu.lock)
# Beside the environment's packages: inside, every process of a run would import it, 3 s of a core each.
MEGATRON := megatron-core==0.16.1
# Used only where pip finds no CPU build of torch by itself, and to compile the lock.
TORCH_INDEX := https://download.pytorch.org/whl/cpu

UV := $(BIN)/uv --cache-dir $(VENV)/.uv-cache --system-certs
COMPILE := $(UV) pip compile -q --no-config --python $(BIN)/python --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 \
	--no-header --no-annotate --no-emit-find-links --no-emit-index-url
WHEELS := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--index $(TORCH_INDEX) --index-strategy unsafe-best-match)

# Tests without Ray are independent of each other; those with Ray fill a small machine by themselves.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

# For benchmarks: glibc keeps what was freed. Otherwise, by the luck of the heap, half a loss's time is page faults.
STEADY := MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000

.PHONY: help setup demo test test-fast test-all bench docs mutants study gpu-check drift image-cpu lint format check-lock lock lock-cpu lock-gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo "  variables: ALGO=espo|gspo|grpo  MODEL=tiny_dense|tiny_moe  STEPS=n  SEED=n  ARGS='...'  (make demo)"

setup: $(STAMP) ## build .venv; does nothing when it is current

$(STAMP): requirements/cpu.lock pyproject.toml setup.py
	@if [ -z "$(PYTHON)" ]; then \
	  echo "No Python 3.10 to 3.12 with ensurepip was found (3.11 is the tested one). Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@echo "setting up $(VENV) with $(PYTHON) ..."; started=$$SECONDS; \
	[ -x $(BIN)/python ] && $(BIN)/python -c 'import pip' 2>/dev/null || { rm -rf $(VENV); "$(PYTHON)" -m venv $(VENV); }; \
	echo "  torch (CPU build)"; \
	$(BIN)/python -m pip install -q --no-deps $(TORCH) 2>$(VENV)/torch.log \
	  || $(BIN)/python -m pip install -q --no-deps $(TORCH) --extra-index-url $(TORCH_INDEX) \
	  || { cat $(VENV)/torch.log >&2; exit 1; }; \
	echo "  $$(grep -c == requirements/cpu.lock) pinned packages of requirements/cpu.lock"; \
	$(BIN)/python -m pip install -q --no-deps -r requirements/cpu.lock; \
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .; \
	echo "  Megatron's core, for its tests only"; \
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/megatron $(MEGATRON); \
	touch $@; \
	echo "set-up took $$((SECONDS - started)) s (not part of the demo's time)"

demo: $(STAMP) ## train a tiny model with ESPO through the real veRL on this CPU
	@$(BIN)/verl-ext demo --algo $(ALGO) --model $(MODEL) $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(ARGS)

test: lint check-lock ## what CI runs: lint, types, the GPU lock, unit and core end-to-end tests
	@failed=0; \
	$(PARALLEL) -m "not ray and not slow" $(PYTEST_ARGS) || failed=1; \
	$(BIN)/python -m pytest -m "ray and not slow" $(PYTEST_ARGS) || failed=1; \
	exit $$failed

test-fast: $(STAMP) ## no Ray and no trainer
	$(PARALLEL) -m "not ray and not slow" $(PYTEST_ARGS)

test-all: lint check-lock ## everything, fault injection and long runs included
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(STAMP) ## time and memory against verl, on idle cores; fails if a limit is missed (BENCH_ARGS=...)
	$(STEADY) $(BIN)/python -m pytest benchmarks -q -p no:randomly --benchmark-columns=median,iqr,min,rounds --benchmark-sort=name $(PYTEST_ARGS)
	$(STEADY) $(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(STAMP) ## write what is derived from the code: tables, pages, presets (CHECK=1: compare only)
	$(BIN)/python -m tools.pages $(if $(CHECK),--check)

mutants: $(STAMP) ## change the code in ways that its tests have to notice, one at a time (MUTANT_ARGS=symbol)
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation $(MUTANT_ARGS)

study: $(STAMP) ## the methods side by side on tiny models: what has no result yet, hours in all (STUDY_ARGS=--commit)
	$(BIN)/verl-ext study run recipes/cpu_study $(STUDY_ARGS)
	$(BIN)/verl-ext study page recipes/cpu_study

gpu-check: $(STAMP) ## the checks that need a GPU (install requirements/gpu.lock there first)
	$(BIN)/verl-ext doctor gpu --out outputs/gpu-check.json

drift: $(STAMP) ## what newer releases of verl and vLLM change of what is used here
	$(BIN)/python -m drift $(DRIFT_ARGS)

image-cpu: ## build docker/Dockerfile.cpu with docker or buildah and run the demo's first steps inside it
	docker/build.sh --stack cpu $(IMAGE_ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy verl_ext

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-lock: $(STAMP) ## requirements/gpu.lock still resolves from the gpu extra, to the same pins
	@cp requirements/gpu.lock $(VENV)/gpu.lock.check; \
	if $(COMPILE) --extra gpu pyproject.toml -o $(VENV)/gpu.lock.check >/dev/null 2>$(VENV)/gpu.lock.log; then \
	  diff <(grep -v '^#' requirements/gpu.lock) <(grep -v '^#' $(VENV)/gpu.lock.check) \
	    || { echo "requirements/gpu.lock is not what pyproject.toml's gpu extra resolves to: run 'make lock-gpu'" >&2; exit 1; }; \
	  echo "requirements/gpu.lock: $$(grep -vc '^#' requirements/gpu.lock) pins resolve"; \
	elif grep -q 'Failed to fetch' $(VENV)/gpu.lock.log; then \
	  echo "requirements/gpu.lock: NOT CHECKED, the package registry cannot be reached" >&2; \
	else cat $(VENV)/gpu.lock.log >&2; exit 1; fi

lock: lock-cpu lock-gpu ## compile both locks again (keeps pins that still fit; delete a lock to renew it)

lock-cpu: $(STAMP)
	$(COMPILE) $(WHEELS) --override requirements/cpu.overrides requirements/cpu.in -o requirements/cpu.lock

lock-gpu: $(STAMP)
	$(COMPILE) --extra gpu pyproject.toml -o requirements/gpu.lock
	sed '/^#/d' requirements/gpu.lock > $(VENV)/gpu.lock.new
	cat requirements/gpu.header $(VENV)/gpu.lock.new > requirements/gpu.lock

clean: ## remove the environment, the outputs and the caches
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
