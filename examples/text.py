# SPDX-License-Identifier: Apache-2.0

"""English text that comes with Python: the topics of its reference manual, which `help()` shows in the interpreter.

They are in the standard library's `pydoc_data.topics`: about 370,000 characters without duplicates, under the licence
of the Python Software Foundation.
"""

from pydoc_data.topics import topics

import numpy as np
from mindspore.dataset import NumpySlicesDataset

HELD_OUT = 20  # every HELD_OUT-th paragraph is for validation


def load(length):
    """Cuts the text into windows of bytes, each with the bytes that follow, for training and for validation.

    Returns:
        Two pairs (tokens, targets) of int32 arrays of shape (windows, length).
    """
    paragraphs = dict.fromkeys(paragraph for name in sorted(topics) for paragraph in topics[name].split("\n\n"))
    training, validation = [], []
    for i, paragraph in enumerate(paragraphs):
        (training if i % HELD_OUT else validation).append(paragraph)
    return _windows(training, length), _windows(validation, length)


def _windows(paragraphs, length):
    tokens = np.frombuffer("\n\n".join(paragraphs).encode(), np.uint8).astype(np.int32)
    count = (len(tokens) - 1) // length
    return tokens[: count * length].reshape(count, length), tokens[1 : count * length + 1].reshape(count, length)


def in_order(windows, batch, steps, seed, first=0):
    """Returns a dataset of the batches from step `first` to step `steps`. `seed` alone decides the order of each epoch.

    So training that stopped after `first` steps resumes with the batches it has not seen.
    """
    tokens, targets = windows
    random = np.random.default_rng(seed)
    epoch = len(tokens) // batch  # steps
    orders = [random.permutation(len(tokens))[: epoch * batch] for _ in range(-(-steps // epoch))]
    order = np.concatenate(orders)[first * batch : steps * batch]
    return NumpySlicesDataset((tokens[order], targets[order]), shuffle=False).batch(batch)
