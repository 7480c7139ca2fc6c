# make demo    the main job on bundled guest dumps
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
STAMP := $(VENV)/.ready
PROJECTS := core $(wildcard plugins/*)

.PHONY: demo test lint docs bench clean

demo: $(STAMP)
	@$(BIN)/python examples/demo.py

test: $(STAMP)
	@$(BIN)/python -m pytest -q $(TESTS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy core/src $(wildcard plugins/*/src examples/*/src)
	@NO_COLOR=1 $(BIN)/lint-imports --no-logo

docs: $(STAMP)
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@$(BIN)/sphinx-build -W --keep-going -q -b man docs docs/_build/man
	@echo "docs/_build/html/index.html, docs/_build/man/pydump.1"

bench: $(STAMP)
	@$(BIN)/python tests/benchmarks/bench.py
	@$(BIN)/python tests/benchmarks/pause.py

$(STAMP): pyproject.toml constraints.txt scripts/setup $(addsuffix /pyproject.toml,$(PROJECTS))
	@PYTHON="$(PYTHON)" scripts/setup $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) docs/_build docs/reference/_generated .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
