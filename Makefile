# `make demo` makes a film, `make check` is what CI runs. Each target installs what it needs.
# torch comes as constraints.txt says; for the small CPU build on Linux outside a mirror:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo check test lint format types layers bench evaluate clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "nuwaxl needs Python 3.11 or newer on PATH." >&2; exit 1; }
	@echo "Installing into $(VENV) (once; some minutes)." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## a film of 30 seconds and its contact sheet in out/
	@mkdir -p out
	@$(BIN)/nuwaxl generate --story examples/demo.yaml --output out/demo.mp4 \
		--contact-sheet out/demo.png --overwrite

check: format-check lint types layers test  ## all that CI checks

test: $(INSTALLED)  ## the test suite
	@$(BIN)/python -m pytest

.PHONY: format-check
format-check: $(INSTALLED)
	@$(BIN)/ruff format --check --quiet . || { echo "make format would change files." >&2; exit 1; }

lint: $(INSTALLED)  ## ruff
	@$(BIN)/ruff check --quiet .

types: $(INSTALLED)  ## pyright
	@$(BIN)/pyright --warnings

layers: $(INSTALLED)  ## imports point down
	@report=$$($(BIN)/lint-imports) || { echo "$$report" >&2; exit 1; }

format: $(INSTALLED)  ## rewrite the source in the house's style
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

bench: $(INSTALLED)  ## time per run, frames per second, memory
	@$(BIN)/python -m benchmarks

evaluate: $(INSTALLED)  ## measure the bundled model
	@$(BIN)/nuwaxl evaluate

clean:  ## remove what was built, keep .venv
	@rm -rf out build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
