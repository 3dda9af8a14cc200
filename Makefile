# SPDX-License-Identifier: Apache-2.0

# make demo          train a network on scanned digits and compare with MindSpore's optimizers
# make examples      run all examples in full
# make test          run the tests, in minutes
# make test-all      run the slow tests too: all combinations of arguments, trainings of the examples and the benchmark,
#                    the pages in a browser, `make fuzz`, and all of `make second-memory`
# make lint          check style, types, licence headers and workflows
# make format        fix what the formatters can fix, and add missing licence headers
# make docs          build the documentation: build/docs/en/index.html and build/docs/zh/index.html
# make dist          build the source distribution and the wheels (x86-64; aarch64 with its cross-compiler)
# make test-dist     check what `make dist` built: load each library, run the kernel's tests on its object files (those
#                    for aarch64 in an emulator), run tests from the source distribution
# make test-oldest   run the tests on the wheel with the oldest supported MindSpore
# make test-peers    compare with PyTorch and DeepSpeed; installs both
# make test-clients  train with MindFormers, MindCV and mindone, which it installs into an environment of their own
# make second-memory run MindSpore's GPU runtime without a GPU, over a device memory that the host can't touch
# make timeline      draw docs/timeline.svg and docs/ratios.svg, training steps in that runtime, in both languages
# make kernel        test the native kernel alone, compiled by g++ and clang++
# make sanitize      the same under the address, undefined-behaviour and thread sanitizers
# make aarch64       the same, compiled for aarch64 and run in an emulator; the bits must be equal
# make fuzz          call the MindSpore adapter with thousands of random and broken arguments, and compare hundreds of
#                    random optimizers with float64
# make bench         measure speed and memory on this machine, in about half an hour
# make bench-kernel  time the native kernel alone, with other tile sizes and prefetch distances
# make bench-formats compare formats of 8-bit moments, ours and those of other projects, with float64
# make figures       measure this machine for the documentation: tables and pictures in docs/bench, named after the CPU,
#                    and docs/memory.svg

