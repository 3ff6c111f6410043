# Every target sets up what it needs: `make demo` and `make test` work in a fresh clone with Python 3.11 or newer.
#
#   make demo PYTHON=python3.12         another interpreter
#   make demo TORCH="torch>=2.11"       another torch; it is installed in the same command as the project, because
#                                       torch pulled in by itself may be a build for another kind of machine
#   make demo PIP_ARGS="--extra-index-url URL"
#                                       more options for pip, such as the index of the torch build for your machine
#                                       (CPU only, or a certain CUDA version): PyTorch's install page gives its URL
#   make test JOBS=8                    more test workers; each uses one thread
#   make test PYTEST_ARGS="-k anchor"   some of the tests
#
# The virtual environment is made once, and updated when pyproject.toml changes.

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
JOBS ?= 2
PYTEST_ARGS ?=

# Without its dependencies, of which torchvision has no build for every torch; the tests import it without that.
OPEN_CLIP := open_clip_torch==3.3.0

BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.ready-docs
BROWSER_READY := .venv/.ready-browser
LOWEST := .venv/lowest
LOWEST_READY := $(LOWEST)/.ready

# A file stays on one worker: its tests share what they build.
PYTEST := -m pytest -n $(JOBS) --dist loadfile

.PHONY: help demo test test-all browser coverage lowest lint format check docs hooks clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

demo: $(READY) ## attack a small model with and without its defence, and write a report (no download)
	$(BIN)/radapt demo

test: $(READY) ## run the tests that take seconds
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

test-all: $(READY) ## run the slow tests, too (all but those that need an accelerator or a browser)
	$(BIN)/python $(PYTEST) -m "not gpu and not browser" $(PYTEST_ARGS)

browser: $(BROWSER_READY) ## run the tests of pages in a browser (as root, installs Chromium where there is none)
	$(BIN)/python -m pytest -m browser $$(grep -rl --include='test_*.py' mark.browser tests) $(PYTEST_ARGS)

coverage: $(READY) ## run the tests that take seconds, and print which lines they miss
	$(BIN)/python $(PYTEST) --cov --cov-report=term-missing $(PYTEST_ARGS)

lowest: $(LOWEST_READY) ## run the tests that take seconds with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python $(PYTEST) -o filterwarnings=default $(PYTEST_ARGS)

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## bring the code into style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test-all docs ## everything that a change must pass

docs: $(DOCS_READY) ## build the documentation into site/
	$(BIN)/zensical build --strict

hooks: $(READY) ## check style and types at every commit (installs pre-commit)
	$(BIN)/python -m pip install $(PIP_ARGS) --no-warn-conflicts pre-commit
	$(BIN)/pre-commit install

clean: ## remove what was built; the virtual environment stays (delete .venv to start afresh)
	rm -rf site dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "R-Adapt needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) --no-warn-conflicts "$(TORCH)" -e ".[dev]"
	$(BIN)/python -m pip install $(PIP_ARGS) --no-warn-conflicts --no-deps "$(OPEN_CLIP)"
	@touch $@

$(BROWSER_READY): $(READY) scripts/chromium.sh
	sh scripts/chromium.sh
	$(BIN)/python -m pip install $(PIP_ARGS) --no-warn-conflicts "$(TORCH)" -e ".[browser-test]"
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install $(PIP_ARGS) --no-warn-conflicts "$(TORCH)" -e ".[docs]"
	@touch $@

# The tests' own tools are the newest. Warnings are no errors here: what is newest warns about what is oldest.
$(LOWEST_READY): pyproject.toml scripts/lowest.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "the lowest versions have builds for Python 3.11 and 3.12: make lowest PYTHON=python3.11"; exit 1; }
	test -x $(LOWEST)/bin/pip || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python scripts/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install $(PIP_ARGS) --no-warn-conflicts -c $(LOWEST)/constraints.txt "$(TORCH)" \
		-e ".[all,test]"
	$(LOWEST)/bin/python -m pip install $(PIP_ARGS) --no-warn-conflicts --no-deps "$(OPEN_CLIP)"
	@touch $@
