# SPDX-License-Identifier: Apache-2.0

"""Adds a moment format by its row alone, and uses it everywhere but in the kernel, which does not know it.

Its blocks of 64 elements hold float32 numbers as bytes, so nothing is rounded.
"""

import numpy as np
import pytest

from mindspore_offload import abi, formats

BLOCK = 64


def encode(values, _moment):
    padded = np.zeros(-(-len(values) // BLOCK) * BLOCK, np.float32)
    padded[: len(values)] = values
    return padded.view(np.int8).reshape(-1, 4 * BLOCK)


def decode(blocks, _moment):
    return np.ascontiguousarray(blocks).view(np.float32).reshape(-1)


# The row comes before all imports that may look at the formats.
formats.MOMENT_FORMATS["int8"] = formats.MomentFormat("int8", 2.0**-23, BLOCK, 4 * BLOCK, __name__)
abi.difference = lambda text: None  # the library lacks the format

import mindspore as ms  # noqa: E402
from mindspore import Parameter, Tensor  # noqa: E402

from mindspore_offload import AdamOffload, estimate, states  # noqa: E402
from mindspore_offload.commands import main  # noqa: E402
from mindspore_offload.distributed.ranks import World  # noqa: E402

VALUES = np.random.default_rng(1).standard_normal((130, 161)).astype(np.float32)  # no multiple of a block


def optimizer_with(moment_dtype):
    return AdamOffload([Parameter(Tensor(VALUES), name="w")], moment_dtype=moment_dtype)


def check_states_and_estimate():
    ours = optimizer_with(ms.int8)
    assert (str(ours.moment1[0].dtype), ours.moment1[0].shape) == ("Int8", (328, 256))
    assert estimate([ours.parameters[0]], moment_dtype="int8")[0].host_states == 2 * 328 * 256


def check_checkpoints_from_and_to_all_formats():
    filled = {dtype: optimizer_with(dtype) for dtype in (ms.float32, ms.int8)}
    for optimizer in filled.values():
        optimizer.moment1[0].set_data(Tensor(VALUES))
    for brought, own in ((ms.int8, ms.float32), (ms.float32, ms.int8), (ms.int8, ms.int8)):
        ms.save_checkpoint(filled[brought], "brought.ckpt")
        loaded = optimizer_with(own)
        assert ms.load_param_into_net(loaded, ms.load_checkpoint("brought.ckpt"), strict_load=True) == ([], [])
        assert loaded.moment1[0].memory.tobytes() == filled[own].moment1[0].memory.tobytes(), (brought, own)


def check_pieces_and_merge():
    whole = optimizer_with(ms.int8)
    (weight,), (moment1,), (moment2,) = whole.parameters, whole.moment1, whole.moment2
    moment1.set_data(Tensor(VALUES))
    moment2.set_data(Tensor(VALUES**2))
    for suffix in ("ckpt", "safetensors"):
        for rank in range(2):
            piece = states.allocate(weight, ms.int8, World(rank, 2), 0, 0, False, False)
            piece.moment1.set_data(Tensor(moment1.memory))  # from blocks
            piece.moment2.set_data(Tensor(VALUES**2))  # from float32
            saved = {"w": weight, "moment1.w": piece.moment1, "moment2.w": piece.moment2}
            saved["shard"], saved["global_step"] = (Parameter(Tensor(n, ms.int32)) for n in ([rank, 2], [3]))
            entries = [{"name": name, "data": data} for name, data in saved.items()]
            ms.save_checkpoint(entries, f"{rank}.{suffix}", format=suffix)
        assert main(["merge", f"0.{suffix}", f"1.{suffix}", "-o", f"whole.{suffix}"]) == 0
        merged = ms.load_checkpoint(f"whole.{suffix}", format=suffix)
        for state in (moment1, moment2):
            assert merged[state.name].asnumpy().tobytes() == state.memory.tobytes(), (suffix, state.name)


def check_refusal():
    with pytest.raises(ValueError, match=r"mindspore\.int8"):
        optimizer_with(ms.int16)


if __name__ == "__main__":
    check_states_and_estimate()
    check_checkpoints_from_and_to_all_formats()
    check_pieces_and_merge()
    check_refusal()
