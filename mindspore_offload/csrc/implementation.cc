// SPDX-License-Identifier: Apache-2.0

// Compiles update.h once for each instruction set, and picks the best at run time.
//
// To add an instruction set: a macro in isa.h, a block as the one for AVX2 here, and a row of the table.

#include "implementation.h"

#include <atomic>
#include <cstring>
#include <string>

#include "update.h"

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
#include <cpuid.h>
#endif

namespace mindspore_offload {
namespace {

bool Always() { return true; }

void UpdateBaseline(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  UpdateRange<PlainConversion>(c, t, begin, end);
}

double SumSquaresBaseline(Element type, const void* gradient, size_t begin, size_t end) {
  return SumSquaresOfRange<PlainConversion>(type, gradient, begin, end);
}

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
bool HasAvx2() {
  // The compiler's run-time check looks at the CPU and at whether the operating system saves the wide registers.
  __builtin_cpu_init();
  unsigned eax, ebx, ecx, edx;
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

TARGET_AVX2 void UpdateAvx2(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  UpdateRange<Avx2Conversion>(c, t, begin, end);
}

TARGET_AVX2 double SumSquaresAvx2(Element type, const void* gradient, size_t begin, size_t end) {
  return SumSquaresOfRange<Avx2Conversion>(type, gradient, begin, end);
}
#endif

#ifdef MINDSPORE_OFFLOAD_HAS_AVX512
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

TARGET_AVX512 void UpdateAvx512(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  UpdateRange<Avx2Conversion>(c, t, begin, end);
}

TARGET_AVX512 double SumSquaresAvx512(Element type, const void* gradient, size_t begin, size_t end) {
  return SumSquaresOfRange<Avx2Conversion>(type, gradient, begin, end);
}
#endif

// Best first. The last one runs everywhere.
constexpr Implementation kImplementations[] = {
#ifdef MINDSPORE_OFFLOAD_HAS_AVX512
    {"avx512", HasAvx512, UpdateAvx512, SumSquaresAvx512},
#endif
#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
    {"avx2", HasAvx2, UpdateAvx2, SumSquaresAvx2},
#endif
    {"baseline", Always, UpdateBaseline, SumSquaresBaseline},
};

const Implementation* Best() {
  const Implementation* one = kImplementations;
  while (!one->runs_here()) ++one;
  return one;
}

std::atomic<const Implementation*>& Active() {
  static std::atomic<const Implementation*> active{Best()};
  return active;
}

}  // namespace

const Implementation& ActiveImplementation() { return *Active(); }

const char* SupportedImplementations() {
  static const std::string names = [] {
    std::string found;
    for (const Implementation& one : kImplementations) {
      if (one.runs_here()) found += (found.empty() ? "" : " ") + std::string(one.name);
    }
    return found;
  }();
  return names.c_str();
}

bool UseImplementation(const char* name) {
  for (const Implementation& one : kImplementations) {
    if (std::strcmp(name, one.name) == 0 && one.runs_here()) {
      Active() = &one;
      return true;
    }
  }
  return false;
}

}  // namespace mindspore_offload
