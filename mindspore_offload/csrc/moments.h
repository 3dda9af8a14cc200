// SPDX-License-Identifier: Apache-2.0

// The moment formats: how both moments of a parameter lie in memory. The update computes in float32 for all of them.
//
// To add a format: a name in MomentFormat and kMomentFormats, a struct with the members of those here, and its case in
// VisitMomentFormat. The Python side is its row in formats.py.

#ifndef MINDSPORE_OFFLOAD_CSRC_MOMENTS_H_
#define MINDSPORE_OFFLOAD_CSRC_MOMENTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "adam.h"
#include "codes.h"
#include "half.h"
#include "isa.h"
#include "stochastic.h"

namespace mindspore_offload {

enum class MomentFormat { kFloat32, kBFloat16, kUint8 };

constexpr MomentFormat kMomentFormats[] = {MomentFormat::kFloat32, MomentFormat::kBFloat16, MomentFormat::kUint8};

// The memory of both moments, and the seed and first element of their stochastic rounding. A shard does not begin with
// element 0.
struct Moments {
  void* moment1;
  void* moment2;
  RoundingSeed seed;
  size_t first_element;
};

// A tile of both moments as float32, in its units, which an update may write, and memory for the random bits of its
// elements.
struct WideMoments {
  float* m;
  float* v;
  uint32_t* random;
  MomentUnits units;
};

// Memory for a tile of both moments.
struct MomentBuffer {
  float* m;
  float* v;
  uint32_t* random;
};

// Each format has:
//
//   kDtype        MindSpore's dtype of the array that holds a moment
//   kBytes        the bytes of an element of that array
//   Items(size)   the elements of the array for a moment of `size` elements
//   kTogether     the elements that a tile must not divide: tiles begin at multiples of it
//   Load()        the elements [begin, begin + size) of both moments, in place or in `buffer`
//   DrawInto()    the object that draws the random bits of a tile (stochastic.h)
//   Store()       puts back what Load() returned, rounded by the random bits

struct Float32Moments {
  static constexpr char kDtype[] = "float32";
  static constexpr size_t kBytes = sizeof(float);

  static constexpr size_t kTogether = 1;

  static constexpr size_t Items(size_t size) { return size; }

  template <class Conversion>
  static ALWAYS_INLINE WideMoments Load(const AdamCoefficients& c, const Moments& t, size_t begin, size_t /*size*/,
                                        MomentBuffer /*buffer*/) {
    return {static_cast<float*>(t.moment1) + begin, static_cast<float*>(t.moment2) + begin, nullptr, PlainUnits(c)};
  }

  static ALWAYS_INLINE auto DrawInto(uint32_t* /*random*/, const Moments& /*t*/, size_t /*begin*/) {
    return []() ALWAYS_INLINE_LAMBDA {};
  }

  static ALWAYS_INLINE void Store(const Moments& /*t*/, size_t /*begin*/, size_t /*size*/, WideMoments /*updated*/) {}
};

// Rounded stochastically. Of the random bits of an element, the lower half rounds the first moment.
struct BFloat16Moments {
  static constexpr char kDtype[] = "bfloat16";
  static constexpr size_t kBytes = sizeof(BFloat16);

  static constexpr size_t kTogether = 1;

  static constexpr size_t Items(size_t size) { return size; }

  template <class Conversion>
  static ALWAYS_INLINE WideMoments Load(const AdamCoefficients& c, const Moments& t, size_t begin, size_t size,
                                        MomentBuffer buffer) {
    Conversion::Widen(static_cast<const BFloat16*>(t.moment1) + begin, buffer.m, size);
    Conversion::Widen(static_cast<const BFloat16*>(t.moment2) + begin, buffer.v, size);
    return {buffer.m, buffer.v, buffer.random, PlainUnits(c)};
  }

  static ALWAYS_INLINE Draw DrawInto(uint32_t* random, const Moments& t, size_t begin) {
    return {t.seed, t.first_element + begin, random};
  }

