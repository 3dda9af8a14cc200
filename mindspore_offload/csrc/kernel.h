// SPDX-License-Identifier: Apache-2.0

// The native kernel: Adam over the tensors of one bucket, and the norm of gradients.

#ifndef MINDSPORE_OFFLOAD_CSRC_KERNEL_H_
#define MINDSPORE_OFFLOAD_CSRC_KERNEL_H_

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

// The Euclidean norm of all elements of all gradients, summed in float64, in the same order for any number of threads.
// It is not finite if an element is not finite.
float GlobalNorm(const std::vector<Gradient>& gradients);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_KERNEL_H_
