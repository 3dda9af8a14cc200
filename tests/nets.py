# SPDX-License-Identifier: Apache-2.0

"""Small nets that the tests share."""

import numpy as np
from mindspore import Tensor, nn, ops


class ManyKinds(nn.Cell):
    """One layer of each kind that has parameters: embedding, convolution, batch and layer norm, dense.

    The convolution has no bias. The norm after it would cancel a bias, whose gradient would be only rounding errors.
    Adam turns these into steps of full size, and two runs that round differently would diverge.
    """

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6 * 6)
        self.convolution = nn.Conv2d(4, 5, 3)
        self.batch_norm = nn.BatchNorm2d(5)
        self.hidden = nn.Dense(5 * 6 * 6, 13)
        self.layer_norm = nn.LayerNorm((13,))
        self.head = nn.Dense(13, 3)

    def construct(self, tokens):
        image = self.embedding(tokens).reshape((-1, 4, 6, 6))
        image = ops.relu(self.batch_norm(self.convolution(image)))
        return self.head(ops.relu(self.layer_norm(self.hidden(image.reshape((-1, 5 * 6 * 6))))))


def many_kinds_batches(count, seed=3):
    """Yields batches of 8 rows of 4 tokens, with the class of each row: a low, middle or high mean of its tokens."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        tokens = random.integers(0, 11, (8, 4))
        classes = np.digitize(tokens.mean(axis=1), [4, 6])
        yield Tensor(tokens.astype(np.int32)), Tensor(classes.astype(np.int32))


def copy_weights(source, target):
    """Copies the weights of `source` to `target`, a net of the same architecture."""
    for theirs, ours in zip(source.get_parameters(), target.get_parameters()):
        ours.set_data(Tensor(theirs.asnumpy()))


def parameters_of(cell):
    """Returns the values of all parameters of a net or an optimizer, by name."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def assert_same(actual, expected):
    """Checks that two dicts of arrays have the same names and the same bits."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert value.tobytes() == expected[name].tobytes(), name
