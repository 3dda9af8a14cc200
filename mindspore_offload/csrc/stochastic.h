// SPDX-License-Identifier: Apache-2.0

// Stochastic rounding of the moments, and its random bits.
//
// With beta2 = 0.999 a step changes v by a thousandth at most when gradients shrink, which is less than half a unit of
// bfloat16: rounded to nearest, v would never fall again. Here a value between two neighbours becomes the upper one
// with the probability that keeps the mean: random bits are added below the last place, and the sum is cut.
//
// The random bits are a hash of the step, a key of the parameter and the index of the element. So they are the same for
// every instruction set, number of threads, chunk, writeback and shard, and after a resume, and no state is needed.

#ifndef MINDSPORE_OFFLOAD_CSRC_STOCHASTIC_H_
#define MINDSPORE_OFFLOAD_CSRC_STOCHASTIC_H_

#include <cstddef>
#include <cstdint>

#include "half.h"
#include "isa.h"

namespace mindspore_offload {

// Mixes 32 bits: every input bit changes every output bit with a probability near one half. Shifts and multipliers are
// those of Chris Wellons' lowbias32. `twist` makes another function of it.
ALWAYS_INLINE uint32_t Mix(uint32_t x, uint32_t twist = 0) {
  x = (x ^ (x >> 16)) * 0x7feb352d;
  x = (x ^ (x >> 15) ^ twist) * 0x846ca68b;
  return x ^ (x >> 16);
}

// The part of the hash that all elements of a parameter share in one step.
struct RoundingSeed {
  uint32_t start, twist;
};

// `step` may be any float32; steps above 2^24, which float32 can't count, share bits with their neighbours.
ALWAYS_INLINE RoundingSeed SeedOf(float step, uint32_t key) {
  const uint32_t start = Mix(key, Mix(BitsOf(step) + 1));
  return {start, Mix(~start, key)};
}

// 32 random bits of one element, for both of its moments. The twist keeps two steps from using the same sequence from
// different starts. Elements 2^32 apart share their bits.
ALWAYS_INLINE uint32_t RandomBits(RoundingSeed seed, uint32_t element) { return Mix(seed.start + element, seed.twist); }

// Draws the random bits of a tile's elements, one call for each, in order. Counts in 32 bits, as the hash does, so that
// no vector has to be converted, and from 0, so that the first vector is a constant.
class Draw {
 public:
  ALWAYS_INLINE Draw(RoundingSeed seed, size_t first_element, uint32_t* random)
      : seed_(seed), first_(static_cast<uint32_t>(first_element)), random_(random) {}

  ALWAYS_INLINE void operator()() {
    random_[count_] = RandomBits(seed_, first_ + count_);
    ++count_;
  }

 private:
  RoundingSeed seed_;
  uint32_t first_;
  uint32_t* random_;
  uint32_t count_ = 0;
};

// The bits of a bfloat16 next to `value`: the one towards zero, or the other one with the probability that keeps the
// mean. `random` has 16 bits. What bfloat16 can hold stays as it is. A NaN stays a NaN if it is quiet, as all results
// of arithmetic are. A finite value stays finite: beyond the largest bfloat16 it is cut.
ALWAYS_INLINE uint32_t StochasticallyRounded(float value, uint32_t random) {
  const uint32_t bits = BitsOf(value);
  const int32_t magnitude = static_cast<int32_t>(bits & 0x7fffffff);
  return (bits + (magnitude < 0x7f7f0000 ? random : 0)) >> 16;
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_STOCHASTIC_H_
