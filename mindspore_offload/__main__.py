"""``python -m mindspore_offload bench``"""

import argparse

from mindspore_offload import bench


def main():
    parser = argparse.ArgumentParser(prog="python -m mindspore_offload")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "bench", help="time and memory of a step on this machine, next to MindSpore's own optimizers"
    )
    command.add_argument("--params", type=int, default=64 * 2**20, help="parameters (default: %(default)s)")
    command.add_argument("--tensors", type=int, default=16, help="tensors that hold them (default: %(default)s)")
    command.add_argument("--layers", type=int, default=20, help="Dense(4096) layers for memory (default: %(default)s)")
    command.add_argument("--steps", type=int, default=15, help="timed steps of each optimizer (default: %(default)s)")
    arguments = parser.parse_args()
    bench.run(arguments.params, arguments.tensors, arguments.layers, arguments.steps)


if __name__ == "__main__":
    main()
