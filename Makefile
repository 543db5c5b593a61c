# One verb per check. Everything works from a fresh clone with Python 3.11 or later and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The tests start Ray clusters of their own on this machine and need no tokens for them.
test: export RAY_AUTH_MODE = disabled
# Their processes import the library a hundred times, compiled once whatever the shell says of that.
test: export PYTHONDONTWRITEBYTECODE =

.PHONY: install demo reference test check docs format clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

demo: install
	$(BIN)/int4-collapse run tiny --out outputs/demo

# Every table and figure of outputs/reference again from its shards.
reference: install
	BIN=$(BIN) bash outputs/reference/rebuild.sh

# Three at a time on two cores, file by file: a test with real processes waits for them for a third of its time.
# The order is tests/conftest.py's.
test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	$(BIN)/mypy

# The documentation site, in outputs/site/html. A broken link fails.
docs: install
	$(BIN)/python docs/site/build.py outputs/site

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
