# make demo    trains a network on real digits, next to MindSpore's own optimizers
# make test    runs the tests
# make lint    checks format and style        make format    mends what it can
# make bench   measures speed and memory on this machine

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml Makefile $(wildcard mindspore_offload/csrc/*)
CPP := $(wildcard mindspore_offload/csrc/*.h mindspore_offload/csrc/*.cc)

.PHONY: demo test lint format bench clean

# The stamp is younger than the sources when the environment holds what they need. pip leaves alone what is there.
$(VENV)/stamp: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=23.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint,examples]'
	touch $@

demo: $(VENV)/stamp
	$(BIN)/python examples/digits.py

test: $(VENV)/stamp
	$(BIN)/python -m pytest

lint: $(VENV)/stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(VENV)/stamp
	$(BIN)/python -m mindspore_offload bench

clean:
	rm -rf $(VENV) build output *.egg-info mindspore_offload/*.so
