# make quickstart   set everything up and see the whole method at work
# make test         lint, types, tests

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test clean

quickstart: .venv/installed
	$(BIN)/foresay quickstart

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

# constraints.txt pins every package, so that two machines get the same ones
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) found, 3.11 or newer needed; try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[develop]'
	@touch $@

clean:
	rm -rf .venv quickstart dist build .pytest_cache .mypy_cache .ruff_cache
