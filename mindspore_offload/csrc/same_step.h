// SPDX-License-Identifier: Apache-2.0

// Compares what all ranks bring to a step of an optimizer whose states they share.

#ifndef MINDSPORE_OFFLOAD_CSRC_SAME_STEP_H_
#define MINDSPORE_OFFLOAD_CSRC_SAME_STEP_H_

#include "launch.h"

namespace mindspore_offload {

// Reads and compares the values of all ranks. Output: (1,) float32, never written. Inputs:
//
//   values     float32, those of rank 0, then those of rank 1, and so on; the same sections in the same order:
//              the number of the step; the settings of the step; elements of the parameters; elements of the gradients
//   sections   (4,) int32: the number of values in each section
//
// Throws std::runtime_error if a rank has other values than rank 0. MindSpore shows its text.
Status CheckSameStep(const Launch& launch);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_SAME_STEP_H_
