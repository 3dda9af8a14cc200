// SPDX-License-Identifier: Apache-2.0

// Reads and checks the arguments of the operations, before any tensor is touched.

#ifndef MINDSPORE_OFFLOAD_CSRC_ARGUMENTS_H_
#define MINDSPORE_OFFLOAD_CSRC_ARGUMENTS_H_

#include <cstdint>
#include <vector>

#include "kernel.h"
#include "launch.h"

namespace mindspore_offload {

enum class Writeback { kInPlace, kAssign };

// One row of the rows tensor.
struct ParameterRow {
  int32_t coefficients;  // the row of the coefficient tensor
  int32_t key;           // for stochastic rounding: any number that differs between parameters
  int32_t piece;         // the piece of the parameter that these tensors are: it has `piece` times their size before it
  int32_t prepared;      // 1 if its gradient has been clipped and decayed, else 0
};

// The inputs of an update, in their order.
enum Role { kCoefficients, kRows, kParameter, kMoment1, kMoment2, kGradient, kMaster };
constexpr int kRoles = kMaster + 1;

// Reads the arguments of an update. The inputs are the same lists for both writebacks:
//
//   coefficients   (rows, columns) float32, the fields of AdamCoefficients
//   rows           (tensors, 4) int32, the fields of ParameterRow
//   parameters     all of them in place; of an assign only those with 16 bits
//   first moments, second moments (in a format of moments.h), gradients
//   masters        of the parameters with 16 bits
//
// Outputs in place: a token that orders the operation in the graph. Outputs of an assign, one for each tensor: the
// difference for a float32 parameter, the new value for one with 16 bits.
Status ReadBucket(const Launch& launch, Writeback writeback, std::vector<BucketItem>* bucket);

// Reads the gradients of a sum of squares: all inputs. The output is float32: float64 sums, in pairs of numbers that
// have their bits.
Status ReadGradients(const Launch& launch, std::vector<Gradient>* gradients);

// The arguments of a norm.
struct SumsOfRanks {
  std::vector<GradientSums> gradients;
  std::vector<double> sums;
  size_t ranks;
};

// Reads the arguments of a norm. Output: (1,) float32. Inputs:
//
//   sums        the outputs of the sums of squares, of all ranks
//   gradients   (gradients, 2) int32: the number of sums on a rank, and 1 if each rank has those of its piece, else 0
Status ReadSums(const Launch& launch, SumsOfRanks* sums);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ARGUMENTS_H_
