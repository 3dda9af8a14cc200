// SPDX-License-Identifier: Apache-2.0

#include "same_step.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace mindspore_offload {
namespace {

enum Section { kStep, kSettings, kParameters, kGradients, kSections };

// Gradients that were reduced agree but for rounding, if the ranks add in different orders. This is their largest
// difference, relative to the largest element. The gradients of different data differ by far more.
constexpr float kTolerance = 1.0f / 64;

bool SameBits(const float* one, const float* other, size_t count) {
  return std::memcmp(one, other, count * sizeof(float)) == 0;
}

bool SameButForRounding(const float* one, const float* other, size_t count) {
  float largest = 0, difference = 0;
  for (size_t i = 0; i < count; ++i) {
    if (std::isfinite(one[i]) != std::isfinite(other[i])) return false;
    if (!std::isfinite(one[i])) continue;
    largest = std::max({largest, std::fabs(one[i]), std::fabs(other[i])});
    difference = std::max(difference, std::fabs(one[i] - other[i]));
  }
  return difference <= largest * kTolerance;
}

std::string Integer(float value) { return std::to_string(static_cast<long long>(value)); }

// Compares the values of a rank with those of rank 0.
void Compare(const float* first, const float* other, const int32_t* sections, const std::string& rank) {
  if (!SameBits(first, other, sections[kStep])) {
    throw std::runtime_error("With shard_states=True, all ranks must be at the same step, but rank 0 has taken " +
                             Integer(*first) + " steps and rank " + rank + " " + Integer(*other) +
                             "; load checkpoints of the same step on all ranks. Nothing was updated.");
  }
  first += sections[kStep], other += sections[kStep];
  if (!SameBits(first, other, sections[kSettings])) {
    throw std::runtime_error(
        "With shard_states=True, all ranks must have the same powers of the betas, learning rates, weight decays and "
        "loss scale in a step, but those of rank " +
        rank +
        " are not those of rank 0; set the same values, and load checkpoints of the same training, on all ranks. "
        "Nothing was updated.");
  }
  first += sections[kSettings], other += sections[kSettings];
  if (!SameBits(first, other, sections[kParameters])) {
    throw std::runtime_error(
        "With shard_states=True, all ranks must have the same values of the parameters, but those of rank " + rank +
        " are not those of rank 0; load the same weights on all ranks, or call mindspore.set_auto_parallel_context("
        "parallel_mode='data_parallel', parameter_broadcast=True). Nothing was updated.");
  }
  first += sections[kParameters], other += sections[kParameters];
  if (!SameButForRounding(first, other, sections[kGradients])) {
    throw std::runtime_error(
        "With shard_states=True, all ranks must get the same gradients, but those of rank " + rank +
        " are not those of rank 0; reduce them: call mindspore.set_auto_parallel_context("
        "parallel_mode='data_parallel', gradients_mean=True) before making the training cell, or use "
        "mindspore.nn.DistributedGradReducer in a cell of your own. Nothing was updated.");
  }
}

}  // namespace

Status CheckSameStep(const Launch& launch) {
  if (launch.count != 3) return kBadCount;
  if (launch.HasNullTable() || launch.HasNull(2)) return kBadPointer;
  if (!launch.IsFloat32(0) || !launch.HasType(1, "int32")) return kBadType;
  if (launch.Size(1) != kSections) return kBadShape;
  const auto* sections = static_cast<const int32_t*>(launch.data[1]);
  size_t values = 0;
  for (int i = 0; i < kSections; ++i) {
    if (sections[i] <= 0) return kBadRow;
    values += static_cast<size_t>(sections[i]);
  }
  const size_t all = launch.Size(0);
  if (all == 0 || all % values != 0) return kBadShape;
  const float* first = launch.Floats(0);
  for (size_t rank = 1; rank < all / values; ++rank) {
    Compare(first, first + rank * values, sections, std::to_string(rank));
  }
  return kOk;
}

}  // namespace mindspore_offload
