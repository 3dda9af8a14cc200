// SPDX-License-Identifier: Apache-2.0

// Splits the work of a bucket into chunks for the thread team.

#include "kernel.h"

#include <algorithm>
#include <cmath>

#include "implementation.h"
#include "sizes.h"
#include "team.h"

namespace mindspore_offload {
namespace {

size_t SizeOf(const BucketItem& item) { return item.tensors.size; }
size_t SizeOf(const Gradient& gradient) { return gradient.size; }

// Cuts tensors, laid end to end, into chunks for the team. Calls work(chunk, tensor, begin, end) for every part of a
// tensor in a chunk.
template <class Tensor, class Work>
void RunParts(const std::vector<Tensor>& tensors, const Work& work) {
  // ends[i] is where tensor i ends.
  std::vector<size_t> ends;
  size_t total = 0;
  for (const Tensor& tensor : tensors) ends.push_back(total += SizeOf(tensor));

  RunChunks((total + kChunk - 1) / kChunk, [&](size_t chunk) {
    const size_t stop = std::min(total, (chunk + 1) * kChunk);
    size_t at = chunk * kChunk;
    size_t i = std::upper_bound(ends.begin(), ends.end(), at) - ends.begin();
    for (; at < stop; ++i) {
      const size_t start = ends[i] - SizeOf(tensors[i]);
      const size_t end = std::min(stop, ends[i]);
      work(chunk, tensors[i], at - start, end - start);
      at = end;
    }
  });
}

}  // namespace

void UpdateBucket(const std::vector<BucketItem>& bucket) {
  const auto update = ActiveImplementation().update;
  RunParts(bucket, [&](size_t, const BucketItem& item, size_t begin, size_t end) {
    update(item.coefficients, item.tensors, begin, end);
  });
}

float GlobalNorm(const std::vector<Gradient>& gradients) {
  const auto sum_squares = ActiveImplementation().sum_squares;
  size_t total_size = 0;
  for (const Gradient& gradient : gradients) total_size += gradient.size;
  std::vector<double> sums(total_size / kChunk + 1);  // of each chunk
  RunParts(gradients, [&](size_t chunk, const Gradient& gradient, size_t begin, size_t end) {
    sums[chunk] += sum_squares(gradient.type, gradient.data, begin, end);
  });
  double sum_of_all = 0;
  for (double sum : sums) sum_of_all += sum;
  return static_cast<float>(std::sqrt(sum_of_all));
}

}  // namespace mindspore_offload
