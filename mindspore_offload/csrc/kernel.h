// The native kernel: Adam over the tensors of one bucket, and the norm of gradients.

#ifndef MINDSPORE_OFFLOAD_CSRC_KERNEL_H_
#define MINDSPORE_OFFLOAD_CSRC_KERNEL_H_

#include <vector>

#include "adam.h"

namespace mindspore_offload {

struct BucketItem {
  AdamCoefficients coefficients;
  AdamTensors tensors;
};

// Updates every tensor of the bucket. The work is split over the thread team by elements, not by tensors, so
// many small tensors and one large one are balanced alike.
void UpdateBucket(const std::vector<BucketItem>& bucket);

struct Gradient {
  Element type;
  const void* data;
  size_t size;
};

// The Euclidean norm of all elements of all gradients, summed in float64, and in the same order for any number of
// threads. Not finite if an element isn't.
float GlobalNorm(const std::vector<Gradient>& gradients);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_KERNEL_H_
