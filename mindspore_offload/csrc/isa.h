// Instruction sets: which ones this library holds and this machine runs, and which one is in use.

#ifndef MINDSPORE_OFFLOAD_CSRC_ISA_H_
#define MINDSPORE_OFFLOAD_CSRC_ISA_H_

#define ALWAYS_INLINE inline __attribute__((always_inline))

// A function marked so is compiled for AVX2 (and the 16-bit conversions of F16C, which every CPU with AVX2 has) while
// the rest of its file stays at the baseline. Everything it calls has to be ALWAYS_INLINE: an out-of-line copy could be
// shared with baseline code, and then fault on an older CPU.
#if defined(__x86_64__)
#define MINDSPORE_OFFLOAD_HAS_AVX2 1
#define TARGET_AVX2 __attribute__((target("avx2,f16c")))
#endif

namespace mindspore_offload {

enum class Isa { kBaseline, kAvx2 };

// The instruction set in use: the best that the CPU and its operating system offer, unless SetIsa chose another.
Isa ActiveIsa();

// "baseline" or "avx2".
const char* IsaName(Isa isa);

// Names of the instruction sets that can run here, best first, separated by spaces.
const char* SupportedIsas();

// Uses the named instruction set from the next operation on. False, and no change, if it can't run here.
bool SetIsa(const char* name);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ISA_H_
