# SPDX-License-Identifier: Apache-2.0

"""Builds the stand-in for the CUDA libraries:  python tests/second_memory/build.py build/second_memory

All libraries are one file under several names. It defines whatever MindSpore's GPU plugin links against: the functions
that `standin/` implements, and a stub for each of the others, which ends the process with its name.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "standin"
PLUGIN = "libmindspore_gpu.so.11.6"
KERNELS = "libcuda_ops.so.11"
DRIVER = "libcuda.so.1"
# MindSpore makes handles of every library when it starts, and asks the compiler for its version. A library of MindSpore
# 2.7 registers its device code.
HARMLESS = re.compile(
    r"cu\w*(Create|Destroy|SetStream|SetMathMode)(_v2)?|cudnnSetStream|nvrtcVersion|__cudaRegister\w+"
)
NVCC = '#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.55"\n'


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    # Found without importing: MindSpore can't load its GPU plugin before this has run.
    plugins = Path(importlib.util.find_spec("mindspore").origin).parent / "lib" / "plugin"
    libraries, kernels = _needed(plugins)
    objects = [_compile(source, folder) for source in sorted(SOURCES.glob("*.cc"))]
    implemented = set().union(*(_symbols(each, "--defined-only") for each in objects))
    _write_stubs(folder / "stubs.c", (set().union(*libraries.values()) | kernels) - implemented)
    (folder / "versions.map").write_text(
        "".join(f"{name} {{ global: {'; '.join(sorted(symbols))}; }};\n" for name, symbols in libraries.items())
    )
    stubs = folder / "stubs.o"
    _run("gcc", "-c", "-fPIC", "-w", "-o", stubs, folder / "stubs.c")
    link = ["g++", "-shared", f"-Wl,-soname,{KERNELS}", f"-Wl,--version-script={folder / 'versions.map'}"]
    _run(*link, "-o", folder / KERNELS, *objects, stubs)
    for name in (*libraries, DRIVER):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(KERNELS)
    nvcc = folder / "cuda" / "bin" / "nvcc"  # MindSpore runs it to find out which plugin suits
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)


def environment(folder):
    """The variables of a process whose GPU is the second memory."""
    return {
        "CUDA_HOME": str(folder / "cuda"),
        "LD_LIBRARY_PATH": str(folder),
        # The plugin looks beside itself first, where the wheel's own kernels are.
        "LD_PRELOAD": str(folder / KERNELS),
    }


def _needed(plugins):
    """The symbols of each versioned CUDA library; and the kernels and the functions of the driver, which have none."""
    libraries, plain = {}, set()
    for symbol in _symbols(plugins / PLUGIN, "--undefined-only"):
        name, _, library = symbol.partition("@")
        if library.startswith("libcu") or library.startswith("libnv"):
            libraries.setdefault(library, set()).add(name)
        elif not library:
            plain.add(name)
    kernels = _symbols(plugins / "gpu" / KERNELS, "--defined-only") & plain
    return libraries, kernels | {name for name in plain if re.fullmatch(r"cu[A-Z]\w+", name)}


def _symbols(path, which):
    listed = subprocess.run(["nm", "--dynamic", which, path], check=True, capture_output=True, text=True).stdout
    if not listed:  # an object file has no dynamic symbols
        listed = subprocess.run(["nm", which, path], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1] for line in listed.splitlines()}


def _compile(source, folder):
    nvidia = Path(importlib.util.find_spec("nvidia").submodule_search_locations[0])
    headers = [f"-I{nvidia / package / 'include'}" for package in ("cuda_runtime", "cuda_nvcc")]
    target = folder / f"{source.stem}.o"
    # Products are not fused into sums, so that elementwise kernels give the bits of the CPU device's.
    _run("g++", "-c", "-O2", "-std=c++17", "-fPIC", "-Wall", "-ffp-contract=off", *headers, "-o", target, source)
    return target


def _write_stubs(path, names):
    lines = ["extern void second_memory_stub(const char *);"]
    for name in sorted(names):
        body = "return 0;" if HARMLESS.fullmatch(name) else f'second_memory_stub("{name}");'
        lines.append(f"long {name}(void) {{ {body} }}")
    path.write_text("\n".join(lines) + "\n")


def _run(*command):
    subprocess.run(list(map(str, command)), check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
