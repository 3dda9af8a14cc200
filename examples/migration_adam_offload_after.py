# SPDX-License-Identifier: Apache-2.0

"""Train LeNet-5 on scanned digits, and resume from the checkpoint of the last run (see "Migration" in README.md)."""

import statistics
import sys

import arguments
import mindspore as ms
from digits import LeNet5, load_batches
from mindspore import nn
from mindspore_offload import AdamOffload


def load(cell, path):
    """Loads strictly. By default, MindSpore also matches names by their end: moment1.weight could fill weight."""
    missing, unused = ms.load_param_into_net(cell, ms.load_checkpoint(str(path)), strict_load=True)
    if missing or unused:
        sys.exit(f"{path} lacks {missing or 'nothing'}, and has {unused or 'nothing'} that was not loaded.")


def main():
    options = arguments.parse(arguments.parser(__doc__, epochs=3))
    ms.set_seed(options.seed)
    batches, _ = load_batches(options.seed)
    net = LeNet5()
    optimizer = AdamOffload(net.trainable_params(), learning_rate=1e-3, weight_decay=1e-4)
    step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), optimizer).set_train()
    checkpoint = options.output / "migration_adam_offload.ckpt"
    if checkpoint.exists():
        load(step, checkpoint)
    for _ in range(options.epochs):
        loss = statistics.mean(float(step(*batch).asnumpy()) for batch in batches.create_tuple_iterator())
        print(f"{type(optimizer).__module__}: step {optimizer.global_step.asnumpy()[0]:4}   loss {loss:.6f}")
    ms.save_checkpoint(step, str(checkpoint))


if __name__ == "__main__":
    main()
