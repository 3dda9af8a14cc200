# SPDX-License-Identifier: Apache-2.0

"""Train on several workers, each with an `AdamOffload` of its own, and compare with one process and the joint batch.

MindSpore's `msrun` starts the workers. Each computes the gradients of its share of a batch, MindSpore's AllReduce
averages them, and each worker's optimizer updates its own copy of the weights on its own part of the cores. With
--shard-states the workers share the states: each updates one piece of each. At the end the weights, and whole states,
have to be the same bits on all workers, and worker 0 trains once more, alone, with the joint batches: the losses have
to agree within the rounding of float32. Takes about half a minute on two cores:

    pip install '.[examples]'
    msrun --worker_num=2 --local_worker_num=2 --join=True --log_dir=output/data_parallel examples/data_parallel.py
"""

import hashlib
import os
import sys

import arguments
import mindspore as ms
import numpy as np
import text
from gpt import GPT, Loss
from mindspore import Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init

from mindspore_offload import AdamOffload, native_library

LENGTH, BATCH = 32, 16  # the joint batch of all workers
EPOCHS, STEPS = 1, 60
# Allowed relative difference of a loss. Float32 rounds to 6e-8. Adam divides by the size of the gradients, so rounding
# errors of small gradients grow from step to step.
TOLERANCE_OF_FIRST, TOLERANCE = 1e-6, 1e-4


class ParallelStep(nn.Cell):
    """A step on this worker's share of a batch. Returns the loss of the joint batch."""

    def __init__(self, loss, optimizer, workers):
        super().__init__(auto_prefix=False)
        self.optimizer, self.workers = optimizer, workers
        self.backward = ops.value_and_grad(loss, None, optimizer.parameters)
        self.average = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=workers)
        self.sum = ops.AllReduce()

    def construct(self, tokens, targets):
        loss, gradients = self.backward(tokens, targets)
        self.optimizer(self.average(gradients))
        return self.sum(loss) / self.workers


class Gather(nn.Cell):
    """Concatenates the tensors of all workers."""

    def __init__(self):
        super().__init__()
        self.gather = ops.AllGather()

    def construct(self, x):
        return self.gather(x)


def new_training(seed, shard_states=False):
    """Returns a new loss and its optimizer. All workers get the same weights, from the same seed."""
    ms.set_seed(seed)
    gpt = GPT(layers=2, width=96, heads=6, length=LENGTH)
    return Loss(gpt), AdamOffload(gpt.trainable_params(), 1e-3, shard_states=shard_states)


def train(step, batches):
    return np.array([float(step(*map(Tensor, batch)).asnumpy()) for batch in batches])


def digest(parameters):
    """Returns a hash of all bits of some parameters, as eight int32."""
    sha = hashlib.sha256()
    for parameter in parameters:
        sha.update(parameter.asnumpy().tobytes())
    return np.frombuffer(sha.digest(), np.int32)


def main():
    parser = arguments.parser(__doc__, EPOCHS)
    arguments.add_steps(parser, STEPS)
    parser.add_argument("--shard-states", action="store_true", help="let the workers share the states")
    options = arguments.parse(parser)
    if "MS_ROLE" not in os.environ:
        sys.exit(
            "data_parallel.py: error: msrun has to start it: msrun --worker_num=2 --local_worker_num=2 --join=True "
            "--log_dir=output/data_parallel examples/data_parallel.py"
        )
    init()
    rank, workers = get_rank(), get_group_size()
    if BATCH % workers:
        sys.exit(f"data_parallel.py: error: the joint batch of {BATCH} can't be shared by {workers} workers equally.")

    training, _ = text.load(LENGTH)
    steps = arguments.steps(options, epoch=len(training[0]) // BATCH)
    batches = list(text.in_order(training, BATCH, steps, options.seed).create_tuple_iterator(output_numpy=True))
    share = slice(rank * BATCH // workers, (rank + 1) * BATCH // workers)
    loss, optimizer = new_training(options.seed, options.shard_states)
    losses = train(ParallelStep(loss, optimizer, workers), [[column[share] for column in batch] for batch in batches])
    threads = native_library.load().MindsporeOffloadThreads()
    print(f"worker {rank} of {workers}: AdamOffload has {threads} of {len(os.sched_getaffinity(0))} cores")
    print(f"worker {rank} of {workers}: loss {losses[0]:.4f} in the first step, {losses[-1]:.4f} in step {steps}")

    states = [*optimizer.moment1, *optimizer.moment2]
    print(f"worker {rank} of {workers}: its states have {sum(each.nbytes for each in states) / 1e6:.1f} MB")
    alike = "weights" if options.shard_states else "weights and states"
    same = [*optimizer.parameters, *([] if options.shard_states else states)]
    digests = Gather()(Tensor(digest(same))).asnumpy().reshape(workers, -1)
    if (digests != digests[0]).any():
        sys.exit(f"The {alike} of the workers differ.")
    print(f"worker {rank} of {workers}: {alike} are the same bits on all workers")
    if rank == 0:
        alone = train(nn.TrainOneStepCell(*new_training(options.seed)), batches)
        differences = np.abs(losses - alone) / alone
        print(
            f"One process with the joint batches has the same losses but for a relative {differences[0]:.1e} "
            f"in the first step and {differences.max():.1e} in any."
        )
        if differences[0] > TOLERANCE_OF_FIRST or differences.max() > TOLERANCE:
            sys.exit(f"That is more than {TOLERANCE_OF_FIRST:g} in the first step, or {TOLERANCE:g} in any.")


if __name__ == "__main__":
    main()
