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

namespace mindspore_offload {

constexpr size_t kCodes = 256;             // in a block
constexpr size_t kCodeWords = kCodes / 4;  // the words that hold them

// Word j holds the codes of the elements j, j + 64, j + 128 and j + 192, a quarter of the block each, the first in its
// lowest byte. So all lanes of a vector have 32 bits: no byte is widened.
struct CodeBlock {
  uint32_t words[kCodeWords];
  float scale;
};
static_assert(sizeof(CodeBlock) == 260, "as block_bytes in formats.py");

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

// Multiplies the moments of a block, unless that changes nothing.
ALWAYS_INLINE void Scale(float factor, float* __restrict moments) {
  if (factor == 1.0f) return;
  for (int i = 0; i < static_cast<int>(kCodes); ++i) moments[i] *= factor;
}

// The bits of the largest magnitudes of a block. Those of an infinity are above all finite ones, those of a NaN higher.
struct Largest {
  uint32_t m, v;
};

// No v is below zero, so all bits of one are its magnitude. Those of a NaN may begin with a sign.
ALWAYS_INLINE Largest LargestOf(const float* __restrict m, const float* __restrict v) {
  Largest largest{};
  for (int i = 0; i < static_cast<int>(kCodes); ++i) {
    largest.m = std::max(largest.m, BitsOf(m[i]) & kMagnitude);
    largest.v = std::max(largest.v, BitsOf(v[i]));
  }
  return largest;
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

// The bits of 1.
constexpr uint32_t kOne = 127 << 23;

// The bits of the power of two by which the moments of a block are divided, so that also the largest has a code,
// whatever the random bits are, and so that its exponent is used up. `kTop` is the number of binades from f(0) to the
// largest f(code), `slack` what rounding adds to the largest moment at most. f(0) times the power is a normal number.
template <uint32_t kTop>
ALWAYS_INLINE uint32_t WindowOf(uint32_t largest, uint32_t slack) {
  return std::max((largest + slack) >> 23, kTop + 1) << 23;
}

template <int kQuarter>
ALWAYS_INLINE uint32_t RoundedM(float m, uint32_t random) {
  const uint32_t magnitude = BitsOf(std::fabs(m) + FloatOf(kFirstM)) + (random >> 12);
  return ToWord<kQuarter>((magnitude & kCodeOfM) | (BitsOf(m) & kSign) >> 4);
}

template <int kQuarter>
ALWAYS_INLINE uint32_t RoundedV(float v, uint32_t random) {
  const int32_t magnitude = std::max(static_cast<int32_t>(BitsOf(v)), static_cast<int32_t>(kFirstV));
  return ToWord<kQuarter>((static_cast<uint32_t>(magnitude) + (random & 0xfffff)) & kCodeOfV);
}

// Rounds moments in these units stochastically to codes: 20 random bits are added below the last place, and the sum is
// cut. Those of m are the upper ones of the element, those of v the lower ones. m's last eight are v's first, but
// decide in one of 4,096 roundings at most. An overflowed moment becomes zero.
ALWAYS_INLINE void Encode(const MomentUnits& units, const uint32_t* __restrict random, float* __restrict m,
                          float* __restrict v, CodeBlock* __restrict block_m, CodeBlock* __restrict block_v) {
  const Largest largest = LargestWithoutOverflows(units, m, v);
  // To m comes f(0), which is 2^8 units of the last place of the largest float below 2, and may be rounded up.
  const uint32_t window_m = WindowOf<15>(largest.m, 0x100000 + 0x200), window_v = WindowOf<31>(largest.v, 0xfffff);
  block_m->scale = largest.m == 0 ? 0.0f : units.m * FloatOf(window_m);
  block_v->scale = largest.v == 0 ? 0.0f : units.v * FloatOf(window_v);
  // In most steps both windows are 1: codes do not decay.
  Scale(FloatOf(2 * kOne - window_m), m);
  Scale(FloatOf(2 * kOne - window_v), v);
  for (int j = 0; j < static_cast<int>(kCodeWords); ++j) {
    constexpr int kNext = kCodeWords;
    const uint32_t random0 = random[j], random1 = random[j + kNext];
    const uint32_t random2 = random[j + 2 * kNext], random3 = random[j + 3 * kNext];
    block_m->words[j] = RoundedM<0>(m[j], random0) | RoundedM<1>(m[j + kNext], random1) |
                        RoundedM<2>(m[j + 2 * kNext], random2) | RoundedM<3>(m[j + 3 * kNext], random3);
    block_v->words[j] = RoundedV<0>(v[j], random0) | RoundedV<1>(v[j + kNext], random1) |
                        RoundedV<2>(v[j + 2 * kNext], random2) | RoundedV<3>(v[j + 3 * kNext], random3);
  }
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_CODES_H_
