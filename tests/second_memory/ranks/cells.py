# SPDX-License-Identifier: Apache-2.0

"""Nets with strategies and stages. Without ranks, the strategies are left out.

They consist of what the stand-in has kernels for. MindSpore 2.10 dies of a graph with two AllReduces whose results the
device uses ("The pointer[send_actor] is null"), with every optimizer. So at most one weight needs an AllReduce: the
others are cut, or get their gradient by a ReduceScatter.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.ops import operations as P

ROWS = 4  # of a batch, or of a micro batch


def weight(name, shape, dtype=np.float32, delayed=False):
    """Returns a parameter. A delayed one gets its value while MindSpore compiles, or by loading."""
    if delayed:
        return Parameter(initializer("zeros", shape, ms.float32), name)
    return Parameter(Tensor(values_of(name, shape).astype(dtype)), name)


def values_of(name, shape):
    return np.random.default_rng(sum(map(ord, name))).standard_normal(shape) * 0.2


class _Net(nn.Cell):
    def __init__(self, ranks):
        super().__init__()
        self.ranks, self.model, self.data = ranks, min(ranks, 2), max(1, ranks // 2)

    def place(self, operation, *strategies):
        """Gives an operation its strategies, if there are ranks: those of its inputs, and those of its outputs."""
        return operation.shard(*strategies) if self.ranks > 1 else operation


class _Squares(_Net):
    """The sum of the squares of a tensor with 16 columns."""

    def __init__(self, ranks, cut=None):
        super().__init__(ranks)
        cut = cut or (ranks, 1)
        self.mul = self.place(P.Mul(), (cut, cut))
        self.rows, self.columns = (self.place(P.MatMul(), ((1, 1), (1, 1))) for _ in range(2))
        self.ones = Tensor(np.ones((1, ROWS), np.float32)), Tensor(np.ones((16, 1), np.float32))

    def construct(self, x):
        return self.columns(self.rows(self.ones[0], self.mul(x, x)), self.ones[1])


class Layers(_Net):
    """Two layers, cut by columns and by rows, and a bias, cut as well. With four ranks, in data parallel, too."""

    def __init__(self, ranks, half=False, delayed=False):
        super().__init__(ranks)
        data, model = self.data, self.model
        self.first = weight("first", (32, 64), np.float16 if half else np.float32, delayed)
        self.bias = weight("bias", (ROWS, 64), delayed=delayed)
        self.second = weight("second", (64, 16), delayed=delayed)
        self.half, self.cast = half, self.place(P.Cast(), ((1, model),))
        self.product = self.place(P.MatMul(), ((data, 1), (1, model)))
        self.add = self.place(P.Add(), ((data, model), (data, model)))
        self.last = self.place(P.MatMul(), ((data, model), (model, 1)), ((ranks, 1),))
        self.sub = self.place(P.Sub(), ((ranks, 1), (ranks, 1)))
        self.squares = _Squares(ranks)

    def construct(self, x, y):
        first = self.cast(self.first, ms.float32) if self.half else self.first
        hidden = self.add(self.product(x, first), self.bias)
        return self.squares(self.sub(self.last(hidden, self.second), y))


class Mixed(_Net):
    """A transposed weight and one of three dimensions, which are cut; a whole weight; and a scalar."""

    def __init__(self, ranks):
        super().__init__(ranks)
        model = ranks
        self.transposed, self.deep = weight("transposed", (64, 32)), weight("deep", (1, ROWS, 64))
        self.whole, self.second, self.scalar = weight("whole", (16, 16)), weight("second", (64, 16)), weight("s", ())
        self.product = self.place(P.MatMul(transpose_b=True), ((1, 1), (model, 1)))
        self.add = self.place(P.Add(), ((1, 1, model), (1, 1, model)))
        self.last = self.place(P.MatMul(), ((1, model), (model, 1)), ((ranks, 1),))
        self.sub = self.place(P.Sub(), ((ranks, 1), (ranks, 1)))
        self.mix = self.place(P.MatMul(), ((1, 1), (1, 1)))
        self.scale = self.place(P.Mul(), ((), ()))
        self.squares = _Squares(ranks, (1, 1))

    def construct(self, x, y):
        hidden = self.add(ops.reshape(self.product(x, self.transposed), (1, ROWS, 64)), self.deep)
        error = self.sub(self.last(ops.reshape(hidden, (ROWS, 64)), self.second), y)
        return self.scale(ops.reshape(self.squares(self.mix(error, self.whole)), ()), self.scalar)


class DataParallel(_Net):
    """Weights that no rank cuts, and rows that the ranks share: pure data parallel in a semi-automatic mode.

    There is one weight, or two with `hidden` columns between them.
    """

    def __init__(self, ranks, hidden=None):
        super().__init__(ranks)
        self.up = weight("up", (32, hidden)) if hidden else None
        self.weight = weight("weight", (hidden or 32, 16))
        self.first, self.product = (self.place(P.MatMul(), ((ranks, 1), (1, 1))) for _ in range(2))
        self.sub = self.place(P.Sub(), ((ranks, 1), (ranks, 1)))
        self.squares = _Squares(ranks)

    def construct(self, x, y):
        x = x if self.up is None else self.first(x, self.up)
        return self.squares(self.sub(self.product(x, self.weight), y))


class _Part(_Net):
    def __init__(self, ranks, rows, name, shape, half):
        super().__init__(ranks)
        self.weight = weight(f"{name}.weight", shape, np.float16 if half else np.float32)
        self.bias = weight(f"{name}.bias", (ROWS, shape[1]))
        self.square = weight(f"{name}.square", (shape[1], shape[1]))
        self.product, self.last = (self.place(P.MatMul(), (rows, (1, 1))) for _ in range(2))
        self.add, self.half = self.place(P.Add(), (rows, rows)), half
        self.narrow, self.widen = (self.place(P.Cast(), (rows,)) for _ in range(2))

    def construct(self, x):
        x = self.narrow(x, ms.float16) if self.half else x
        x = self.product(x, self.weight)
        x = self.widen(x, ms.float32) if self.half else x
        return self.last(self.add(x, self.bias), self.square)


class Stages(_Net):
    """A pipeline. Its parts follow each other, and have three weights each.

    Args:
        ranks (int): The number of ranks.
        places (tuple[int]): The stage of each part. A stage that has several is interleaved with the others.
        half (bool): Whether the first weight of a part is float16.
        tied (bool): Whether the second stage also uses a weight of the first.
    """

    def __init__(self, ranks, places=(0, 1), half=False, tied=False):
        super().__init__(ranks)
        stages = max(places) + 1
        rows, last = (max(1, ranks // stages), 1), len(places) - 1  # the ranks of a stage share the rows of a batch
        shapes = [(64 if i else 32, 16 if i == last else 64) for i in range(len(places))]
        self.parts = nn.CellList([_Part(ranks, rows, f"part{i}", shape, half) for i, shape in enumerate(shapes)])
        for part, stage in zip(self.parts, places):
            part.pipeline_stage = stage
        self.tie = _Tie(self.parts[0].square, self.place(P.MatMul(), (rows, (1, 1)))) if tied else None
        if tied:
            self.tie.pipeline_stage = 1
        self.sub = self.place(P.Sub(), (rows, rows))
        self.squares = _Squares(ranks, rows)

    def construct(self, x, y):
        for i, part in enumerate(self.parts):
            if i == 1 and self.tie is not None:
                x = self.tie(x)
            x = part(x)
        return self.squares(self.sub(x, y))


class LazyStages(Stages):
    """The same, inlined after the pipeline is cut. Interleaved pipelines need that."""

    @ms.lazy_inline
    def __init__(self, ranks, **options):
        super().__init__(ranks, **options)


class _Tie(nn.Cell):
    def __init__(self, parameter, product):
        super().__init__(auto_prefix=False)
        self.parameter, self.product = parameter, product

    def construct(self, x):
        return self.product(x, self.parameter)
