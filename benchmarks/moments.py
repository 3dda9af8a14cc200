# SPDX-License-Identifier: Apache-2.0

"""Compares the dtypes of moments over seeds: ``python -m benchmarks.moments``, from the root of the repository.

For each seed it trains the digits and the language model of the examples with `AdamWOffload`, once with each dtype of
the moments and all else the same. It prints the losses and how they differ from those with float32 moments: the mean
and its standard error. Every finished training is kept in a file, so that an interrupted comparison continues with the
next one. Needs the packages of the examples:
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
from mindspore_offload.commands.units import option
from mindspore_offload.errors import CommandError
from mindspore_offload.planning.estimation import Range

EXAMPLES = str(ROOT / "examples")
EXACT, *ROUNDED = DTYPES = ("float32", "bfloat16", "uint8")

# The function that trains, what it returns, and its settings: usual ones, and tiny ones.
TASKS = {
    "digits": ("test loss, nats an image", {"epochs": 12}, {"epochs": 1}),
    "language_model": (
        "validation loss, nats a byte",
        {"steps": 200, "layers": 2, "width": 384},
        {"steps": 4, "layers": 1, "width": 24},
    ),
}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moments", description="Compares the dtypes of moments over seeds."
    )
    parser.add_argument(
        "--seeds",
        **option(Range("whole number", 2)),
        default=10,
        help="compare the seeds 1 to N (default: %(default)s)",
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
            trained = _trained(task, settings, arguments.seeds, arguments.results)
            print(_table(task, measured, settings, *trained), flush=True)
    except (CommandError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _trained(task, settings, seeds, results):
    """Returns the losses of each seed and the share of each dtype, after the trainings that `results` does not have."""
    done = {}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            run = json.loads(line)
            if (run["task"], run["settings"], run["version"]) == (task, settings, __version__):
                done[run["seed"], run["moments"]] = run["loss"], run["share"]
    for seed in range(1, seeds + 1):
        for moments in DTYPES:
            if (seed, moments) in done:
                continue
            progress(f"{task}, seed {seed} of {seeds}, {moments} moments")
            loss, share = done[seed, moments] = call(f"benchmarks.moments:{task}", moments, seed, settings)
            run = {"task": task, "settings": settings, "version": __version__}
            run |= {"seed": seed, "moments": moments, "loss": loss, "share": share}
            with open(results, "a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
    losses = {seed: [done[seed, moments][0] for moments in DTYPES] for seed in range(1, seeds + 1)}
    return losses, [done[1, moments][1] for moments in DTYPES]


def _table(task, measured, settings, losses, shares):
    described = ", ".join(f"{name} {value}" for name, value in settings.items())
    lines = [f"\n{task} ({described}): {measured}"]
    lines.append(f"seed{EXACT:>12}" + "".join(f"{dtype:>12}{'difference':>12}" for dtype in ROUNDED))
    for seed, (exact, *others) in losses.items():
        lines.append(f"{seed:4}{exact:12.5f}" + "".join(f"{loss:12.5f}{loss - exact:+12.5f}" for loss in others))
    for i, dtype in enumerate(ROUNDED, 1):
        differences = [each[i] - each[0] for each in losses.values()]
        mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
        lines.append(
            f"{dtype} moments of {100 * shares[i]:.1f} % of the elements: "
            f"mean difference {mean:+.5f}, standard error {error:.5f}"
        )
    spread = statistics.stdev(exact for exact, *_ in losses.values())
    lines.append(f"standard deviation of {EXACT}'s losses from seed to seed {spread:.5f}")
    return "\n".join(lines)


def language_model(moments, seed, settings):
    """Trains the GPT of the example of this name in float32. Returns its validation loss, and the share of `_share`."""
    sys.path.insert(0, EXAMPLES)
    import language_model as example
    import mindspore as ms
    import text
    from float16_step import MAX_NORM
    from gpt import GPT, Loss

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
    validation_set = text.in_order(validation, example.BATCH, len(validation[0]) // example.BATCH, seed)
    return _mean_loss(loss, validation_set), _share(optimizer, moments)


def digits(moments, seed, settings):
    """Trains the LeNet-5 of the example of this name. Returns its test loss, and the share of `_share`."""
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
    return _mean_loss(loss, test_set), _share(optimizer, moments)


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


def _share(optimizer, moments):
    """Returns the share of the elements whose moments have this dtype. Those of small parameters stay float32."""
    sizes = {True: 0, False: 0}
    for parameter, moment in zip(optimizer.parameters, optimizer.moment1):
        sizes[str(moment.dtype).lower() == moments] += parameter.size
    return sizes[True] / sum(sizes.values())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as an interrupt does
    sys.exit(main())
