# Two commands do everything on a machine with Python 3.11, pip and make: `make serve` and `make test`.
PYTHON ?= python3
PORT ?= 8000
BUNDLE ?= artifacts/demo
SECONDS_A_POINT ?= 10
RIVALS ?= bidlight bidlight_plain naive naive_async mosec
ADS ?= sent
CANDIDATES ?= 1 10 100 500
CONNECTIONS ?= 1 8 32 128
OPEN_LOOP ?=
FAULTS ?=
QUICK ?=
WORKERS ?= 1 2 4
AGAINST ?=
SECONDS ?= 60
# One process more than cores: tests of processes wait for servers half of their time.
PYTEST_ARGS ?= --numprocesses $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 ))) --dist loadfile
VENV := .venv
PEERS := .peers
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup serve demo test lint types arrows pytest format bench rivals scale catalogue faults benchmarks peers imports fuzz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv and install everything, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt $(wildcard native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: Python >= 3.11 is needed; name one with PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^pip==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --build-constraint constraints.txt --editable '.[service,export,otel]' --group dev --group loadtest
	@touch $@

serve: setup demo ## build a demo bundle if artifacts/ holds none, then serve it on PORT
	@$(BIN)/python -m service --arm control=$(BUNDLE) --port $(PORT)

demo: setup ## build the demo bundle from a synthetic log, unless there is one
	@test -f $(BUNDLE)/manifest.json || $(BIN)/python -m export demo --out $(BUNDLE)

test: setup lint types arrows pytest ## set up, then ruff, mypy, import-linter and pytest

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

arrows: setup ## import-linter: print the contracts between rooms, and which are kept
	$(BIN)/lint-imports

# Its processes keep what one of them compiled, whatever the shell says of that: tests start hundreds of them.
pytest: export PYTHONDONTWRITEBYTECODE :=
pytest: setup ## the tests; PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup demo ## load-test the service with Locust (and wrk, when installed) and print the tables
	$(BIN)/python -m loadtest.reports.bench --bundle $(BUNDLE) --seconds $(SECONDS_A_POINT)

rivals: setup demo ## measure the service beside other servers: RIVALS=all, or some; ADS=known, CANDIDATES, CONNECTIONS, OPEN_LOOP
	$(BIN)/python -m loadtest.rivals --bundle $(BUNDLE) --contenders "$(RIVALS)" --ads $(ADS) \
	  --candidates "$(CANDIDATES)" --connections "$(CONNECTIONS)" --seconds $(SECONDS_A_POINT) $(if $(OPEN_LOOP),--open-loop "$(OPEN_LOOP)")

scale: setup demo ## measure what each worker costs and gains: WORKERS
	$(BIN)/python -m loadtest.reports.scale --bundle $(BUNDLE) --workers "$(WORKERS)"

catalogue: setup demo ## measure candidates a second on one core with ads known by id, by form of request
	$(BIN)/python -m loadtest.reports.catalogue --bundle $(BUNDLE) --seconds $(SECONDS_A_POINT)

faults: setup demo ## break a real service in many ways; figures wanted and found: FAULTS=names, QUICK=1, RIVALS=names
	$(BIN)/python -m loadtest.faults --bundle $(BUNDLE) $(if $(FAULTS),--only "$(FAULTS)") $(if $(QUICK),--quick) \
	  $(if $(filter-out file,$(origin RIVALS)),--rivals "$(RIVALS)")

benchmarks: setup ## list the benchmarks of single parts: python -m benchmarks.NAME
	@$(BIN)/python -m benchmarks

peers: setup $(PEERS)/.installed ## install LightGBM and FuxiCTR for python -m benchmarks.peers, apart from .venv
	@echo "python -m benchmarks.peers --data LOG --schema SCHEMA --out artifacts/peers"

$(PEERS)/.installed: benchmarks/peers/requirements.txt
	rm -rf $(PEERS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PEERS) --requirement $<
	@touch $@

imports: setup ## count rooms, floors, circles and arrows of the imports: AGAINST=another checkout
	$(BIN)/python -m benchmarks.import_graph $(if $(AGAINST),--against $(AGAINST))

fuzz: setup ## look for inputs that break the native core, for SECONDS with each target; needs Clang
	$(BIN)/python -m tests.native.fuzzing --seconds $(SECONDS)

clean: ## remove the virtual environment, caches and built bundles
	rm -rf $(VENV) $(PEERS) .rivals .fuzz artifacts build *.egg-info service/bundle/_native.*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
