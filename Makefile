PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint docs

quickstart: .venv/installed
	$(BIN)/python examples/quickstart.py

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@
