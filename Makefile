# make quickstart   set everything up and see the whole method at work
# make test         lint, types, tests
# make lint         lint and types only
# make fix          let ruff repair and format what it can

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint fix clean

quickstart: .venv/installed
	$(BIN)/foresay quickstart

test: lint
	$(BIN)/python -m pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# constraints.txt pins every package, so that two machines get the same ones
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) found, 3.11 or newer needed; try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[develop]'
	@touch $@

clean:
	rm -rf .venv quickstart dist build .pytest_cache .mypy_cache .ruff_cache
