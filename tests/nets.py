"""Small nets that the tests share."""

import numpy as np
from mindspore import Tensor, nn, ops


class ManyKinds(nn.Cell):
    """Every kind of layer that has parameters of a kind of its own: embedding, convolution, both norms, dense.

    The convolution has no bias: the norm after it takes any bias out again, so the gradient of one would be nothing but
    rounding, which Adam makes steps of full size of, and two runs that round differently would part.
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
    """Batches of 8 rows of 4 tokens, and their classes: whether low, middle or high tokens prevail."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        tokens = random.integers(0, 11, (8, 4))
        classes = np.digitize(tokens.mean(axis=1), [4, 6])
        yield Tensor(tokens.astype(np.int32)), Tensor(classes.astype(np.int32))


def copy_weights(source, target):
    """Gives `target`, a net of the same kind, the weights of `source`."""
    for theirs, ours in zip(source.get_parameters(), target.get_parameters()):
        ours.set_data(Tensor(theirs.asnumpy()))


def parameters_of(cell):
    """The values of all parameters of a net or an optimizer, by name."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def assert_same(actual, expected):
    """Values by name are the same bits."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert value.tobytes() == expected[name].tobytes(), name
