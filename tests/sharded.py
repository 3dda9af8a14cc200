# SPDX-License-Identifier: Apache-2.0

"""Trains with sharded states on the ranks that msrun starts. `test_sharded.py` reads what this program writes.

A part is one of:

    compare    trains every scenario with sharded and with whole states, and compares all bits
    save       trains to the end, and once more to the middle, where it saves and kills itself
    resume     loads what this rank has saved, and trains to the end
    load       loads a merged file, and saves what this rank has of it
    check      finds out what is refused, how states can be saved and loaded, and what a step moves
"""

import json
import sys
from pathlib import Path

import mindspore as ms
from mindspore.communication import init
from sharded_checks import check
from sharded_compare import compare
from sharded_resume import load, resume, save
from sharded_training import write_and_wait

PARTS = {"compare": compare, "save": save, "resume": resume, "load": load, "check": check}

if __name__ == "__main__":
    part, given = sys.argv[1], Path(sys.argv[2])
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    init()
    result = PARTS[part](given)
    write_and_wait(given, part, json.dumps(result))  # if a rank ends badly, msrun kills those that have not ended
