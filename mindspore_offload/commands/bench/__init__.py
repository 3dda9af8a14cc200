"""``bench``: time and memory of a step on this machine."""

HELP = "time and memory of a step on this machine, next to MindSpore's own optimizers"


def add_options(parser):
    parser.add_argument("--params", type=int, default=64 * 2**20, help="parameters (default: %(default)s)")
    parser.add_argument("--tensors", type=int, default=16, help="tensors that hold them (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=20, help="Dense(4096) layers for memory (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each optimizer (default: %(default)s)")


def run(arguments):
    from mindspore_offload.commands.bench import measure

    measure.run(arguments.params, arguments.tensors, arguments.layers, arguments.steps)
    return 0
