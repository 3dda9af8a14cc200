// SPDX-License-Identifier: Apache-2.0

// Updates a part of one tensor of any element type, block by block: widens 16-bit elements, calls the float32
// arithmetic of adam.h, and rounds the results.

#ifndef MINDSPORE_OFFLOAD_CSRC_UPDATE_H_
#define MINDSPORE_OFFLOAD_CSRC_UPDATE_H_

#include <algorithm>
#include <cstdint>

#include "adam.h"
#include "half.h"
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

template <class Conversion>
ALWAYS_INLINE void AdoptOutsideChanges(const AdamTensors& t, size_t begin, size_t size) {
  if (t.parameter_type == Element::kFloat16) {
    AdoptFrom<Conversion>(static_cast<const Float16*>(t.parameter) + begin, t.weight + begin, size);
  } else if (t.parameter_type == Element::kBFloat16) {
    AdoptFrom<Conversion>(static_cast<const BFloat16*>(t.parameter) + begin, t.weight + begin, size);
  }
}

template <class Conversion>
ALWAYS_INLINE void RoundMasters(const AdamTensors& t, size_t begin, size_t size) {
  if (t.parameter_type == Element::kFloat16) {
    Conversion::Narrow(t.weight + begin, static_cast<Float16*>(t.rounded) + begin, size);
  } else if (t.parameter_type == Element::kBFloat16) {
    Conversion::Narrow(t.weight + begin, static_cast<BFloat16*>(t.rounded) + begin, size);
  }
}

// Returns at most a block of a gradient as float32: the gradient itself, or `buffer` with its widened elements.
template <class Conversion>
ALWAYS_INLINE const float* WideGradient(Element type, const void* gradient, size_t begin, float* buffer, size_t size) {
  switch (type) {
    case Element::kFloat16:
      Conversion::Widen(static_cast<const Float16*>(gradient) + begin, buffer, size);
      return buffer;
    case Element::kBFloat16:
      Conversion::Widen(static_cast<const BFloat16*>(gradient) + begin, buffer, size);
      return buffer;
    default:
      return static_cast<const float*>(gradient) + begin;
  }
}

// Returns a block of a moment as float32: the moment itself, or `buffer` with its widened elements.
template <class Conversion>
ALWAYS_INLINE float* WideMoment(Element type, void* moment, size_t begin, float* buffer, size_t size) {
  if (type == Element::kFloat32) return static_cast<float*>(moment) + begin;
  Conversion::Widen(static_cast<const BFloat16*>(moment) + begin, buffer, size);
  return buffer;
}

// Skips a step. The result is a no-op for the device: a difference of -0, which changes no weight, not even -0, or the
// parameter as it is.
ALWAYS_INLINE void KeepRange(const AdamTensors& t, size_t begin, size_t end) {
  if (t.weight == nullptr) {
    std::fill(t.delta + begin, t.delta + end, -0.0f);
  } else if (t.parameter_type != Element::kFloat32 && t.rounded != t.parameter) {
    std::copy(static_cast<const uint16_t*>(t.parameter) + begin, static_cast<const uint16_t*>(t.parameter) + end,
              static_cast<uint16_t*>(t.rounded) + begin);
  }
}

// Asks the memory for the elements [begin, end) of a tensor, whose first element is at `data`, or which is absent.
ALWAYS_INLINE void PrefetchTensor(const void* data, size_t element_bytes, size_t begin, size_t end) {
  constexpr size_t kLine = 64;
  if (data == nullptr) return;
  const char* bytes = static_cast<const char*>(data);
  for (size_t at = begin * element_bytes; at < end * element_bytes; at += kLine) __builtin_prefetch(bytes + at);
}

// Asks the memory for a later block of all that an update reads.
ALWAYS_INLINE void Prefetch(const AdamTensors& t, size_t begin, size_t end) {
  PrefetchTensor(t.gradient, BytesOf(t.gradient_type), begin, end);
  PrefetchTensor(t.moment1, BytesOf(t.moment_type), begin, end);
  PrefetchTensor(t.moment2, BytesOf(t.moment_type), begin, end);
  PrefetchTensor(t.weight, sizeof(float), begin, end);
  PrefetchTensor(t.parameter, BytesOf(t.parameter_type), begin, end);
}

// Updates the elements [begin, end) of one parameter, in blocks of kSize elements. Prefetches kAhead elements further
// on unless that is 0.
template <class Conversion, size_t kSize = kBlock, size_t kAhead = kPrefetch>
ALWAYS_INLINE void UpdateRange(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  if (c.skip != 0.0f) {
    KeepRange(t, begin, end);
    return;
  }
  const RoundingSeed seed = SeedOf(c.step, t.key);
  float wide[kSize], gradient[kSize], delta[kSize], wide_m[kSize], wide_v[kSize];
  for (size_t i = begin; i < end; i += kSize) {
    const size_t size = std::min(kSize, end - i);
    if (kAhead > 0 && end - i > kAhead) Prefetch(t, i + kAhead, std::min(i + kAhead + kSize, end));
    float* weight = t.weight == nullptr ? nullptr : t.weight + i;
    AdoptOutsideChanges<Conversion>(t, i, size);
    const float* found = WideGradient<Conversion>(t.gradient_type, t.gradient, i, wide, size);
    PrepareGradient(c, weight, found, gradient, size);
    float* difference = weight == nullptr ? t.delta + i : delta;
    float* m = WideMoment<Conversion>(t.moment_type, t.moment1, i, wide_m, size);
    float* v = WideMoment<Conversion>(t.moment_type, t.moment2, i, wide_v, size);
    if (c.nesterov != 0.0f) {
      UpdateMoments<true>(c, gradient, m, v, difference, size);
    } else {
      UpdateMoments<false>(c, gradient, m, v, difference, size);
    }
    if (t.moment_type == Element::kBFloat16) {
      RoundMoments(seed, t.first_element + i, m, v, static_cast<BFloat16*>(t.moment1) + i,
                   static_cast<BFloat16*>(t.moment2) + i, size);
    }
    if (weight != nullptr) UpdateWeights(c, delta, weight, size);
    RoundMasters<Conversion>(t, i, size);
  }
}

// Sums the squares of the elements [begin, end) of a gradient. The square of a float32 is exact in float64, and there
// are as many lanes as in the widest vector, so every instruction set adds in the same order.
template <class Conversion>
ALWAYS_INLINE double SumSquaresOfRange(Element type, const void* gradient, size_t begin, size_t end) {
  constexpr size_t kLanes = 16;
  double lanes[kLanes] = {};
  float wide[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t size = std::min(kBlock, end - i);
    PrefetchTensor(gradient, BytesOf(type), i + kPrefetch, i + kPrefetch + kBlock);  // beyond the end it is harmless
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
