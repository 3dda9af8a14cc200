// The limit that the benchmark measures the kernel against: the simplest loop over the same bytes, split in equal
// parts over the threads. Nothing in the optimizer calls it.

#include <cmath>
#include <cstddef>
#include <thread>
#include <vector>

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

extern "C" __attribute__((visibility("default"))) void MindsporeOffloadBareLoop(float* w, float* m, float* v,
                                                                                const float* g, size_t size, float lr,
                                                                                size_t threads) {
  std::vector<std::thread> others;
  for (size_t i = 1; i < threads; ++i) {
    const size_t begin = size / threads * i, end = i + 1 == threads ? size : size / threads * (i + 1);
    others.emplace_back([=] { Loop(w + begin, m + begin, v + begin, g + begin, end - begin, lr); });
  }
  Loop(w, m, v, g, threads > 1 ? size / threads : size, lr);
  for (std::thread& other : others) other.join();
}
