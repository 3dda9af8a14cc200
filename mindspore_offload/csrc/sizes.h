// SPDX-License-Identifier: Apache-2.0

// How the kernel cuts its work. Speed depends on these sizes. No bit of an update does, but the order in which the norm
// is summed follows kBlock.

#ifndef MINDSPORE_OFFLOAD_CSRC_SIZES_H_
#define MINDSPORE_OFFLOAD_CSRC_SIZES_H_

#include <cstddef>

namespace mindspore_offload {

// Elements of a tile: a multiple of 16. All that a tile touches stays in the first-level cache.
constexpr size_t kTile = 128;

// The distance ahead of a tile at which memory is requested, in elements. It hurts large tiles: `make bench-kernel`.
constexpr size_t kPrefetch = 512;

// Elements of a block. A tensor is only cut at a multiple of this, counted from its first element: by the chunks of the
// thread team, and by the pieces of a shard (BLOCK in abi.py). The squares of each block of a gradient are summed on
// their own, and the sums of all blocks are then added in their order. So the norm depends neither on the number of
// threads nor on that of ranks.
constexpr size_t kBlock = 1024;

// Elements that a thread fetches at a time. They are long runs, which memory likes, and end within some 60
// microseconds, so that the threads finish together. Runs of an eighth of this cost up to 10 % more.
constexpr size_t kChunk = size_t{1} << 17;

static_assert(kBlock % kTile == 0 && kChunk % kBlock == 0, "a block is whole tiles, a chunk whole blocks");

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_SIZES_H_
