// The native kernel: Adam over the tensors of one bucket.

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

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_KERNEL_H_
