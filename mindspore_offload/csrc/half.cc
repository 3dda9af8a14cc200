#include "half.h"

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2

#include <immintrin.h>

namespace mindspore_offload {

TARGET_AVX2 void Avx2Conversion::Widen(const Float16* from, float* to, size_t size) {
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
  for (; i < size; ++i) to[i] = ToFloat(from[i]);
}

TARGET_AVX2 void Avx2Conversion::Narrow(const float* from, Float16* to, size_t size) {
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m128i narrowed = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), narrowed);
  }
  for (; i < size; ++i) FromFloat(from[i], &to[i]);
}

}  // namespace mindspore_offload

#endif
