// SPDX-License-Identifier: Apache-2.0

// Splits the work of a bucket into chunks for the thread team.

#include "kernel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "implementation.h"
#include "sizes.h"
#include "team.h"

namespace mindspore_offload {
namespace {

// Cuts tensors, laid end to end, into chunks of `size` units for the team. ends[i] is where tensor i ends. Calls
// work(i, begin, end) for every part of a tensor in a chunk.
template <class Work>
void RunParts(const std::vector<size_t>& ends, size_t size, const Work& work) {
  const size_t total = ends.back();
  RunChunks((total + size - 1) / size, [&](size_t chunk) {
    const size_t stop = std::min(total, (chunk + 1) * size);
    size_t at = chunk * size;
    size_t i = std::upper_bound(ends.begin(), ends.end(), at) - ends.begin();
    for (; at < stop; ++i) {
      const size_t start = i == 0 ? 0 : ends[i - 1];
      const size_t end = std::min(stop, ends[i]);
      work(i, at - start, end - start);
      at = end;
    }
  });
}

struct Range {
  const char* begin;
  const char* end;
};

Range RangeOf(const void* data, size_t bytes) {
  const char* begin = static_cast<const char*>(data);
  return {begin, begin + bytes};
}

// The memory that the update of a bucket writes, in the order of addresses.
std::vector<Range> WrittenRanges(const std::vector<BucketItem>& bucket) {
  std::vector<Range> ranges;
  for (const BucketItem& item : bucket) {
    const AdamTensors& t = item.tensors;
    const size_t moment_bytes = t.size * BytesOf(t.moment_type);
    ranges.push_back(RangeOf(t.moment1, moment_bytes));
    ranges.push_back(RangeOf(t.moment2, moment_bytes));
    if (t.weight != nullptr) ranges.push_back(RangeOf(t.weight, t.size * sizeof(float)));
    if (t.rounded != nullptr) ranges.push_back(RangeOf(t.rounded, t.size * BytesOf(t.parameter_type)));
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  return ranges;
}

}  // namespace

GradientCopies CopySharedGradients(std::vector<BucketItem>* bucket) {
  GradientCopies copies;
  const std::vector<Range> written = WrittenRanges(*bucket);
  for (BucketItem& item : *bucket) {
    const size_t bytes = item.tensors.size * BytesOf(item.tensors.gradient_type);
    const Range gradient = RangeOf(item.tensors.gradient, bytes);
    const auto next = std::lower_bound(written.begin(), written.end(), gradient.end,
                                       [](const Range& range, const char* end) { return range.begin < end; });
    if (next == written.begin() || std::prev(next)->end <= gradient.begin) continue;
    copies.emplace_back(new char[bytes]);
    std::memcpy(copies.back().get(), gradient.begin, bytes);
    item.tensors.gradient = copies.back().get();
  }
  return copies;
}

void UpdateBucket(const std::vector<BucketItem>& bucket) {
  const auto update = ActiveImplementation().update;
  std::vector<size_t> ends;
  size_t total = 0;
  for (const BucketItem& item : bucket) ends.push_back(total += item.tensors.size);
  RunParts(ends, kChunk,
           [&](size_t i, size_t begin, size_t end) { update(bucket[i].coefficients, bucket[i].tensors, begin, end); });
}

size_t SumsOf(size_t size) { return (size + kSumBlock - 1) / kSumBlock; }

std::vector<double> SumsOfSquares(const std::vector<Gradient>& gradients) {
  const auto sum_squares = ActiveImplementation().sum_squares;
  std::vector<size_t> ends;
  size_t total = 0;
  for (const Gradient& gradient : gradients) ends.push_back(total += SumsOf(gradient.size));
  std::vector<double> sums(total);
  RunParts(ends, kChunk / kSumBlock, [&](size_t i, size_t begin, size_t end) {
    const Gradient& gradient = gradients[i];
    double* sums_of_gradient = sums.data() + ends[i] - SumsOf(gradient.size);
    for (size_t block = begin; block < end; ++block) {
      const size_t stop = std::min(gradient.size, (block + 1) * kSumBlock);
      sums_of_gradient[block] = sum_squares(gradient.type, gradient.data, block * kSumBlock, stop);
    }
  });
  return sums;
}

float NormOf(const std::vector<GradientSums>& gradients, const std::vector<double>& sums, size_t ranks) {
  const size_t sums_of_rank = sums.size() / ranks;
  double total = 0;
  size_t start = 0;
  for (const GradientSums& gradient : gradients) {
    for (size_t rank = 0; rank < (gradient.is_piece ? ranks : 1); ++rank) {
      const double* first = sums.data() + rank * sums_of_rank + start;
      for (size_t i = 0; i < gradient.count; ++i) total += first[i];
    }
    start += gradient.count;
  }
  return static_cast<float>(std::sqrt(total));
}

}  // namespace mindspore_offload
