// SPDX-License-Identifier: Apache-2.0

// Updates a part of one tensor of any element type, tile by tile: widens 16-bit elements, calls the float32 arithmetic
// of adam.h, and rounds the results.

#ifndef MINDSPORE_OFFLOAD_CSRC_UPDATE_H_
#define MINDSPORE_OFFLOAD_CSRC_UPDATE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "adam.h"
#include "half.h"
#include "moments.h"
#include "sizes.h"
#include "stochastic.h"
#include "tensors.h"

namespace mindspore_offload {

// Copies a parameter into its master where it is not the master rounded: it has been changed outside the optimizer
// since the last step, by a checkpoint for example, and wins.
template <class Conversion, class Half>
ALWAYS_INLINE void AdoptFrom(const Half* parameter, float* master, size_t size) {
  if (Conversion::NarrowsTo(master, parameter, size)) return;
  for (size_t i = 0; i < size; ++i) {
    if (Rounded(master[i], Half{}) != parameter[i].bits) master[i] = ToFloat(parameter[i]);
  }
}

// Calls visit() with a value of the type of a parameter that has a master, which a float32 parameter has not.
template <class Visitor>
ALWAYS_INLINE void VisitHalf(Element type, const Visitor& visit) {
  VisitElement(type, [&](auto element) ALWAYS_INLINE_LAMBDA {
    if constexpr (!std::is_same_v<decltype(element), float>) visit(element);
  });
}

template <class Conversion>
ALWAYS_INLINE void AdoptOutsideChanges(const AdamTensors& t, size_t begin, size_t size) {
  VisitHalf(t.parameter_type, [&](auto half) ALWAYS_INLINE_LAMBDA {
    AdoptFrom<Conversion>(static_cast<const decltype(half)*>(t.parameter) + begin, t.weight + begin, size);
  });
}

template <class Conversion>
ALWAYS_INLINE void RoundMasters(const AdamTensors& t, size_t begin, size_t size) {
  VisitHalf(t.parameter_type, [&](auto half) ALWAYS_INLINE_LAMBDA {
    Conversion::Narrow(t.weight + begin, static_cast<decltype(half)*>(t.result) + begin, size);
  });
}

// Returns at most a tile of a gradient as float32: the gradient itself, or `buffer` with its widened elements.
template <class Conversion>
ALWAYS_INLINE const float* WideGradient(Element type, const void* gradient, size_t begin, float* buffer, size_t size) {
  return VisitElement(type, [=](auto element) ALWAYS_INLINE_LAMBDA {
    const auto* first = static_cast<const decltype(element)*>(gradient) + begin;
    if constexpr (std::is_same_v<decltype(element), float>) {
      return first;
    } else {
      Conversion::Widen(first, buffer, size);
      return static_cast<const float*>(buffer);
    }
  });
}

// Updates a tile of both moments, in their format, and computes the difference that the step adds to the weight.
template <class Conversion, class Format>
ALWAYS_INLINE void UpdateTileOfMoments(const AdamCoefficients& c, Format format, const Moments& moments,
                                       MomentBuffer buffer, const float* g, float* delta, size_t begin, size_t size) {
  const WideMoments wide = format.template Load<Conversion>(c, moments, begin, size, buffer);
  const auto draw = format.DrawInto(wide.random, moments, begin);
  if (c.nesterov != 0.0f) {
    UpdateMoments<true>(c, wide.units, g, wide.m, wide.v, delta, size, draw);
  } else {
    UpdateMoments<false>(c, wide.units, g, wide.m, wide.v, delta, size, draw);
  }
  format.Store(moments, begin, size, wide);
}

// Skips a step. The result is a no-op for the device: a difference of -0, which changes no weight, not even -0, or the
// parameter as it is.
ALWAYS_INLINE void KeepRange(const AdamTensors& t, size_t begin, size_t end) {
  if (t.kind == Kind::kDifference) {
    std::fill(static_cast<float*>(t.result) + begin, static_cast<float*>(t.result) + end, -0.0f);
  } else if (t.kind == Kind::kMaster && t.result != t.parameter) {
    const size_t bytes = BytesOf(t.parameter_type);
    std::memcpy(static_cast<char*>(t.result) + begin * bytes, static_cast<const char*>(t.parameter) + begin * bytes,
                (end - begin) * bytes);
  }
}

// Asks the memory for the bytes [begin, end) of a tensor, whose first byte is at `data`.
ALWAYS_INLINE void PrefetchBytes(const void* data, size_t begin, size_t end) {
  constexpr size_t kLine = 64;
  const char* bytes = static_cast<const char*>(data);
  for (size_t at = begin; at < end; at += kLine) __builtin_prefetch(bytes + at);
}

ALWAYS_INLINE void PrefetchElements(const void* data, size_t element_bytes, size_t begin, size_t end) {
  PrefetchBytes(data, begin * element_bytes, end * element_bytes);
}

// Asks the memory for a later tile of all that an update reads.
ALWAYS_INLINE void Prefetch(const AdamTensors& t, size_t begin, size_t end) {
  PrefetchElements(t.gradient, BytesOf(t.gradient_type), begin, end);
  VisitMomentFormat(t.moment_format, [&](auto one) ALWAYS_INLINE_LAMBDA {
    const size_t from = one.Items(begin) * one.kBytes, to = one.Items(end) * one.kBytes;
    PrefetchBytes(t.moment1, from, to);
    PrefetchBytes(t.moment2, from, to);
  });
  if (t.kind != Kind::kDifference) PrefetchElements(t.weight, sizeof(float), begin, end);
  if (t.kind == Kind::kMaster) PrefetchElements(t.parameter, BytesOf(t.parameter_type), begin, end);
}

// Updates the elements [begin, end) of one parameter, in tiles of kSize elements. Prefetches kAhead elements further on
// unless that is 0.
template <class Conversion, size_t kSize, size_t kAhead, class Format>
ALWAYS_INLINE void UpdateTiles(const AdamCoefficients& c, const AdamTensors& t, Format format, size_t begin,
                               size_t end) {
  static_assert(kSize % Format::kTogether == 0 && kAhead % Format::kTogether == 0, "a tile divides no block of codes");
  const Moments moments{t.moment1, t.moment2, SeedOf(c.step, t.key), t.first_element};
  const bool has_weight = t.kind != Kind::kDifference, has_master = t.kind == Kind::kMaster;
  float wide[kSize], prepared[kSize], delta[kSize], wide_m[kSize], wide_v[kSize];
  uint32_t random[kSize];
  for (size_t i = begin; i < end; i += kSize) {
    const size_t size = std::min(kSize, end - i);
    if (kAhead > 0 && end - i > kAhead) Prefetch(t, i + kAhead, std::min(i + kAhead + kSize, end));
    float* weight = has_weight ? t.weight + i : nullptr;
    if (has_master) AdoptOutsideChanges<Conversion>(t, i, size);
    const float* found = WideGradient<Conversion>(t.gradient_type, t.gradient, i, wide, size);
    const float* gradient = PreparedGradient(c, weight, found, prepared, size);
    float* difference = has_weight ? delta : static_cast<float*>(t.result) + i;
    UpdateTileOfMoments<Conversion>(c, format, moments, {wide_m, wide_v, random}, gradient, difference, i, size);
    if (has_weight) UpdateWeights(c, delta, weight, size);
    if (has_master) RoundMasters<Conversion>(t, i, size);
  }
}

// The same for any format, whose blocks may be larger than a tile of kSize elements.
template <class Conversion, size_t kSize = kTile, size_t kAhead = kPrefetch>
ALWAYS_INLINE void UpdateRange(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  if (c.skip != 0.0f) {
    KeepRange(t, begin, end);
    return;
  }
  VisitMomentFormat(t.moment_format, [&](auto format) ALWAYS_INLINE_LAMBDA {
    constexpr size_t kTileOfFormat = std::max(kSize, format.kTogether);
    UpdateTiles<Conversion, kTileOfFormat, kAhead>(c, t, format, begin, end);
  });
}

// Sums the squares of the elements [begin, end) of a gradient. The square of a float32 is exact in float64, and there
// are as many lanes as in the widest vector, so every instruction set adds in the same order.
template <class Conversion>
ALWAYS_INLINE double SumSquaresOfRange(Element type, const void* gradient, size_t begin, size_t end) {
  constexpr size_t kLanes = 16;
  double lanes[kLanes] = {};
  float wide[kTile];
  for (size_t i = begin; i < end; i += kTile) {
    const size_t size = std::min(kTile, end - i);
    PrefetchElements(gradient, BytesOf(type), i + kPrefetch, i + kPrefetch + kTile);  // beyond the end it is harmless
    const float* g = WideGradient<Conversion>(type, gradient, i, wide, size);
    size_t j = 0;
    for (; j + kLanes <= size; j += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<double>(g[j + lane]) * g[j + lane];
    }
    for (; j < size; ++j) lanes[j % kLanes] += static_cast<double>(g[j]) * g[j];
  }
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_UPDATE_H_
