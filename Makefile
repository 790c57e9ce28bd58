# Everything that is done with this repository. Works with GNU make 3.81 and any POSIX sh, as root or not.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format docs clean

PYTHON ?= python3
PORT ?= 8080
ONCE ?=
CLEAN ?=
ARGS ?=

# An environment that happens to be active is not ours.
unexport VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONHOME PYTHONPATH PYTHONSAFEPATH

# The uv of this machine if it runs, or else one of our own.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
BIN := .venv/bin
is_set = $(filter-out 0 no false,$(1))

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(filter .uv/%,$(UV)) ## Make .venv with exactly what uv.lock says; installs uv into .uv if it is missing
	@$(UV) sync --locked --all-extras --compile-bytecode $(if $(wildcard $(BIN)/countersign),--quiet)

demo: setup ## Start everything and tell the story (ONCE=1: then end; CLEAN=1: begin from nothing; PORT=8080)
	@$(BIN)/python -m demo --port $(PORT) $(if $(call is_set,$(ONCE)),--once) $(if $(call is_set,$(CLEAN)),--clean)

test: setup ## Run all tests (ARGS="-m 'not ray'": options for pytest)
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Write the generated pages of docs/reference anew
	$(BIN)/python -m docs.generate

clean: ## Remove what make made: .venv, .venvs, .uv, .demo and caches
	rm -rf .venv .venvs .uv .demo .pytest_cache .mypy_cache .ruff_cache .mlflow_cache .node_cache .import_linter_cache .hypothesis

.uv/bin/uv:
	@echo "uv is not installed on this machine: installing it into .uv"
	@rm -rf .uv; \
	if $(PYTHON) -m venv .uv >/dev/null 2>&1 && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; then \
	  exit 0; \
	fi; \
	rm -rf .uv; \
	if $(PYTHON) tools/get_uv.py .uv; then exit 0; fi; \
	rm -rf .uv; \
	echo "uv could not be installed. On Debian and Ubuntu: apt install python3-venv, then make again;" >&2; \
	echo "or install uv yourself: https://docs.astral.sh/uv/getting-started/installation/" >&2; \
	exit 1
