#include "kernel.h"

#include <algorithm>

#include "team.h"
#include "update.h"

namespace mindspore_offload {
namespace {

// Elements that a thread takes at a time, 28 bytes each to read and write: long runs that the memory likes, and short
// enough, at some 60 microseconds, that the threads end together. Runs of an eighth of this cost up to 10 % more.
constexpr size_t kChunk = size_t{1} << 17;

using RangeFunction = void (*)(const AdamCoefficients&, const AdamTensors&, size_t, size_t);

void UpdateBaseline(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  UpdateRange<PlainConversion>(c, t, begin, end);
}

#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
TARGET_AVX2 void UpdateAvx2(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  UpdateRange<Avx2Conversion>(c, t, begin, end);
}
#endif

RangeFunction ActiveFunction() {
#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
  if (ActiveIsa() == Isa::kAvx2) return UpdateAvx2;
#endif
  return UpdateBaseline;
}

}  // namespace

void UpdateBucket(const std::vector<BucketItem>& bucket) {
  // ends[i] is where tensor i ends when the tensors are laid end to end.
  std::vector<size_t> ends;
  size_t total = 0;
  for (const BucketItem& item : bucket) ends.push_back(total += item.tensors.size);

  const RangeFunction update = ActiveFunction();
  RunChunks((total + kChunk - 1) / kChunk, [&](size_t chunk) {
    const size_t stop = std::min(total, (chunk + 1) * kChunk);
    size_t at = chunk * kChunk;
    size_t i = std::upper_bound(ends.begin(), ends.end(), at) - ends.begin();
    for (; at < stop; ++i) {
      const size_t start = ends[i] - bucket[i].tensors.size;
      const size_t end = std::min(stop, ends[i]);
      update(bucket[i].coefficients, bucket[i].tensors, at - start, end - start);
      at = end;
    }
  });
}

}  // namespace mindspore_offload
