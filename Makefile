# `make demo` and `make test` work on a fresh clone: each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev

.PHONY: demo test lint slow coverage bench fixtures lowest newest clean

demo: $(DEMO)
	$(BIN)/nrc-probe analyze fixtures/hopper/wd_1e-3.safetensors

test: lint
	$(BIN)/python -m pytest

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(DEV)
	$(BIN)/python -m pytest -m slow

# which branches of the core rooms the tests run
coverage: $(DEV)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

bench: $(DEMO)
	$(BIN)/python tests/benchmarks/everything.py

fixtures: $(DEMO)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fixtures]'
	$(BIN)/python fixtures/recipes/everything.py

# the tests alone, on the oldest and on the newest versions of the packages; plain torch may bring gigabytes
lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e '.[dev]'
	$(VENV)-lowest/bin/python -m pytest

newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade -e '.[dev]'
	$(VENV)-newest/bin/python -m pytest

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: a plain `torch` may bring gigabytes of CUDA libraries
$(DEMO): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -r constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(DEV): $(DEMO)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
