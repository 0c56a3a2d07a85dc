# Each target sets itself up from a bare python3 (3.11 or later).
#   make demo          the whole system on this machine, with simulated model servers
#   make demo-reset    forget what the demo recorded
#   make test          all tests, side by side on all cores; with TESTS="PATH ..." these, one after the other
#   make test-kubernetes  the cluster's tests against a real API server; KUBEBUILDER_ASSETS names its folder
#   make check         formatting, lint, types, import rules, layout
#   make attack        changed input for everything that reads what others wrote; ARGS="--minutes 30"
#   make bench         what a request costs, beside a bare gRPC echo

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-reset test test-kubernetes check attack bench fix lock wheel

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
TESTS ?=
# Files asked for by name start at once, without workers.  Beyond eight workers the longest scope is the limit
# (tests/conftest.py).
SIDE_BY_SIDE = $(if $(strip $(TESTS)),,-n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder)
ARGS ?=

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.runtime
	@exec $(BIN)/pointsman demo $(ARGS)

demo-reset: $(VENV)/.runtime
	@$(BIN)/pointsman demo --reset

test: $(VENV)/.dev
	@.ci/packages chromium
	$(BIN)/pytest -q --durations=10 $(SIDE_BY_SIDE) $(TESTS)

test-kubernetes: $(VENV)/.dev
	@[ -x "$$KUBEBUILDER_ASSETS/kube-apiserver" ] && [ -x "$$KUBEBUILDER_ASSETS/etcd" ] || { \
	    echo "found no kube-apiserver and etcd, wanted KUBEBUILDER_ASSETS with the folder that holds them"; exit 2; }
	$(BIN)/pytest -q tests/kube

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_layout.py

attack: $(VENV)/.dev
	@PYTHONPATH=tests $(BIN)/python -P -m worlds.attack $(ARGS)

bench: $(VENV)/.runtime $(VENV)-bench/.ready
	@.ci/packages nginx wrk
	@$(BIN)/python benchmarks/run.py $(ARGS)

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One pinned version of everything, with hashes, for all supported Pythons.
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate pyproject.toml --extra gateway --extra kubernetes
lock:
	$(LOCK) --group build -o requirements/runtime.txt
	$(LOCK) --group build --group dev -c requirements/runtime.txt -o requirements/dev.txt
	$(subst pyproject.toml --extra gateway --extra kubernetes,--group bench,$(LOCK)) -c requirements/runtime.txt -o requirements/bench.txt

wheel: $(VENV)/.runtime
	$(PIP) wheel -q --no-deps --no-build-isolation -w dist .

# --- the virtual environment --------------------------------------------------------------------

$(BIN)/python:
	@.ci/venv $(VENV)

# The stamps are made last, so that an interrupted installation is done again.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo "installing what Pointsman needs into $(VENV)"
	@$(PIP) install -q --require-hashes --no-deps -r requirements/runtime.txt
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "installing what the tests and checks need into $(VENV)"
	@$(PIP) install -q --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

# The yardstick imports messages under the name `envoy`, which is also that of the gateway's package.
$(VENV)-bench/.ready: requirements/bench.txt
	@.ci/venv $(VENV)-bench
	@echo "installing what the measurements need into $(VENV)-bench"
	@$(VENV)-bench/bin/python -m pip --disable-pip-version-check --no-input install -q --require-hashes --no-deps -r $<
	@touch $@
