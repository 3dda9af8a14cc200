# SPDX-License-Identifier: Apache-2.0

"""Print where each operation and each state of an optimizer step would be on an accelerator, and what crosses the link.

The placement is read from the compiled training graph. Nothing is run, and no accelerator is needed.

    python examples/placement.py lenet
    python examples/placement.py transformer --dtype float16 --host-kernel stock
"""

import argparse

import mindspore as ms
from digits import LeNet5
from mindspore import Tensor, nn, ops

from mindspore_offload import AdamOffload, placement_report


class Transformer(nn.Cell):
    """A 12-layer encoder that predicts bytes of text."""

    LAYERS, WIDTH, HEADS, BYTES = 12, 256, 4, 256

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(self.BYTES, self.WIDTH)
        layer = nn.TransformerEncoderLayer(self.WIDTH, self.HEADS, 4 * self.WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, self.LAYERS)
        self.head = nn.Dense(self.WIDTH, self.BYTES)

    def construct(self, text):
        return self.head(self.encoder(self.embedding(text)))


class Loss(nn.Cell):
    """The cross-entropy of a net, in float32."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def construct(self, inputs, labels):
        scores = self.net(inputs).astype(ms.float32)
        return ops.cross_entropy(scores.reshape(labels.size, -1), labels.reshape(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("net", choices=["lenet", "transformer"])
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="dtype of the weights")
    parser.add_argument("--host-kernel", choices=["native", "stock"], default="native")
    parser.add_argument("--writeback", choices=["in_place", "assign"], default="assign")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    arguments = parser.parse_args()

    ms.set_context(mode=ms.GRAPH_MODE)
    dtype = getattr(ms, arguments.dtype)
    net = LeNet5() if arguments.net == "lenet" else Transformer()
    for parameter in net.get_parameters():
        parameter.set_dtype(dtype)
    optimizer = AdamOffload(
        net.trainable_params(),
        weight_decay=arguments.weight_decay,
        host_kernel=arguments.host_kernel,
        writeback=arguments.writeback,
    )
    if arguments.net == "lenet":
        inputs, labels = ops.zeros((16, 1, 8, 8), dtype), ops.zeros((16,), ms.int32)
    else:
        inputs, labels = ops.zeros((4, 64), ms.int32), ops.zeros((4, 64), ms.int32)
    print(placement_report(nn.TrainOneStepCell(Loss(net), optimizer), Tensor(inputs), Tensor(labels)))


if __name__ == "__main__":
    main()
