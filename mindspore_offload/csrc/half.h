// SPDX-License-Identifier: Apache-2.0

// The two 16-bit element types, and the conversion of blocks to float32 and back. Narrowing rounds to nearest even. A
// value that is too large becomes infinity. A NaN stays a NaN, with its sign and the upper bits of its payload. The
// conversion instructions of x86-64 and aarch64 give the same bits.

#ifndef MINDSPORE_OFFLOAD_CSRC_HALF_H_
#define MINDSPORE_OFFLOAD_CSRC_HALF_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "isa.h"

namespace mindspore_offload {

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

ALWAYS_INLINE uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

ALWAYS_INLINE float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

ALWAYS_INLINE float ToFloat(BFloat16 value) { return FloatOf(uint32_t{value.bits} << 16); }

// Rounded() returns the bits of a value in the type of its second argument.
ALWAYS_INLINE uint32_t Rounded(float value, BFloat16 /*type*/) {
  const uint32_t bits = BitsOf(value);
  const uint32_t to_nearest_even = 0x7fff + ((bits >> 16) & 1);
  const bool is_nan = value != value;
  return (is_nan ? bits | 0x400000 : bits + to_nearest_even) >> 16;
}

#ifdef __aarch64__
// Every aarch64 CPU has the instruction, and compilers use it for a plain loop.
ALWAYS_INLINE float ToFloat(Float16 value) {
  __fp16 half;
  std::memcpy(&half, &value.bits, sizeof(half));
  return half;
}
#else
// Float16 has 5 bits of exponent and 10 of mantissa. All cases are computed before one is chosen, so that the loops
// below have no branch.
ALWAYS_INLINE float ToFloat(Float16 value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t rest = value.bits & 0x7fff;
  const uint32_t normal = (rest << 13) + ((127 - 15) << 23);
  const uint32_t special = (rest << 13) | 0x7f800000 | (rest > 0x7c00 ? 0x400000 : 0);  // infinity and NaN
  // A subnormal is its mantissa times 2^-24; the product is exact.
  const uint32_t subnormal = BitsOf(static_cast<float>(static_cast<int32_t>(rest)) * 0x1p-24f);
  return FloatOf(sign | (rest >= 0x7c00 ? special : rest < 0x400 ? subnormal : normal));
}
#endif

ALWAYS_INLINE uint32_t Rounded(float value, Float16 /*type*/) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t rest = bits & 0x7fffffff;
  // Normal: move the exponent and round; a carry out of the mantissa is the next exponent, up to infinity.
  const uint32_t normal = (rest - ((127 - 15) << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
  // Subnormal: adding 0.5 makes float32 itself round to a multiple of 2^-24.
  const uint32_t subnormal = BitsOf(FloatOf(rest) + 0.5f) - BitsOf(0.5f);
  const uint32_t nan = 0x7e00 | ((rest >> 13) & 0x3ff);
  const uint32_t finite = rest < (113u << 23) ? subnormal : normal;
  const uint32_t overflowed = rest > 0x7f800000 ? nan : 0x7c00;
  return sign | (rest >= (143u << 23) ? overflowed : finite);
}

// Converts blocks by the C++ above, for any instruction set.
struct PlainConversion {
  template <class Half>
  static ALWAYS_INLINE void Widen(const Half* __restrict from, float* __restrict to, size_t size) {
    for (size_t i = 0; i < size; ++i) to[i] = ToFloat(from[i]);
  }

  template <class Half>
  static ALWAYS_INLINE void Narrow(const float* __restrict from, Half* __restrict to, size_t size) {
    for (size_t i = 0; i < size; ++i) to[i].bits = static_cast<uint16_t>(Rounded(from[i], Half{}));
  }

  // True if Narrow() would give `to`. Writes nothing.
  template <class Half>
  static ALWAYS_INLINE bool NarrowsTo(const float* __restrict from, const Half* __restrict to, size_t size) {
    uint32_t difference = 0;
    for (size_t i = 0; i < size; ++i) difference |= Rounded(from[i], Half{}) ^ to[i].bits;
    return difference == 0;
  }
};

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
// Converts float16 by its instructions, which compilers don't use for a plain loop.
struct Avx2Conversion : PlainConversion {
  using PlainConversion::Narrow;
  using PlainConversion::NarrowsTo;
  using PlainConversion::Widen;
  static void Widen(const Float16* from, float* to, size_t size);
  static void Narrow(const float* from, Float16* to, size_t size);
  static bool NarrowsTo(const float* from, const Float16* to, size_t size);
};
#endif

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_HALF_H_
