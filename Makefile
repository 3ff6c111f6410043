# Every target sets up what it needs: `make demo` and `make test` work in a fresh clone with Python 3.11 or newer.
#
#   make demo PYTHON=python3.12         another interpreter
#   make demo TORCH="torch>=2.6"        another torch; it is installed in the same command as the project, because
#                                       torch pulled in by itself may be a build for another kind of machine
#   make demo PIP_ARGS="--extra-index-url URL"
#                                       more options for pip, such as the index of the torch build for your machine
#                                       (CPU only, or a certain CUDA version): PyTorch's install page gives its URL
#   make test JOBS=8                    more test workers; each uses one thread
#
# The virtual environment is made once, and updated when pyproject.toml changes.

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
JOBS ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.ready-docs

.PHONY: help demo test lint check docs clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(READY) ## attack a small model with and without its defence, and write a report (no download)
	$(BIN)/radapt demo

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## everything that a change must pass

docs: $(DOCS_READY) ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean: ## remove what was built; the virtual environment stays (delete .venv to start afresh)
	rm -rf site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "R-Adapt needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) "$(TORCH)" -e ".[dev]"
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install $(PIP_ARGS) "$(TORCH)" -e ".[docs]"
	@touch $@
