# SPDX-License-Identifier: Apache-2.0

"""A small GPT built from MindSpore's layers, with float32 or 16-bit weights."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

VOCABULARY = 256  # a token is a byte
SMALL = Normal(0.02)  # the initial weights, as in GPT-2


class Dense(nn.Dense):
    """A dense layer with float32 inputs and outputs that computes in the dtype of its weights."""

    def __init__(self, inputs, outputs, dtype):
        super().__init__(inputs, outputs, weight_init=SMALL, bias_init="zeros", dtype=dtype)

    def construct(self, x):
        return super().construct(x.astype(self.weight.dtype)).astype(ms.float32)


class Attention(nn.Cell):
    """Causal self-attention: each position attends to itself and to earlier positions."""

    def __init__(self, width, heads, length, dtype):
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value, self.output = (Dense(width, width, dtype) for _ in range(4))
        self.hidden = Tensor(np.triu(np.full((length, length), -np.inf), k=1), ms.float32)

    def construct(self, x):
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = ops.matmul(query, key.swapaxes(2, 3)) * self.head_width**-0.5  # (batch, heads, length, length)
        attention = ops.softmax(scores + self.hidden, -1)
        return self.output(ops.matmul(attention, value).swapaxes(1, 2).reshape(x.shape))

    def split(self, x):
        """Reshapes (batch, length, width) to (batch, heads, length, width of a head)."""
        batch, length, _ = x.shape
        return x.reshape(batch, length, self.heads, self.head_width).swapaxes(1, 2)


class Block(nn.Cell):
    """Attention, then two dense layers. Both have a normalized input and a residual connection."""

    def __init__(self, width, heads, length, dtype):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm((width,)), nn.LayerNorm((width,))
        self.attention = Attention(width, heads, length, dtype)
        self.layers = nn.SequentialCell(Dense(width, 4 * width, dtype), nn.ReLU(), Dense(4 * width, width, dtype))

    def construct(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.layers(self.norm2(x))


class GPT(nn.Cell):
    """Maps tokens (batch, length) to float32 scores of each next token, (batch, length, VOCABULARY).

    `dtype` is the dtype of the weights. Weights of the norms are always float32.
    """

    def __init__(self, layers, width, heads, length, dtype=ms.float32):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width, embedding_table=initializer(SMALL, (VOCABULARY, width), dtype))
        self.positions = Parameter(initializer(SMALL, (length, width), dtype), name="positions")
        self.blocks = nn.SequentialCell(*[Block(width, heads, length, dtype) for _ in range(layers)])
        self.norm = nn.LayerNorm((width,))
        self.head = Dense(width, VOCABULARY, dtype)

    def construct(self, tokens):
        x = (self.tokens(tokens) + self.positions).astype(ms.float32)
        return self.head(self.norm(self.blocks(x)))


class Loss(nn.Cell):
    """The cross-entropy of a GPT's prediction of `targets`, in nats a token."""

    def __init__(self, gpt):
        super().__init__(auto_prefix=False)
        self.gpt = gpt

    def construct(self, tokens, targets):
        return ops.cross_entropy(self.gpt(tokens).reshape(-1, VOCABULARY), targets.reshape(-1))
