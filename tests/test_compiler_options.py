# SPDX-License-Identifier: Apache-2.0

"""Options of the compiler that change arithmetic, in CFLAGS and the like: undone, or refused when the library loads."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_offload import native_library

SOURCE_TREE = Path(__file__).resolve().parent.parent
CSRC = SOURCE_TREE / "mindspore_offload/csrc"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the option and the instruction are those of x86")

EXPORT = """
#include "arithmetic.h"
extern "C" const char* MindsporeOffloadChangedArithmetic() { return mindspore_offload::ChangedArithmetic(); }
"""

CHANGES = {
    "-ffast-math": "takes NaN and infinity for ordinary numbers",
    "-ffinite-math-only": "takes NaN and infinity for ordinary numbers",
    "-fassociative-math -fno-signed-zeros -fno-trapping-math": "reorders sums",
    "-freciprocal-math": "multiplies by reciprocals",
    "-fno-signed-zeros": "ignores the sign of zero",
    "-mfma -ffp-contract=fast": "fuses products with sums",
}


def compiled(folder, text, *options):
    """Compiles the check and `text` into a shared library."""
    (folder / "export.cc").write_text(text)
    library = folder / "library.so"
    sources = [str(CSRC / "arithmetic.cc"), "export.cc"]
    command = ["g++", "-std=c++17", "-O3", "-fPIC", f"-I{CSRC}", *options, "-c", *sources]
    subprocess.run(command, cwd=folder, check=True)
    subprocess.run(["g++", "-shared", "-o", library, "arithmetic.o", "export.o"], cwd=folder, check=True)
    return library


@needs_compiler
@pytest.mark.parametrize("options", CHANGES)
def test_changed_arithmetic_is_refused(options, tmp_path):
    if "-mfma" in options and platform.machine() != "x86_64":
        pytest.skip("needs x86")
    library = ctypes.CDLL(str(compiled(tmp_path, EXPORT, *options.split())))
    with pytest.raises(native_library.NativeLibraryError, match=f"{CHANGES[options]}; reinstall .* without options"):
        native_library._check_arithmetic(library, False)


@needs_compiler
@needs_x86
def test_our_options_undo_those_of_the_environment(tmp_path):
    options = [*" ".join(CHANGES).split(), "-Ofast", "-march=native", *(CSRC / "compile_flags.txt").read_text().split()]
    native_library._check_arithmetic(ctypes.CDLL(str(compiled(tmp_path, EXPORT, *options))), False)


# As the file that gcc links for -ffast-math: the constructor sets "flush to zero" and "denormals are zero".
FLUSH = """
#include <immintrin.h>
__attribute__((constructor)) static void Flush() { _mm_setcsr(_mm_getcsr() | 0x8040); }
"""


@needs_compiler
@needs_x86
def test_flushed_subnormals_are_noticed(tmp_path):
    library = compiled(tmp_path, EXPORT + FLUSH)
    program = f"""
import ctypes
from mindspore_offload import native_library
before = native_library._flushes_subnormals()
library = ctypes.CDLL({str(library)!r})
native_library._check_arithmetic(library, True)  # another library had done it
try:
    native_library._check_arithmetic(library, before)
except native_library.NativeLibraryError as error:
    print(before, error)
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_TREE)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("False ")
    assert "turns subnormal numbers into zeros" in run.stdout


STEP = """
import hashlib, sys
import numpy as np
from mindspore_offload import native_library
from mindspore_offload.planning.memory_speed import run_kernel
random = np.random.default_rng(4)
library = native_library.load()
for isa in library.MindsporeOffloadSupportedIsas().split():
    library.MindsporeOffloadSetIsa(isa)
    arrays = [(random.standard_normal(1001) * 1e-3 ** (i / 2)).astype(np.float32) for i in range(4)]
    arrays[2] = arrays[2] ** 2
    run_kernel(*arrays)
    print(isa, hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
print(native_library._flushes_subnormals(), file=sys.stderr)
"""


@pytest.mark.full
@needs_compiler
@needs_x86
def test_an_installation_with_fast_math_has_the_same_bits(tmp_path):
    options = "-ffast-math -Ofast -march=native"
    environment = {**os.environ, **dict.fromkeys(("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"), options)}
    build = [sys.executable, "setup.py", "--quiet", "build", f"--build-base={tmp_path}", f"--build-lib={tmp_path}/lib"]
    subprocess.run(build, cwd=SOURCE_TREE, env=environment, check=True)
    results = [
        subprocess.run(
            [sys.executable, "-c", STEP],
            env={**os.environ, "PYTHONPATH": str(place)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        for place in (SOURCE_TREE, tmp_path / "lib")
    ]
    assert results[0].stdout == results[1].stdout
    assert [result.stderr.strip() for result in results] == ["False", "False"]
