# SPDX-License-Identifier: Apache-2.0

"""The tables of optimizer steps: large, mid-sized and small tensors, one thread, and one core loaded."""

import math

import mindspore as ms

from benchmarks import nets, peers
from benchmarks.bare_loop import BareLoop
from benchmarks.loaded import time_loaded
from benchmarks.rivals import ALL, FROM_PYTHON, MAIN
from benchmarks.timing import needed_bytes, quartiles, time_steps
from mindspore_offload import native_library

BARE_LOOP = "bare loop"
HALVES = ("AdamOffload, float16", "AdamOffload, bfloat16")
ROUNDED_MOMENTS = tuple(name for name in ALL if name.endswith((" bfloat16 moments", " uint8 moments")))

LARGE_TENSORS, SMALL = 16, [(4096,)] * 300
TINY = {"large": [(1, 5000)] * 3, "mid": [(40, 30), (30,), (5, 6, 7)], "small": [(64,)] * 5}


def measure(part, options):
    """Returns the table of `part` in numbers. `options` are "params", "steps" and "tiny"."""
    ms.set_context(mode=ms.GRAPH_MODE)
    shapes = _shapes(part, options)
    size = sum(map(math.prod, shapes))
    threads = native_library.load().MindsporeOffloadThreads()
    table = {"params": size, "tensors": len(shapes), "steps": options["steps"], "threads": threads}
    if part == "loaded":
        return {**table, **time_loaded(ALL["AdamOffload"], shapes, options["steps"])}
    others, missing = peers.installed(threads)
    timed = time_steps(shapes, options["steps"], _rivals(part, others, threads))
    _, reference, _ = quartiles(timed["AdamOffload"].seconds)
    rows = [rival.row(name, size, reference) for name, rival in timed.items()]
    return {**table, "rivals": rows, "missing": missing}


def needed_memory(parts, options):
    """Returns the bytes that each part needs."""
    others, _ = peers.installed(threads=1)
    return {
        part: needed_bytes(sum(map(math.prod, _shapes(part, options))), _rivals(part, others, threads=1).values())
        for part in parts
    }


def _shapes(part, options):
    kind = "large" if part in ("single", "loaded") else part
    if options["tiny"]:
        return TINY[kind]
    if kind == "large":
        # Parameters of one dimension would have no uint8 moments.
        return [(1, max(1, options["params"] // LARGE_TENSORS))] * LARGE_TENSORS
    return SMALL if kind == "small" else nets.bert_shapes()


def _rivals(part, others, threads):
    main = {name: ALL[name] for name in MAIN}
    halves = {name: ALL[name] for name in HALVES}
    rounded_moments = {name: ALL[name] for name in ROUNDED_MOMENTS}
    if part == "loaded":
        return {"AdamOffload": ALL["AdamOffload"]}
    chosen = {
        "large": ALL,
        # Without float16, so that it fits into 24 GB with the peers.
        "mid": {**main, "AdamOffload, bfloat16": ALL["AdamOffload, bfloat16"], **rounded_moments},
        "small": {**main, **halves, **FROM_PYTHON},
        # MindSpore's own operations take the threads that they want.
        "single": {"AdamOffload": ALL["AdamOffload"], **rounded_moments},
    }
    return {BARE_LOOP: BareLoop(threads), **chosen[part], **others}
