// SPDX-License-Identifier: Apache-2.0

// The simplest Adam loop over the same bytes as the kernel, split in equal parts over the thread team: the benchmark's
// estimate of the memory limit. `make build/libbare_loop.so` compiles it.

#include <cmath>
#include <cstddef>

#include "../../mindspore_offload/csrc/team.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

#if defined(__x86_64__)
#define BEST_ISA __attribute__((target_clones("avx2", "default")))
#else
#define BEST_ISA
#endif

BEST_ISA static void Loop(float* __restrict w, float* __restrict m, float* __restrict v, const float* __restrict g,
                          size_t size, float lr) {
  for (size_t i = 0; i < size; ++i) {
    m[i] = m[i] * 0.9f + 0.1f * g[i];
    v[i] = v[i] * 0.999f + 0.001f * g[i] * g[i];
    w[i] -= lr * m[i] / (std::sqrt(v[i]) + 1e-8f);
  }
}

// A shorter tensor is done before another thread is awake.
constexpr size_t kShort = size_t{1} << 16;

// Updates one tensor. `lr` is the bias-corrected learning rate.
EXPORT void MindsporeOffloadBareLoop(float* w, float* m, float* v, const float* g, size_t size, float lr) {
  const size_t parts = size < kShort ? 1 : mindspore_offload::TeamSize();
  mindspore_offload::RunChunks(parts, [=](size_t part) {
    const size_t begin = size * part / parts, end = size * (part + 1) / parts;
    Loop(w + begin, m + begin, v + begin, g + begin, end - begin, lr);
  });
}

// The team of this library is not that of the package's library, so its size is set here.
EXPORT void MindsporeOffloadSetThreads(size_t threads) { mindspore_offload::SetTeamSize(threads); }
