// SPDX-License-Identifier: Apache-2.0

// A scalar reference of the moments of 8 bits. It looks codes up in tables, and rounds by distances, not by bits.

#ifndef MINDSPORE_OFFLOAD_TESTS_KERNEL_CODE_REFERENCE_H_
#define MINDSPORE_OFFLOAD_TESTS_KERNEL_CODE_REFERENCE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../../mindspore_offload/csrc/adam.h"

// One block of 256 codes as it lies in memory, and its scale. `is_m` tells the first moment from the second.
constexpr size_t kCodesOfBlock = 256, kBytesOfBlock = 260;

// The moment of element i of an array of blocks.
float Decoded(const void* blocks, bool is_m, size_t i);

// The moments of one block before a step, as multiples of its units, and the units.
struct ReferenceUnits {
  float unit, decay, gain;
};

ReferenceUnits ReferenceUnitsOf(const void* block, float beta);

// f(code) of element i of a block, with its sign.
float CodeValue(const void* block, bool is_m, size_t i);

// The moments of a block after they were rounded: `values` in `unit`, and for each the random bits of its element.
std::vector<float> ReferenceRounded(const std::vector<float>& values, bool is_m, float unit,
                                    const std::vector<uint32_t>& random);

#endif  // MINDSPORE_OFFLOAD_TESTS_KERNEL_CODE_REFERENCE_H_
