# SPDX-License-Identifier: Apache-2.0

"""The nets of the whole training steps: plain layers, BERT-base, ResNet-50, and tiny ones of their kinds for tests."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters

from benchmarks.resnet import ResNet

SEED = 1


def build(name, tiny=False):
    """Returns a net whose output is the loss, and its inputs."""
    ms.set_seed(SEED)
    return {"dense": _dense, "bert": _bert, "resnet": _resnet}[name](tiny)


def bert_shapes():
    """Returns the shapes of BERT-base's parameters, without their memory."""
    with no_init_parameters():
        return [parameter.shape for parameter in Bert(**BERT_BASE).trainable_params()]


def _dense(tiny):
    width, layers = (64, 2) if tiny else (4096, 20)
    net = nn.SequentialCell([nn.Dense(width, width, activation="relu") for _ in range(layers)])
    inputs = ops.ones((4, width), ms.float32), ops.zeros((4, width), ms.float32)
    return nn.WithLossCell(net, nn.MSELoss()), inputs


def _bert(tiny):
    net = Bert(**({**BERT_BASE, "vocabulary": 100, "hidden": 16, "layers": 2, "heads": 2} if tiny else BERT_BASE))
    random = np.random.default_rng(SEED)
    tokens, labels = (Tensor(random.integers(0, 100, (1, 16 if tiny else 128)), ms.int32) for _ in range(2))
    return net, (tokens, labels)


def _resnet(tiny):
    net = ResNet(width=8, blocks=(1, 1), classes=10) if tiny else ResNet(**RESNET_50)
    random = np.random.default_rng(SEED)
    images = Tensor(random.standard_normal((2, 3, 32, 32) if tiny else (4, 3, 112, 112), np.float32))
    labels = Tensor(random.integers(0, 10, len(images)), ms.int32)
    return nn.WithLossCell(net, nn.CrossEntropyLoss()), (images, labels)


RESNET_50 = {"width": 64, "blocks": (3, 4, 6, 3), "classes": 1000}
BERT_BASE = {"vocabulary": 30522, "hidden": 768, "layers": 12, "heads": 12, "positions": 512}


class Bert(nn.Cell):
    """Predicts the masked tokens of one sentence: an encoder of transformer layers, and an output layer of its own."""

    def __init__(self, vocabulary, hidden, layers, heads, positions):
        super().__init__()
        self.words = nn.Embedding(vocabulary, hidden)
        self.positions = Parameter(initializer("normal", (positions, hidden)), name="positions")
        self.norm = nn.LayerNorm((hidden,))
        self.layers = nn.SequentialCell([_Layer(hidden, heads) for _ in range(layers)])
        self.head = nn.SequentialCell(nn.Dense(hidden, hidden, activation="gelu"), nn.LayerNorm((hidden,)))
        self.output = nn.Dense(hidden, vocabulary)

    def construct(self, tokens, labels):
        values = self.norm(self.words(tokens) + self.positions[: tokens.shape[1]])
        scores = self.output(self.head(self.layers(values)))
        return ops.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1))


class _Layer(nn.Cell):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads, self.scale = heads, (hidden // heads) ** -0.5
        self.query, self.key, self.value, self.joined = (nn.Dense(hidden, hidden) for _ in range(4))
        self.wide = nn.SequentialCell(nn.Dense(hidden, 4 * hidden, activation="gelu"), nn.Dense(4 * hidden, hidden))
        self.norm1, self.norm2 = nn.LayerNorm((hidden,)), nn.LayerNorm((hidden,))

    def construct(self, values):
        query, key, value = (
            self._split(self.query(values)),
            self._split(self.key(values)),
            self._split(self.value(values)),
        )
        attention = ops.softmax(ops.matmul(query, key.swapaxes(-1, -2)) * self.scale)
        together = ops.matmul(attention, value).swapaxes(1, 2).reshape(values.shape)
        values = self.norm1(values + self.joined(together))
        return self.norm2(values + self.wide(values))

    def _split(self, values):
        batch, length, hidden = values.shape
        return values.reshape(batch, length, self.heads, hidden // self.heads).swapaxes(1, 2)
