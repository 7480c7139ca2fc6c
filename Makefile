# make demo    the main job on bundled guest dumps
# make check   style, types, import rules, and the quick tests: what holds before every commit
# make test    all tests (those that need a program which is not installed are skipped, and say what to install)
# make lint    style, types and import rules
# make docs    the documentation, into docs/_build/html, and the man page
# make bench   speed, beside makedumpfile, QEMU and cp
# make clean   what the others made
#
# Each sets up what it needs in .venv first: python3 (3.11 or later) with venv is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is set up: pydump itself, the tools of tests and lint, those of the documentation.
RUN := $(VENV)/.run
TOOLS := $(VENV)/.ready
DOCS := $(VENV)/.docs
PROJECTS := core $(wildcard plugins/*)
# Tests that take seconds are marked slow, and left to make test.
QUICK := -m "not slow" tests/unit tests/meta tests/formats plugins
# How many processes run tests at once; 0 is this one. What shares a fixture of a module stays together.
JOBS ?= auto
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --maxprocesses 8 --dist loadscope --no-loadscope-reorder

# Tests start Python more than a thousand times: without bytecode on the disk each would compile NumPy again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test lint docs bench clean

demo: $(RUN)
	@$(BIN)/python examples/demo.py

check: lint
	@$(PYTEST) $(QUICK)

test: $(TOOLS)
	@$(PYTEST) $(TESTS)

lint: $(TOOLS)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy core/src $(wildcard plugins/*/src examples/*/src)
	@NO_COLOR=1 $(BIN)/lint-imports --no-logo

docs: $(DOCS)
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@$(BIN)/sphinx-build -W --keep-going -q -b man docs docs/_build/man
	@echo "docs/_build/html/index.html, docs/_build/man/pydump.1"

bench: $(TOOLS)
	@$(BIN)/python tests/benchmarks/bench.py
	@$(BIN)/python tests/benchmarks/pause.py

SETUP := pyproject.toml constraints.txt scripts/setup $(addsuffix /pyproject.toml,$(PROJECTS))

$(RUN): $(SETUP)
	@PYTHON="$(PYTHON)" scripts/setup $(VENV)

$(TOOLS): $(RUN)
	@PYTHON="$(PYTHON)" scripts/setup $(VENV) test
	@touch $@

$(DOCS): $(TOOLS)
	@PYTHON="$(PYTHON)" scripts/setup $(VENV) docs
	@touch $@

clean:
	rm -rf $(VENV) docs/_build docs/reference/_generated .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
