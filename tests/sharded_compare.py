# SPDX-License-Identifier: Apache-2.0

"""Compares trainings with sharded and with whole states, on the ranks that msrun starts."""

import mindspore as ms
import numpy as np
from mindspore.communication import get_group_size, get_rank
from sharded_training import SCENARIOS, STEPS, new_training, train, values

# On more than two ranks only these are compared, because each takes its time.
ON_MORE_RANKS = ["penalty, nesterov", "float16, clipped", "bfloat16", "clipped, skipping"]


def compare(folder):
    """Returns for each scenario the names that differ and those of the pieces. Saves the checkpoints of all ranks."""
    found = {}
    for name in SCENARIOS if get_group_size() == 2 else ON_MORE_RANKS:
        trained = {}
        for shard_states in (False, True):
            step, optimizer = new_training(name, shard_states)
            trained[shard_states] = train(step, STEPS), values(optimizer)
            file = f"{name} {get_rank()} of {get_group_size()}.ckpt" if shard_states else f"{name} whole.ckpt"
            if shard_states or get_rank() == 0:
                ms.save_checkpoint(optimizer, str(folder / file))
        (losses, whole), (sharded_losses, sharded) = trained[False], trained[True]
        differing = [n for n in whole if piece_of(whole[n], sharded[n]).tobytes() != sharded[n].tobytes()]
        found[name] = {
            "differing": differing,
            "same losses": losses == sharded_losses,
            "same names": list(whole) == list(sharded),
            "pieces": [n for n in whole if whole[n].shape != sharded[n].shape],
            "moved": bool(np.isfinite(losses).all() and losses[-1] != losses[0]),
        }
    return found


def piece_of(whole, like):
    """Returns the piece of a whole state that this rank has, if it has one."""
    if whole.shape == like.shape:
        return whole
    padded = np.zeros(like.size * get_group_size(), whole.dtype)
    padded[: whole.size] = whole.ravel()
    return padded[get_rank() * like.size :][: like.size]
