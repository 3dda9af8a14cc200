# make demo    trains a network on real digits, next to MindSpore's own optimizers
# make test    runs the tests
# make dist    builds the wheel, for every Linux that is not older than this one
# make test-oldest   runs the tests of the contract on that wheel, with the oldest supported MindSpore
# make test-peers    compares with PyTorch and DeepSpeed, after installing both (of PyTorch what pip takes by default)
# make lint    checks format and style        make format    mends what it can
# make kernel  tests the native kernel alone, as two compilers build it
# make sanitize   the same under the sanitizers of memory, undefined behaviour and threads
# make aarch64    the same, built for aarch64 and run in an emulator: the same bits
# make fuzz    calls the adapter with thousands of random and broken arguments
# make examples   runs all examples in full
# make bench   measures speed and memory on this machine
# make docs    builds the documentation: build/docs/en/index.html and build/docs/zh/index.html
# make figures measures anew what the documentation shows of speed and memory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml Makefile $(wildcard mindspore_offload/csrc/*)
CPP_FOLDERS := mindspore_offload/csrc tests/kernel benchmarks/kernel
CPP := $(wildcard $(addsuffix /*.h,$(CPP_FOLDERS)) $(addsuffix /*.cc,$(CPP_FOLDERS)))

.PHONY: demo examples test test-oldest test-peers lint format bench docs figures dist kernel sanitize aarch64 fuzz clean

# The stamp is younger than the sources when the environment holds what they need. pip leaves alone what is there.
$(VENV)/stamp: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=23.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dist,lint,docs,examples]'
	touch $@

demo: $(VENV)/stamp
	$(BIN)/python examples/digits.py

# msrun starts the python that it finds in PATH. The migrations begin without a checkpoint of the last time.
examples: $(VENV)/stamp demo
	$(BIN)/python examples/digits_float16.py
	$(BIN)/python examples/language_model.py
	PATH=$(BIN):$$PATH msrun --worker_num=2 --local_worker_num=2 --join=True --log_dir=output/data_parallel \
	    examples/data_parallel.py
	$(BIN)/python examples/interrupted.py
	rm -f output/migration_*.ckpt
	for optimizer in adam_offload adam; do for program in before after; do \
	    $(BIN)/python examples/migration_$${optimizer}_$$program.py || exit; done; done
	$(BIN)/python examples/placement.py transformer --dtype float16

# Most of the time is MindSpore compiling graphs, on one core: a file of tests a process, two at once.
PARALLEL := --numprocesses 2 --dist loadfile

test: $(VENV)/stamp
	$(BIN)/python -m pytest $(PARALLEL)

# The library needs nothing that is not on every Linux of the tag that auditwheel finds for it.
dist: $(VENV)/stamp
	rm -rf dist build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	PATH=$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl

OLDEST := .venv-oldest
$(OLDEST)/stamp: pyproject.toml Makefile
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=23.1'
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check '.[test]' 'mindspore==2.7.0'
	touch $@

# From inside tests/, so that the package is the installed wheel and not the folder beside it.
test-oldest: dist $(OLDEST)/stamp
	$(OLDEST)/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	cd tests && ../$(OLDEST)/bin/pytest -c ../pyproject.toml --rootdir .. $(PARALLEL) test_contract.py test_checkpoint.py \
	    test_arguments.py test_update.py test_writeback.py test_life.py test_placement.py test_adamw.py test_clipping.py \
	    test_min_offload_size.py \
	    --deselect tests/test_placement.py::test_the_documentation_shows_what_the_command_prints

test-peers: $(VENV)/stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[peers]'
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m pytest tests/test_peers.py tests/test_bench.py -k 'torch or peers'

lint: $(VENV)/stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Everything but the exports, whose flags only setup.py knows.
KERNEL := $(filter-out %/mindspore_op.cc,$(wildcard mindspore_offload/csrc/*.cc))
HARNESS := $(wildcard tests/kernel/*.cc) $(KERNEL)
FLAGS := @mindspore_offload/csrc/compile_flags.txt
# Where a tool is missing the check is skipped, but not in continuous integration, where CI is set.
needs = command -v $(1) > /dev/null || { echo "$@ is skipped: there is no $(1); $(2)"; test -z "$$CI"; exit $$?; }

build/harness: $(HARNESS) $(CPP)
	mkdir -p build
	g++ $(FLAGS) -o $@ $(HARNESS)
	$@ > $@.digest

kernel: build/harness
	@$(call needs,clang++,install clang); set -ex; \
	clang++ $(FLAGS) -o build/harness-clang $(HARNESS); \
	build/harness-clang | diff build/harness.digest -

sanitize:
	mkdir -p build
	set -ex; for kind in address,undefined thread; do \
	    g++ $(FLAGS) -O1 -g -fsanitize=$$kind -fno-sanitize-recover=all -o build/harness-$$kind $(HARNESS); \
	    build/harness-$$kind; \
	done

aarch64: build/harness
	@$(call needs,aarch64-linux-gnu-g++,install g++-aarch64-linux-gnu); \
	$(call needs,qemu-aarch64,install qemu-user); set -ex; \
	aarch64-linux-gnu-g++ $(FLAGS) -static -o build/harness-aarch64 $(HARNESS); \
	qemu-aarch64 build/harness-aarch64 | diff build/harness.digest -

fuzz: $(VENV)/stamp
	$(BIN)/python -m pytest tests/test_fuzz.py --hypothesis-profile=campaign

# The yardstick of the benchmark, apart from the package's library.
build/libbare_loop.so: benchmarks/kernel/bare_loop.cc $(CPP)
	mkdir -p build
	g++ $(FLAGS) -fPIC -shared -fvisibility=hidden -o $@ benchmarks/kernel/bare_loop.cc mindspore_offload/csrc/team.cc

bench: $(VENV)/stamp
	$(BIN)/python -m mindspore_offload bench

# A warning is an error, a link that leads nowhere too.
docs: $(VENV)/stamp
	$(BIN)/sphinx-build -q -E -W -n --keep-going docs_en build/docs/en
	$(BIN)/sphinx-build -q -E -W -n --keep-going docs_zh build/docs/zh

# With PyTorch and DeepSpeed, which `make test-peers` installs.
figures: $(VENV)/stamp
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m mindspore_offload bench --loaded --plot docs/bench.png > docs/bench.txt

clean:
	rm -rf $(VENV) $(OLDEST) build dist output *.egg-info mindspore_offload/*.so
