# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= demo
PORT ?= 8080
IMAGE ?= headway
VARIANT ?= cpu
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
# What the torch in constraints.txt is built for, on the package index.
CUDA_VERSION := 13.0
DOCKER ?= docker
MINUTES ?= 20
NUM ?= 2000
# Of the tests that start no server: each takes whole files.
WORKERS ?= 2
# Only these files are collected for the others, since collecting all takes half a minute.
files_marked = $(shell grep -rlE 'mark\.($(1))\b' tests --include='test_*.py' | sort)
IMAGE_TESTS := tests/image/test_image.py
# Installed again when one of these changes.
SETUP_INPUTS := pyproject.toml setup.py constraints.txt $(wildcard kernels/cpu/native/*.cpp kernels/cpu/native/*.h)

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-fast test-servers test-image test-alone clients fuzz valid check check-style check-types \
  check-test-types format bench docs clean image wheels lock

help:
	@echo "make serve   set up, fetch the demo model and serve it on port $(PORT)   (MODEL=..., any SM_VLLM_*)"
	@echo "make test    set up and run all tests"
	@echo "make check   lint and type-check      make bench   run the benchmarks      make fuzz   send what nobody would"
	@echo "make valid   send random requests that are right (NUM=...)"
	@echo "make image   build the container image as $(IMAGE)   (VARIANT=cpu|cuda)"
	@echo "make setup   the virtual environment alone, in $(VENV)/"

setup: $(VENV)/.ready

# serve needs the product, test and check need the tools too. Either is one installation, since each compiles the CPU kernels.
define VENV_IS_THERE
@$(PYTHON) -c 'import sys; sys.exit("Headway needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (set PYTHON=...)") if sys.version_info < (3, 11) else None'
@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
endef

$(VENV)/.ready: $(SETUP_INPUTS)
	$(VENV_IS_THERE)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(SETUP_INPUTS)
	$(VENV_IS_THERE)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.ready $@

# Clients of other makers, which the tests run: an environment of their own, since they want other versions than we do.
clients: $(VENV)/.ready-clients

$(VENV)/.ready-clients: $(VENV)/.ready-dev tests/clients/requirements.txt tests/clients/package.json
	$(PYTHON) -m venv --clear $(VENV)/clients
	$(VENV)/clients/bin/python -m pip install -q --disable-pip-version-check -r tests/clients/requirements.txt
	@if command -v npm >/dev/null; then cp tests/clients/package.json $(VENV)/clients/ && npm install --silent --no-audit --no-fund --prefix $(VENV)/clients; \
	  else echo "There is no npm: its client is not tested."; fi
	@touch $@

serve: $(VENV)/.ready
	@SM_VLLM_MODEL="$${SM_VLLM_MODEL:-$(MODEL)}" SM_VLLM_PORT="$${SM_VLLM_PORT:-$(PORT)}" exec $(BIN)/headway entrypoint serve

# First what tells most in the least time. Then the tests of servers and of containers, one after the other: they wait more than they
# compute, and what they leave of the processors is for the other tests and for building the image. make waits for all three, and fails
# if one does. Last the tests beside which nothing may run.
test: $(VENV)/.ready-dev
	@$(MAKE) --jobs 2 --output-sync=target check clients
	@$(MAKE) --jobs 3 test-servers beside-test-fast beside-test-image \
	  || { echo "A part has failed: the tests of servers, or what stands above as '-- make ...: FAILED'."; exit 1; }
	@$(MAKE) test-alone

# What needs neither a server of its own nor a Docker engine. Files in the order of their names: xdist's own order ends with those of few
# tests, of which one compiles every kernel while the other worker has nothing left to do.
test-fast: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e and not docker" -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

test-servers: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -m "(e2e or docker) and not alone" --durations 20 $(filter-out $(IMAGE_TESTS),$(call files_marked,e2e|docker))

# Builds the image, and a second time without the builder's cache.
test-image: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m docker --durations 3 $(IMAGE_TESTS)

test-alone: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -m alone --durations 5 $(call files_marked,alone)

# A target that gives way to what runs beside it (a quarter of a processor is left to it); its output comes when it ends, in one piece.
beside-%:
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT; result=passed; nice -n 5 $(MAKE) $* >"$$log" 2>&1 || result=FAILED; \
	  printf '\n-- make $*: %s\n' $$result; cat "$$log"; printf -- '-- end of make $*\n'; [ $$result = passed ]

# schemathesis over the OpenAPI document; `make test` does the same for half a minute.
fuzz: $(VENV)/.ready-dev
	FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest -q -s tests/e2e/test_fuzz.py

# Random requests that the documentation allows; `make test` sends 150 of them.
valid: $(VENV)/.ready-dev
	VALID_REQUESTS_NUM=$(NUM) $(BIN)/python -m pytest -q -s tests/e2e/test_valid_requests.py

check: check-style check-types check-test-types

check-style: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.ready-dev
	$(BIN)/mypy -p headway

check-test-types: $(VENV)/.ready-dev
	$(BIN)/mypy --config-file tests/mypy.ini --cache-dir .mypy_cache/tests

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready
	$(BIN)/headway options > docs/options.md
	$(BIN)/headway options docs/*.md

# The CPU build of torch for the image, where pip here can get it; else the image's build fetches it from torch's own index.
wheels: $(VENV)/.ready
	@ls wheels/torch-$(TORCH_VERSION)+cpu-*.whl >/dev/null 2>&1 || \
	  $(BIN)/python -m pip download -q --disable-pip-version-check --no-deps -d wheels "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || true

image: wheels
	DOCKER_BUILDKIT=1 $(DOCKER) build --network host --build-arg VARIANT=$(VARIANT) --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" \
	  --build-arg VERSION="$$($(BIN)/headway --version | cut -d' ' -f2)" \
	  $(if $(filter cuda,$(VARIANT)),--build-arg CUDA_VERIFIED_VERSIONS=$(CUDA_VERSION)) --tag $(IMAGE) .

lock: $(VENV)/.ready
	bash container/image/lock.sh $(BIN)/python

bench: $(VENV)/.ready-dev
	$(BIN)/python benchmarks/compare.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
