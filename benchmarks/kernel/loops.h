// SPDX-License-Identifier: Apache-2.0

// The loops that the kernel is compared with, and the best instruction set for them.

#ifndef MINDSPORE_OFFLOAD_BENCHMARKS_KERNEL_LOOPS_H_
#define MINDSPORE_OFFLOAD_BENCHMARKS_KERNEL_LOOPS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../../mindspore_offload/csrc/adam.h"
#include "../../mindspore_offload/csrc/half.h"
#include "../../mindspore_offload/csrc/tensors.h"

namespace mindspore_offload {

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
#define BEST_ISA TARGET_AVX2
using BestConversion = Avx2Conversion;
#else
#define BEST_ISA
using BestConversion = PlainConversion;
#endif

// The best loop for float32 in place that knows nothing but Adam: one pass, with prefetch.
template <size_t kAhead>
BEST_ISA void BareLoop(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  float* __restrict w = t.weight;
  float* __restrict m = static_cast<float*>(t.moment1);
  float* __restrict v = static_cast<float*>(t.moment2);
  const float* __restrict g = static_cast<const float*>(t.gradient);
  const AdamCoefficients k = c;
  constexpr size_t kLine = 16;
  for (size_t line = begin; line < end; line += kLine) {
    if (kAhead > 0 && end - line > kAhead) {
      __builtin_prefetch(w + line + kAhead);
      __builtin_prefetch(m + line + kAhead);
      __builtin_prefetch(v + line + kAhead);
      __builtin_prefetch(g + line + kAhead);
    }
    const size_t stop = std::min(line + kLine, end);
    for (size_t i = line; i < stop; ++i) {
      m[i] = m[i] * k.beta1 + (1.0f - k.beta1) * g[i];
      v[i] = v[i] * k.beta2 + (1.0f - k.beta2) * g[i] * g[i];
      w[i] -= k.learning_rate * m[i] / (std::sqrt(v[i]) + k.eps);
    }
  }
}

// Reads every byte that an update in place reads, and writes none.
BEST_ISA inline void ReadOnly(const AdamCoefficients&, const AdamTensors& t, size_t begin, size_t end) {
  const auto* w = reinterpret_cast<const uint32_t*>(t.weight);
  const auto* m = static_cast<const uint32_t*>(t.moment1);
  const auto* v = static_cast<const uint32_t*>(t.moment2);
  const auto* g = static_cast<const uint32_t*>(t.gradient);
  uint32_t sum = 0;
  for (size_t i = begin; i < end; ++i) sum += w[i] ^ m[i] ^ v[i] ^ g[i];
  volatile uint32_t sink = sum;
  static_cast<void>(sink);
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_BENCHMARKS_KERNEL_LOOPS_H_
