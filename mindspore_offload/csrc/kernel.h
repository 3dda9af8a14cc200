// SPDX-License-Identifier: Apache-2.0

// The native kernel: Adam over the tensors of one bucket, and the norm of gradients.

#ifndef MINDSPORE_OFFLOAD_CSRC_KERNEL_H_
#define MINDSPORE_OFFLOAD_CSRC_KERNEL_H_

#include <memory>
#include <vector>

#include "adam.h"
#include "tensors.h"

namespace mindspore_offload {

struct BucketItem {
  AdamCoefficients coefficients;
  AdamTensors tensors;
};

// Updates every tensor of the bucket. The thread team splits the work by elements, not by tensors, so many small
// tensors and one large tensor are balanced alike.
void UpdateBucket(const std::vector<BucketItem>& bucket);

// Memory that must live until the bucket has been updated.
using GradientCopies = std::vector<std::unique_ptr<char[]>>;

// Copies each gradient of the bucket that lies in memory which the update writes. MindSpore simplifies a product with
// ones to the other factor, so the gradient of one parameter may be the memory of another.
GradientCopies CopySharedGradients(std::vector<BucketItem>* bucket);

// The sums of the squares of gradients, in float64: one for each block of a gradient. The bits are the same for any
// number of threads.
std::vector<double> SumsOfSquares(const std::vector<Gradient>& gradients);

// The number of sums that SumsOfSquares returns for a gradient of `size` elements.
size_t SumsOf(size_t size);

// The sums of one gradient, on each rank.
struct GradientSums {
  size_t count;   // of sums on a rank
  bool is_piece;  // each rank has the sums of its own piece; else all ranks have the same sums
};

// The Euclidean norm of all gradients. `sums` has the sums of one rank after those of the other. It is not finite if an
// element of a gradient is not finite.
float NormOf(const std::vector<GradientSums>& gradients, const std::vector<double>& sums, size_t ranks);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_KERNEL_H_
