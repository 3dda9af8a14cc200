// SPDX-License-Identifier: Apache-2.0

// How the kernel cuts its work. Speed depends on these sizes. No bit of an update does, but the order in which the norm
// is summed follows kSumBlock.

#ifndef MINDSPORE_OFFLOAD_CSRC_SIZES_H_
#define MINDSPORE_OFFLOAD_CSRC_SIZES_H_

#include <cstddef>

namespace mindspore_offload {

// Elements of a block: a multiple of 16. All that a block touches stays in the first-level cache.
constexpr size_t kBlock = 128;

// The distance ahead of a block at which memory is requested, in elements. It hurts large blocks: `make bench-kernel`.
constexpr size_t kPrefetch = 512;

// Elements that a thread fetches at a time. They are long runs, which memory likes, and end within some 60
// microseconds, so that the threads finish together. Runs of an eighth of this cost up to 10 % more.
constexpr size_t kChunk = size_t{1} << 17;

// Elements of a gradient whose squares are summed on their own: the sums of all blocks are then added in their order.
// A piece of a gradient is a multiple of this, so that the norm does not depend on the number of ranks: see BLOCK in
// shard.py.
constexpr size_t kSumBlock = 1024;

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_SIZES_H_
