# SPDX-License-Identifier: Apache-2.0

"""Compares float32 with bfloat16 moments over seeds: ``python -m benchmarks.moments``, from the root of the repository.

For each seed it trains the language model and the digits of the examples twice with `AdamWOffload`; only the dtype of
the moments differs. It prints the losses, and their mean difference with its standard error. Every finished training is
kept in a file, so that an interrupted comparison continues with the next one. Needs the packages of the examples:
``pip install '.[examples]'``.
"""

import argparse
import json
import signal
import statistics
import sys
from pathlib import Path

from benchmarks.process import ROOT, call, progress
from mindspore_offload import __version__
from mindspore_offload.commands.options import whole_number
from mindspore_offload.errors import CommandError

EXAMPLES = str(ROOT / "examples")
DTYPES = ("float32", "bfloat16")

# The function that trains, what it returns, and its settings: usual ones, and tiny ones.
TASKS = {
    "digits": ("test loss, nats an image", {"epochs": 12}, {"epochs": 1}),
    "language_model": (
        "validation loss, nats a byte",
        {"steps": 60, "layers": 2, "width": 384},
        {"steps": 4, "layers": 1, "width": 24},
    ),
}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moments", description="Compares float32 with bfloat16 moments over seeds."
    )
    parser.add_argument(
        "--seeds", type=_several, default=10, metavar="N", help="compare the seeds 1 to N (default: %(default)s)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "build" / "moments.jsonl",
        metavar="FILE",
        help="keep finished trainings in this file, and don't repeat those in it (default: build/moments.jsonl)",
    )
    parser.add_argument("--tiny", action="store_true", help="try the program with tiny nets and few steps")
    arguments = parser.parse_args(argv)
    try:
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        for task, (measured, usual, tiny) in TASKS.items():
            settings = tiny if arguments.tiny else usual
            losses = _losses(task, settings, arguments.seeds, arguments.results)
            print(_table(task, measured, settings, losses), flush=True)
    except (CommandError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _several(text):
    return whole_number(text, least=2)


def _losses(task, settings, seeds, results):
    """Returns the pair of losses of each seed, after the trainings that are not yet in the file `results`."""
    done = {}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            run = json.loads(line)
            if (run["task"], run["settings"], run["version"]) == (task, settings, __version__):
                done[run["seed"], run["moments"]] = run["loss"]
    for seed in range(1, seeds + 1):
        for moments in DTYPES:
            if (seed, moments) in done:
                continue
            progress(f"{task}, seed {seed} of {seeds}, {moments} moments")
            loss = call(f"benchmarks.moments:{task}", moments, seed, settings)
            done[seed, moments] = loss
            run = {"task": task, "settings": settings, "version": __version__}
            run |= {"seed": seed, "moments": moments, "loss": loss}
            with open(results, "a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
    return {seed: [done[seed, moments] for moments in DTYPES] for seed in range(1, seeds + 1)}


def _table(task, measured, settings, losses):
    described = ", ".join(f"{name} {value}" for name, value in settings.items())
    lines = [f"\n{task} ({described}): {measured}"]
    lines.append(f"{'seed':>4}" + "".join(f"{dtype:>12}" for dtype in DTYPES) + f"{'difference':>14}")
    differences = [bfloat16 - float32 for float32, bfloat16 in losses.values()]
    for (seed, pair), difference in zip(losses.items(), differences):
        lines.append(f"{seed:4}" + "".join(f"{loss:12.5f}" for loss in pair) + f"{difference:+14.5f}")
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    lines.append(f"mean difference {mean:+.5f}, standard error {error:.5f}")
    spread = statistics.stdev(float32 for float32, _ in losses.values())
    lines.append(f"standard deviation of float32's losses from seed to seed {spread:.5f}")
    return "\n".join(lines)


def language_model(moments, seed, settings):
    """Trains the GPT of the example of this name in float32. Returns its validation loss."""
    sys.path.insert(0, EXAMPLES)
    import language_model as example
    import mindspore as ms
    import text
    from gpt import GPT, Loss
    from steps import MAX_NORM

    _set_up(seed)
    loss = Loss(GPT(settings["layers"], settings["width"], 6, example.LENGTH))
    training, validation = text.load(example.LENGTH)
    optimizer = example.AdamWOffload(
        example.parameter_groups(loss, example.DECOUPLED_DECAY),
        example.learning_rates(settings["steps"]),
        max_grad_norm=MAX_NORM,
        moment_dtype=getattr(ms, moments),
    )
    _train(loss, optimizer, text.in_order(training, example.BATCH, settings["steps"], seed), epochs=1)
    return _mean_loss(loss, text.in_order(validation, example.BATCH, len(validation[0]) // example.BATCH, seed))


def digits(moments, seed, settings):
    """Trains the LeNet-5 of the example of this name. Returns its test loss."""
    sys.path.insert(0, EXAMPLES)
    import digits as example
    import mindspore as ms
    from mindspore import nn

    from mindspore_offload import AdamWOffload

    _set_up(seed)
    training_set, test_set = example.load_batches(seed)
    net = example.LeNet5()
    steps, epochs = training_set.get_dataset_size(), settings["epochs"]
    rates = nn.cosine_decay_lr(0.0, example.LEARNING_RATE, epochs * steps, steps, epochs)
    loss = nn.WithLossCell(net, nn.CrossEntropyLoss())
    optimizer = AdamWOffload(net.trainable_params(), rates, moment_dtype=getattr(ms, moments))
    _train(loss, optimizer, training_set, epochs)
    return _mean_loss(loss, test_set)


def _set_up(seed):
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(seed)  # decides the initial weights and the order of the batches


def _train(loss, optimizer, batches, epochs):
    from mindspore import nn

    step = nn.TrainOneStepCell(loss, optimizer).set_train()
    iterator = batches.create_tuple_iterator(num_epochs=epochs)
    for _ in range(epochs):
        for batch in iterator:
            step(*batch)


def _mean_loss(loss, batches):
    loss.set_train(False)
    return statistics.mean(float(loss(*batch).asnumpy()) for batch in batches.create_tuple_iterator(num_epochs=1))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as an interrupt does
    sys.exit(main())