  static ALWAYS_INLINE void Store(const Moments& t, size_t begin, size_t size, WideMoments updated) {
    Round(updated.random, updated.m, updated.v, static_cast<BFloat16*>(t.moment1) + begin,
          static_cast<BFloat16*>(t.moment2) + begin, size);
  }

 private:
  static ALWAYS_INLINE void Round(const uint32_t* __restrict random, const float* __restrict m,
                                  const float* __restrict v, BFloat16* __restrict rounded_m,
                                  BFloat16* __restrict rounded_v, size_t size) {
    for (size_t i = 0; i < size; ++i) {
      rounded_m[i].bits = static_cast<uint16_t>(StochasticallyRounded(m[i], random[i] & 0xffff));
      rounded_v[i].bits = static_cast<uint16_t>(StochasticallyRounded(v[i], random[i] >> 16));
    }
  }
};

// Codes of 8 bits, in blocks with a scale, rounded stochastically.
struct Uint8Moments {
  static constexpr char kDtype[] = "uint8";
  static constexpr size_t kBytes = 1;
  static constexpr size_t kTogether = kCodes;

  static constexpr size_t Items(size_t size) { return (size + kCodes - 1) / kCodes * sizeof(CodeBlock); }

  template <class Conversion>
  static ALWAYS_INLINE WideMoments Load(const AdamCoefficients& c, const Moments& t, size_t begin, size_t /*size*/,
                                        MomentBuffer buffer) {
    const CodeBlock &m = *BlockOf(t.moment1, begin), &v = *BlockOf(t.moment2, begin);
    MomentUnits units = UnitsOf(c, m.scale, v.scale);
    Decode(m, v, buffer.m, buffer.v);
    Scale(units.decay_m, buffer.m);
    Scale(units.decay_v, buffer.v);
    units.decay_m = units.decay_v = 1.0f;  // a constant, so compilers leave out the products
    return {buffer.m, buffer.v, buffer.random, units};
  }

  static ALWAYS_INLINE Draw DrawInto(uint32_t* random, const Moments& t, size_t begin) {
    return {t.seed, t.first_element + begin, random};
  }

  static ALWAYS_INLINE void Store(const Moments& t, size_t begin, size_t size, WideMoments updated) {
    // Behind the last element lies padding. It has the bits of elements whose gradient is zero, as the padding of a
    // shard has.
    const uint32_t first = static_cast<uint32_t>(t.first_element + begin);
    for (size_t i = size; i < kCodes; ++i) updated.random[i] = RandomBits(t.seed, first + static_cast<uint32_t>(i));
    Encode(updated.units, updated.random, updated.m, updated.v, BlockOf(t.moment1, begin), BlockOf(t.moment2, begin));
  }

 private:
  static ALWAYS_INLINE CodeBlock* BlockOf(void* moment, size_t begin) {
    return static_cast<CodeBlock*>(moment) + begin / kCodes;
  }
};

// Calls visit() with an object of the format's struct.
template <class Visitor>
ALWAYS_INLINE auto VisitMomentFormat(MomentFormat format, const Visitor& visit) {
  switch (format) {
    case MomentFormat::kFloat32:
      return visit(Float32Moments{});
    case MomentFormat::kBFloat16:
      return visit(BFloat16Moments{});
    case MomentFormat::kUint8:
      return visit(Uint8Moments{});
  }
  __builtin_unreachable();
}

inline const char* DtypeOf(MomentFormat format) {
  return VisitMomentFormat(format, [](auto one) { return static_cast<const char*>(one.kDtype); });
}

// The elements of the array that holds a moment of `size` elements, and its bytes.
inline size_t ItemsOf(MomentFormat format, size_t size) {
  return VisitMomentFormat(format, [=](auto one) { return one.Items(size); });
}

inline size_t BytesOf(MomentFormat format, size_t size) {
  return VisitMomentFormat(format, [=](auto one) { return one.Items(size) * one.kBytes; });
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_MOMENTS_H_
