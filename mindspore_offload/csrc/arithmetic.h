// SPDX-License-Identifier: Apache-2.0

// Checks that the compiler's options left the arithmetic as IEEE 754 defines it.

#ifndef MINDSPORE_OFFLOAD_CSRC_ARITHMETIC_H_
#define MINDSPORE_OFFLOAD_CSRC_ARITHMETIC_H_

namespace mindspore_offload {

// Returns what the compiler changed, as it does with -ffast-math; empty if nothing.
const char* ChangedArithmetic();

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ARITHMETIC_H_
