#include "isa.h"

#include <atomic>
#include <cstring>
#include <initializer_list>

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
#include <cpuid.h>
#endif

namespace mindspore_offload {
namespace {

bool HasAvx2() {
#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
  // The compiler's run-time check looks at the CPU and at whether the operating system saves the wide registers.
  __builtin_cpu_init();
  unsigned eax, ebx, ecx, edx;
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
#else
  return false;
#endif
}

std::atomic<Isa>& Active() {
  static std::atomic<Isa> active{HasAvx2() ? Isa::kAvx2 : Isa::kBaseline};
  return active;
}

}  // namespace

Isa ActiveIsa() { return Active(); }

const char* IsaName(Isa isa) { return isa == Isa::kAvx2 ? "avx2" : "baseline"; }

const char* SupportedIsas() { return HasAvx2() ? "avx2 baseline" : "baseline"; }

bool SetIsa(const char* name) {
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2}) {
    if (std::strcmp(name, IsaName(isa)) != 0) continue;
    if (isa == Isa::kAvx2 && !HasAvx2()) return false;
    Active() = isa;
    return true;
  }
  return false;
}

}  // namespace mindspore_offload
