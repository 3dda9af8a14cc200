// SPDX-License-Identifier: Apache-2.0

// Conversions of float16 by the instructions of F16C, eight elements at a time. The only intrinsics of the library.

#include "half.h"

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2

#include <immintrin.h>

namespace mindspore_offload {

TARGET_AVX2 void Avx2Conversion::Widen(const Float16* from, float* to, size_t size) {
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
  PlainConversion::Widen(from + i, to + i, size - i);
}

TARGET_AVX2 static __m128i Narrow8(const float* from) {
  return _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT);
}

TARGET_AVX2 void Avx2Conversion::Narrow(const float* from, Float16* to, size_t size) {
  size_t i = 0;
  for (; i + 8 <= size; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), Narrow8(from + i));
  PlainConversion::Narrow(from + i, to + i, size - i);
}

TARGET_AVX2 bool Avx2Conversion::NarrowsTo(const float* from, const Float16* to, size_t size) {
  __m128i difference = _mm_setzero_si128();
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m128i found = _mm_loadu_si128(reinterpret_cast<const __m128i*>(to + i));
    difference = _mm_or_si128(difference, _mm_xor_si128(Narrow8(from + i), found));
  }
  return _mm_testz_si128(difference, difference) && PlainConversion::NarrowsTo(from + i, to + i, size - i);
}

}  // namespace mindspore_offload

#endif
