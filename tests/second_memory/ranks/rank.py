# SPDX-License-Identifier: Apache-2.0

"""The program of one rank:  rank.py FOLDER JIT_LEVEL DISPATCH_THREADS MUTANT CASE ...

It writes a pickle for each case: the result of `trainings.train`, with the collectives that its steps launched, or the
text of an error. MUTANT is a function of `mutants` that changes the package, or "none".
"""

import os
import pickle
import sys
import traceback
from collections import Counter
from pathlib import Path

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "message")


def main(folder, jit_level, dispatch_threads, mutant, *names):
    folder = Path(folder)
    log = folder / f"log{os.getpid()}"
    os.environ["SECOND_MEMORY_LOG"] = str(log)  # the stand-in opens it later

    import mindspore as ms
    from cases import ALL
    from trainings import train

    ms.set_device("GPU")
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": jit_level})
    ms.runtime.dispatch_threads_num(int(dispatch_threads))
    ms.communication.init()
    if mutant != "none":
        sys.path.append(str(Path(__file__).parent.parent))
        import mutants

        getattr(mutants, mutant)()
    rank, ranks = ms.communication.get_rank(), ms.communication.get_group_size()
    # After a training with delayed parameters, MindSpore trains nn.Adam wrong in the same process.
    for name in sorted(names, key=lambda name: ALL[name].get("delayed", False)):
        start = log.stat().st_size if log.exists() else 0
        try:
            result = train(ranks, ALL[name])
            launched = Counter(line.split()[2] for line in log.read_text()[start:].splitlines())
            result["collectives"] = {each: launched[each] for each in COLLECTIVES if launched[each]}
        except Exception:
            result = traceback.format_exc()
        (folder / f"{name}.{rank}").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