PYTHON ?= python3
# The package with MindSpore; and style, documentation and packaging, which need no MindSpore.
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
SOURCES := setup.py pyproject.toml Makefile $(wildcard mindspore_offload/csrc/*)
CPP_FOLDERS := mindspore_offload/csrc tests/kernel tests/second_memory/standin benchmarks/kernel
CPP := $(wildcard $(addsuffix /*.h,$(CPP_FOLDERS)) $(addsuffix /*.cc,$(CPP_FOLDERS)))

# A program whose first run fails is not there, so the next `make` builds and runs it again.
.DELETE_ON_ERROR:
.PHONY: demo examples test test-all test-dist test-oldest test-peers test-clients second-memory timeline lint format bench \
    bench-kernel bench-formats docs figures dist kernel sanitize aarch64 fuzz clean

# $(call environment,what to install). The stamp is younger than the sources when the environment holds what they need.
# pip leaves alone what is there, and compiles no module: Python compiles those that are imported.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
define environment
test -x $(@D)/bin/python || $(PYTHON) -m venv --clear $(@D)
$(@D)/bin/python $(INSTALL) 'pip>=25.1'
$(@D)/bin/python $(INSTALL) $(1)
endef

$(VENV)/stamp: $(SOURCES)
	@test -x $(BIN)/python || echo "Setting up $(VENV): downloads MindSpore and what the examples need, 0.8 GB."
	$(call environment,--group test --editable '.[examples]')
	touch $@

$(TOOLS)/stamp: pyproject.toml
	$(call environment,--group lint --group docs --group dist)
	touch $@

demo: $(VENV)/stamp
	$(BIN)/python examples/digits.py

# msrun starts the python that it finds in PATH. The migrations begin without a checkpoint of the last time.
examples: $(VENV)/stamp demo
	$(BIN)/python examples/quick_start.py
	$(BIN)/python examples/digits_float16.py
	$(BIN)/python examples/language_model.py
	$(BIN)/python examples/gan.py
	PATH=$(BIN):$$PATH msrun --worker_num=2 --local_worker_num=2 --join=True --log_dir=output/data_parallel \
	    examples/data_parallel.py
	$(BIN)/python examples/interrupted.py
	rm -f output/migration_*.ckpt
	for optimizer in adam_offload adam; do for program in before after; do \
	    $(BIN)/python examples/migration_$${optimizer}_$$program.py || exit; done; done
	$(BIN)/python examples/placement.py transformer --dtype float16

# Most of the time is MindSpore compiling graphs, on one core: a file of tests a process, two at once. The benchmark's
# yardstick is built before, since two tests at once would build it.
WORKERS ?= 2
PARALLEL = --numprocesses $(WORKERS) --dist loadfile
ALL := -m ""

test: $(VENV)/stamp build/libbare_loop.so
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(VENV)/stamp build/libbare_loop.so build/second_memory/cuda/bin/nvcc docs fuzz
	$(BIN)/python -m pytest $(PARALLEL) $(ALL)
	$(BIN)/python -m pytest $(ALL) tests/second_memory

# The wheels are built from the unpacked source distribution, so nothing of an earlier build gets into them. auditwheel
# tags each for the oldest Linux that its library runs on, at best this one. _PYTHON_HOST_PLATFORM is the platform that
# setuptools builds for.
WHEEL := $(TOOLS)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheels build/sdist

# After $(VENV), not beside it: setuptools writes one .egg-info for both.
dist: $(TOOLS)/stamp $(VENV)/stamp
	rm -rf dist build/sdist build/wheels
	$(TOOLS)/bin/python -m build --sdist --outdir dist > /dev/null
	mkdir -p build/sdist
	tar xf dist/*.tar.gz -C build/sdist --strip-components 1
	$(WHEEL)
	@$(call needs,aarch64-linux-gnu-g++,install g++-aarch64-linux-gnu); set -x; \
	CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ _PYTHON_HOST_PLATFORM=linux-aarch64 $(WHEEL)
	for wheel in build/wheels/*.whl; do PATH=$(TOOLS)/bin:$$PATH auditwheel repair --wheel-dir dist $$wheel || exit; done

# $(call check-wheel,architecture,compiler,emulator). The harness is linked from the object files of the wheel's library,
# and with that library itself, so it does not start unless the library loads.
define check-wheel
set -ex; \
$(BIN)/python -m zipfile -e dist/*_$(1).whl build/wheel-$(1); \
$(2) $(FLAGS) -o build/harness-wheel-$(1) $(filter tests/%,$(HARNESS)) build/sdist/build/temp.linux-$(1)-*/*/csrc/*.o \
    -Wl,--no-as-needed build/wheel-$(1)/mindspore_offload/libmindspore_offload.so; \
LD_BIND_NOW=1 $(3) build/harness-wheel-$(1) without-statistics > build/harness-wheel-$(1).digest; \
diff build/harness.digest build/harness-wheel-$(1).digest
endef

# The tests of the unpacked source distribution import the package beside them, with a library that is compiled there.
FROM_SDIST := cd build/sdist && PYTHONPATH=$$PWD $(abspath $(BIN))/python

test-dist: dist build/harness
	@$(call check-wheel,$(shell uname -m),g++)
	@$(call needs,aarch64-linux-gnu-g++,install g++-aarch64-linux-gnu); \
	$(call needs,qemu-aarch64,install qemu-user); \
	$(call check-wheel,aarch64,aarch64-linux-gnu-g++,qemu-aarch64 -L /usr/aarch64-linux-gnu)
	$(FROM_SDIST) setup.py --quiet build_ext --inplace
	$(FROM_SDIST) -m pytest --quiet --quiet --collect-only > collected
	$(FROM_SDIST) -m pytest --quiet tests/test_native_library.py tests/test_adamw.py

# MindSpore 2.7.0 itself requires a numpy below 2.
OLDEST := .venv-oldest
$(OLDEST)/stamp: pyproject.toml
	$(call environment,--group test 'mindspore==2.7.0')
	touch $@

# From inside tests/, so that the tests import the installed wheel and not the folder beside them.
test-oldest: dist $(OLDEST)/stamp
	$(OLDEST)/bin/python $(INSTALL) --force-reinstall --no-deps dist/*_$(shell uname -m).whl
	cd tests && ../$(OLDEST)/bin/pytest -c ../pyproject.toml --rootdir .. $(PARALLEL) -m "not full and not newest" .

# DeepSpeed compiles its kernel into a folder of its own: a lock that an interrupted build left in the home folder would
# make it wait for ever.
WITH_PEERS := TORCH_EXTENSIONS_DIR=$(abspath build/torch_extensions) PATH=$(abspath $(BIN)):$$PATH

test-peers: $(VENV)/stamp
	$(BIN)/python $(INSTALL) --editable '.[peers]'
	$(WITH_PEERS) $(BIN)/python -m pytest $(ALL) $(wildcard tests/test_peers.py tests/test_bench*.py tests/test_docs.py) \
	    -k 'torch or peers'

CLIENTS := .venv-clients
$(CLIENTS)/stamp: $(SOURCES) tests/clients/requirements.txt
	$(call environment,--group test --editable . --requirement tests/clients/requirements.txt)
	$(@D)/bin/python $(INSTALL) --no-deps mindcv==0.3.0 mindone==0.5.0 mindformers==2.1.0
	touch $@

# One process at a time, as most of the time is MindSpore compiling, and the libraries are large.
test-clients: $(CLIENTS)/stamp
	$(CLIENTS)/bin/python -m pytest $(ALL) tests/clients
	$(CLIENTS)/bin/python -m pytest $(ALL) tests/test_docs.py -k libraries

# The headers of CUDA come from the package index. One process at a time: each test shares its MindSpore with others.
HEADERS := build/cuda_headers
build/second_memory/cuda/bin/nvcc: $(VENV)/stamp tests/second_memory/build.py $(wildcard tests/second_memory/standin/*)
	$(BIN)/python $(INSTALL) --upgrade --no-deps --target $(HEADERS) --group second-memory
	PYTHONPATH=$(HEADERS) $(BIN)/python tests/second_memory/build.py build/second_memory

second-memory: build/second_memory/cuda/bin/nvcc
	$(BIN)/python -m pytest tests/second_memory

timeline: build/second_memory/cuda/bin/nvcc
	$(BIN)/python tests/second_memory/timeline.py docs
	$(BIN)/python tests/second_memory/ratios.py docs

SCHEMA := $(TOOLS)/bin/check-jsonschema --builtin-schema

lint: $(TOOLS)/stamp
	$(TOOLS)/bin/ruff check .
	$(TOOLS)/bin/ruff format --check .
	$(TOOLS)/bin/clang-format --dry-run --Werror $(CPP)
	$(TOOLS)/bin/mypy
	$(TOOLS)/bin/reuse lint --lines
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(TOOLS)/bin/zizmor --offline --quiet .github
	$(TOOLS)/bin/pre-commit validate-config .pre-commit-config.yaml

HEADER := $(TOOLS)/bin/reuse annotate --license Apache-2.0 --skip-existing

format: $(TOOLS)/stamp
	$(TOOLS)/bin/ruff check --fix .
	$(TOOLS)/bin/ruff format .
	$(TOOLS)/bin/clang-format -i $(CPP)
	$(HEADER) $$(git ls-files --cached --others --exclude-standard '*.py')
	$(HEADER) --style cppsingle $(CPP)

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
	build/harness-clang > build/harness-clang.digest; \
	diff build/harness.digest build/harness-clang.digest

sanitize:
	mkdir -p build
	set -ex; for kind in address,undefined thread; do \
	    g++ $(FLAGS) -O1 -g -fsanitize=$$kind -fno-sanitize-recover=all -o build/harness-$$kind $(HARNESS); \
	    build/harness-$$kind without-statistics; \
	done

aarch64: build/harness
	@$(call needs,aarch64-linux-gnu-g++,install g++-aarch64-linux-gnu); \
	$(call needs,qemu-aarch64,install qemu-user); set -ex; \
	aarch64-linux-gnu-g++ $(FLAGS) -static -o build/harness-aarch64 $(HARNESS); \
	qemu-aarch64 build/harness-aarch64 without-statistics > build/harness-aarch64.digest; \
	diff build/harness.digest build/harness-aarch64.digest

FUZZ := $(wildcard tests/test_fuzz*.py)

fuzz: $(VENV)/stamp
	$(BIN)/python -m pytest $(PARALLEL) $(ALL) $(FUZZ) --hypothesis-profile=fuzz

# The yardstick of the benchmark, apart from the package's library.
build/libbare_loop.so: benchmarks/kernel/bare_loop.cc $(CPP)
	mkdir -p build
	g++ $(FLAGS) -fPIC -shared -fvisibility=hidden -o $@ benchmarks/kernel/bare_loop.cc mindspore_offload/csrc/team.cc

build/kernel_bench: benchmarks/kernel/kernel_bench.cc $(CPP)
	mkdir -p build
	g++ $(FLAGS) -o $@ benchmarks/kernel/kernel_bench.cc $(KERNEL)

bench-kernel: build/kernel_bench
	build/kernel_bench

build/formats_bench: benchmarks/kernel/formats_bench.cc $(CPP)
	mkdir -p build
	g++ $(FLAGS) -o $@ benchmarks/kernel/formats_bench.cc tests/kernel/tracking.cc tests/kernel/code_reference.cc \
	    $(KERNEL)

bench-formats: build/formats_bench
	build/formats_bench

bench: $(VENV)/stamp
	$(BIN)/python -m benchmarks

# A warning is an error, a link that leads nowhere too.
docs: $(TOOLS)/stamp
	$(TOOLS)/bin/sphinx-build -q -E -W -n --keep-going docs_en build/docs/en
	$(TOOLS)/bin/sphinx-build -q -E -W -n --keep-going docs_zh build/docs/zh
	cp docs/index.html build/docs/index.html

# With PyTorch and DeepSpeed, which `make test-peers` installs.
figures: $(VENV)/stamp
	$(WITH_PEERS) $(BIN)/python -m benchmarks --figures docs/bench
	$(BIN)/python -m benchmarks.memory docs

clean:
	rm -rf $(VENV) $(TOOLS) $(OLDEST) $(CLIENTS) build dist output *.egg-info mindspore_offload/*.so
