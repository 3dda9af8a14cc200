// SPDX-License-Identifier: Apache-2.0

// Splits the work of a bucket into chunks for the thread team.

#include "kernel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "ieee.h"
#include "implementation.h"
#include "sizes.h"
#include "team.h"

namespace mindspore_offload {
namespace {

// The blocks of a tensor of `size` elements. The last one may have fewer elements.
size_t BlocksOf(size_t size) { return (size + kBlock - 1) / kBlock; }

// Lays the blocks of tensors of these sizes end to end, and cuts them into chunks for the team. Calls work(i, begin,
// end) for every part of a tensor in a chunk: the elements [begin, end) of tensor i.
template <class Work>
void RunParts(const std::vector<size_t>& sizes, const Work& work) {
  constexpr size_t kChunkBlocks = kChunk / kBlock;
  std::vector<size_t> ends;  // the block at which each tensor ends
  size_t total = 0;
  for (size_t size : sizes) ends.push_back(total += BlocksOf(size));
  RunChunks((total + kChunkBlocks - 1) / kChunkBlocks, [&](size_t chunk) {
    IeeeArithmetic arithmetic;
    const size_t stop = std::min(total, (chunk + 1) * kChunkBlocks);
    size_t at = chunk * kChunkBlocks;
    size_t i = std::upper_bound(ends.begin(), ends.end(), at) - ends.begin();
    for (; at < stop; ++i) {
      const size_t start = i == 0 ? 0 : ends[i - 1];
      const size_t end = std::min(stop, ends[i]);
      work(i, (at - start) * kBlock, std::min((end - start) * kBlock, sizes[i]));
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
    const size_t moment_bytes = BytesOf(t.moment_format, t.size);
    ranges.push_back(RangeOf(t.moment1, moment_bytes));
    ranges.push_back(RangeOf(t.moment2, moment_bytes));
    if (t.kind != Kind::kDifference) ranges.push_back(RangeOf(t.weight, t.size * sizeof(float)));
    if (t.kind == Kind::kMaster) ranges.push_back(RangeOf(t.result, t.size * BytesOf(t.parameter_type)));
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
  std::vector<size_t> sizes;
  for (const BucketItem& item : bucket) sizes.push_back(item.tensors.size);
  RunParts(sizes,
           [&](size_t i, size_t begin, size_t end) { update(bucket[i].coefficients, bucket[i].tensors, begin, end); });
}

size_t SumsOf(size_t size) { return BlocksOf(size); }

std::vector<double> SumsOfSquares(const std::vector<Gradient>& gradients) {
  const auto sum_squares = ActiveImplementation().sum_squares;
  std::vector<size_t> sizes, starts;  // starts[i]: the index of the first sum of gradient i
  size_t total = 0;
  for (const Gradient& gradient : gradients) {
    sizes.push_back(gradient.size);
    starts.push_back(total);
    total += SumsOf(gradient.size);
  }
  std::vector<double> sums(total);
  RunParts(sizes, [&](size_t i, size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += kBlock) {
      const size_t stop = std::min(end, at + kBlock);
      sums[starts[i] + at / kBlock] = sum_squares(gradients[i].type, gradients[i].data, at, stop);
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
