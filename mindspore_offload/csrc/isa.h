// SPDX-License-Identifier: Apache-2.0

// Macros that compile one function for another instruction set than the rest of its file.

#ifndef MINDSPORE_OFFLOAD_CSRC_ISA_H_
#define MINDSPORE_OFFLOAD_CSRC_ISA_H_

#define ALWAYS_INLINE inline __attribute__((always_inline))

// The same for a lambda, behind its parameters.
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))

// Compiles a function for AVX2 and F16C (every CPU with AVX2 has the 16-bit conversions of F16C). All loops that such a
// function calls must be ALWAYS_INLINE: what is not inlined is compiled for the baseline. It is right, but slow.
#if defined(__x86_64__)
#define MINDSPORE_OFFLOAD_HAS_AVX2 1
#define TARGET_AVX2 __attribute__((target("avx2,f16c")))

// The same for AVX-512, with vectors of 512 bits, of which compilers else use half. Not for clang, which knows no such
// wish of a function: its library has AVX2 only.
#ifndef __clang__
#define MINDSPORE_OFFLOAD_HAS_AVX512 1
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,f16c,prefer-vector-width=512")))
#endif
#endif

#endif  // MINDSPORE_OFFLOAD_CSRC_ISA_H_
