// SPDX-License-Identifier: Apache-2.0

// Moments of 8 bits: blocks of 256 codes and one scale.
//
//   v = scale * f(code)                     f: 5 bits of exponent, 3 of mantissa, from 2^-31 to 1.875
//   m = sign * scale * (f(code) - f(0))     f: 4 bits of exponent, 3 of mantissa, from 2^-15 to 1.875
//
// No v of a block with a scale is zero, so no update explodes. The offset f(0) makes a zero m exact, and the rounding
// linear down to zero, so it keeps the mean. A block of zeros has the scale 0.
//
// The scale decays by beta, not the codes: a step works in units of beta * scale (adam.h), in which f(code) is what is
// left of a moment. Codes change by new gradients only, so a block without gradients decays exactly. Codes that decayed
// themselves would be rounded in each step, and as neighbours are 12 % apart, the noise would grow while gradients
// fall.

#ifndef MINDSPORE_OFFLOAD_CSRC_CODES_H_
#define MINDSPORE_OFFLOAD_CSRC_CODES_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "adam.h"
#include "half.h"
#include "isa.h"
#include "stochastic.h"

namespace mindspore_offload {

constexpr size_t kCodes = 256;             // in a block
constexpr size_t kCodeWords = kCodes / 4;  // the words that hold them

// Word j holds the codes of the elements j, j + 64, j + 128 and j + 192, a quarter of the block each, the first in its
// lowest byte. So all lanes of a vector have 32 bits: no byte is widened.
struct CodeBlock {
  uint32_t words[kCodeWords];
  float scale;
};
static_assert(sizeof(CodeBlock) == 260, "as BYTES_OF_BLOCK in formats.py");

// A code, without the sign of m, is the exponent and mantissa of a float32 less those of f(0), cut to bits 20 to 27.
constexpr uint32_t kFirstM = (127 - 15) << 23, kFirstV = (127 - 31) << 23;  // the bits of f(0)
constexpr uint32_t kCodeOfM = 0x7f << 20, kCodeOfV = 0xff << 20;
constexpr uint32_t kMagnitude = 0x7fffffff, kSign = 0x80000000;

// Moves a code of a quarter between its place in a word and bits 20 to 27, where the sign of m is bit 27.
template <int kQuarter>
ALWAYS_INLINE uint32_t FromWord(uint32_t word) {
  return kQuarter == 3 ? word >> 4 : word << (kQuarter == 3 ? 0 : 20 - 8 * kQuarter);
}

template <int kQuarter>
ALWAYS_INLINE uint32_t ToWord(uint32_t code) {
  return kQuarter == 3 ? code << 4 : code >> (kQuarter == 3 ? 0 : 20 - 8 * kQuarter);
}

template <int kQuarter>
ALWAYS_INLINE void DecodeQuarter(const uint32_t* __restrict words_m, const uint32_t* __restrict words_v,
                                 float* __restrict m, float* __restrict v) {
  const float first_m = FloatOf(kFirstM);
  for (int j = 0; j < static_cast<int>(kCodeWords); ++j) {
    const uint32_t code_m = FromWord<kQuarter>(words_m[j]), code_v = FromWord<kQuarter>(words_v[j]);
    const float magnitude = FloatOf((code_m & kCodeOfM) + kFirstM) - first_m;
    m[j] = FloatOf(BitsOf(magnitude) | (code_m << 4 & kSign));
    v[j] = FloatOf((code_v & kCodeOfV) + kFirstV);
  }
}

// Writes f(code), for m with its sign and without f(0).
ALWAYS_INLINE void Decode(const CodeBlock& block_m, const CodeBlock& block_v, float* m, float* v) {
  DecodeQuarter<0>(block_m.words, block_v.words, m, v);
  DecodeQuarter<1>(block_m.words, block_v.words, m + kCodeWords, v + kCodeWords);
  DecodeQuarter<2>(block_m.words, block_v.words, m + 2 * kCodeWords, v + 2 * kCodeWords);
  DecodeQuarter<3>(block_m.words, block_v.words, m + 3 * kCodeWords, v + 3 * kCodeWords);
}

// The units in which a step computes both moments. Where a scale is so small that dividing by it could overflow, they
// are 1, and the codes decay.
ALWAYS_INLINE MomentUnits UnitsOf(const AdamCoefficients& c, float scale_m, float scale_v) {
  constexpr float kLeast = 0x1p-60f;
  MomentUnits units = PlainUnits(c);
  const float m = c.beta1 * scale_m, v = c.beta2 * scale_v;
  if (m >= kLeast) {
    units.m = m, units.decay_m = 1.0f, units.gain_m /= m;
  } else {
    units.decay_m = m;
  }
  if (v >= kLeast) {
    units.v = v, units.root_of_v = std::sqrt(v), units.decay_v = 1.0f, units.gain_v /= v;
  } else {
    units.decay_v = v;
  }
  return units;
}

// The bits of the largest magnitudes of a block. Those of an infinity are above all finite ones, those of a NaN higher.
struct Largest {
  int32_t m, v;
};

ALWAYS_INLINE Largest LargestOf(const float* __restrict m, const float* __restrict v) {
  int32_t largest_m = 0, largest_v = 0;
  for (int i = 0; i < static_cast<int>(kCodes); ++i) {
    largest_m = std::max(largest_m, static_cast<int32_t>(BitsOf(m[i]) & kMagnitude));
    largest_v = std::max(largest_v, static_cast<int32_t>(BitsOf(v[i]) & kMagnitude));
  }
  return {largest_m, largest_v};
}

// The same, after both moments of an element were set to zero where one of them is NaN or too large for a scale: the
// element starts anew, and does not spoil its block.
ALWAYS_INLINE Largest LargestWithoutOverflows(const MomentUnits& units, float* __restrict m, float* __restrict v) {
  constexpr float kMost = 0x1p126f;
  const float most_m = kMost / std::max(units.m, 1.0f), most_v = kMost / std::max(units.v, 1.0f);
  const Largest largest = LargestOf(m, v);
  if (FloatOf(largest.m) <= most_m && FloatOf(largest.v) <= most_v) return largest;
  for (size_t i = 0; i < kCodes; ++i) {
    if (std::fabs(m[i]) <= most_m && v[i] <= most_v) continue;
    m[i] = v[i] = 0.0f;
  }
  return LargestOf(m, v);
}

// The bits of f(0) times a power of two, with which the largest code is not exceeded whatever the random bits are, and
// whose exponent is not used up. `kTop` is the number of binades from f(0) to the largest f(code), `slack` what
// rounding adds to the largest number at most.
template <uint32_t kTop>
ALWAYS_INLINE uint32_t FirstOf(int32_t largest, uint32_t slack) {
  const uint32_t exponent = (static_cast<uint32_t>(largest) + slack) >> 23;
  return (std::max(exponent, kTop + 1) - kTop) << 23;
}

template <int kQuarter>
ALWAYS_INLINE uint32_t RoundedM(float m, uint32_t first, uint32_t random) {
  const uint32_t magnitude = BitsOf(std::fabs(m) + FloatOf(first)) - first + ((random & 0xfff) << 8);
  return ToWord<kQuarter>((magnitude & kCodeOfM) | (BitsOf(m) & kSign) >> 4);
}

template <int kQuarter>
ALWAYS_INLINE uint32_t RoundedV(float v, uint32_t first, uint32_t random) {
  const int32_t above = std::max(static_cast<int32_t>(BitsOf(v) - first), 0);
  return ToWord<kQuarter>((static_cast<uint32_t>(above) + (random >> 12)) & kCodeOfV);
}

// Rounds moments in these units stochastically to codes: random bits are added below the last place, 12 for m and 20
// for v, and the sum is cut. `element` is the index of the first. An overflowed moment becomes zero.
ALWAYS_INLINE void Encode(const MomentUnits& units, RoundingSeed seed, uint32_t element, float* __restrict m,
                          float* __restrict v, CodeBlock* __restrict block_m, CodeBlock* __restrict block_v) {
  const Largest largest = LargestWithoutOverflows(units, m, v);
  // To m comes f(0), which is 2^8 units of the last place of the largest float below 2, and may be rounded up.
  const uint32_t first_m = FirstOf<15>(largest.m, 0x100000 + 0x200), first_v = FirstOf<31>(largest.v, 0xfffff);
  block_m->scale = largest.m == 0 ? 0.0f : units.m * FloatOf(first_m + (15 << 23));
  block_v->scale = largest.v == 0 ? 0.0f : units.v * FloatOf(first_v + (31 << 23));
  for (int j = 0; j < static_cast<int>(kCodeWords); ++j) {
    constexpr int kNext = kCodeWords;
    const uint32_t at = element + static_cast<uint32_t>(j);
    const uint32_t random0 = RandomBits(seed, at), random1 = RandomBits(seed, at + kNext);
    const uint32_t random2 = RandomBits(seed, at + 2 * kNext), random3 = RandomBits(seed, at + 3 * kNext);
    block_m->words[j] = RoundedM<0>(m[j], first_m, random0) | RoundedM<1>(m[j + kNext], first_m, random1) |
                        RoundedM<2>(m[j + 2 * kNext], first_m, random2) |
                        RoundedM<3>(m[j + 3 * kNext], first_m, random3);
    block_v->words[j] = RoundedV<0>(v[j], first_v, random0) | RoundedV<1>(v[j + kNext], first_v, random1) |
                        RoundedV<2>(v[j + 2 * kNext], first_v, random2) |
                        RoundedV<3>(v[j + 3 * kNext], first_v, random3);
  }
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_CODES_H_
