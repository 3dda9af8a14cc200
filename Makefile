# make demo    trains a network on real digits, next to MindSpore's own optimizers
# make test    runs the tests
# make test-oldest   runs the tests of the contract with the oldest supported MindSpore
# make lint    checks format and style        make format    mends what it can
# make bench   measures speed and memory on this machine

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml Makefile $(wildcard mindspore_offload/csrc/*)
CPP := $(wildcard mindspore_offload/csrc/*.h mindspore_offload/csrc/*.cc)

.PHONY: demo test test-oldest lint format bench clean

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

OLDEST := .venv-oldest
$(OLDEST)/stamp: $(SOURCES)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=23.1'
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' 'mindspore==2.7.0'
	touch $@

test-oldest: $(OLDEST)/stamp
	$(OLDEST)/bin/python -m pytest tests/test_contract.py tests/test_checkpoint.py tests/test_arguments.py \
	    tests/test_update.py tests/test_life.py

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
	rm -rf $(VENV) $(OLDEST) build output *.egg-info mindspore_offload/*.so
