// SPDX-License-Identifier: Apache-2.0

// The implementations of the kernel in this library: one for each instruction set.

#ifndef MINDSPORE_OFFLOAD_CSRC_IMPLEMENTATION_H_
#define MINDSPORE_OFFLOAD_CSRC_IMPLEMENTATION_H_

#include <cstddef>

#include "adam.h"
#include "tensors.h"

namespace mindspore_offload {

// The functions of update.h, compiled for one instruction set.
struct Implementation {
  const char* name;
  bool (*runs_here)();  // true if the CPU has the instruction set and the operating system saves its registers
  void (*update)(const AdamCoefficients&, const AdamTensors&, size_t begin, size_t end);
  double (*sum_squares)(Element, const void* gradient, size_t begin, size_t end);
};

// The implementation in use: the best that runs here, unless UseImplementation chose another.
const Implementation& ActiveImplementation();

// Names of the implementations that run here, best first, separated by spaces.
const char* SupportedImplementations();

// Uses the named implementation from the next operation on. Returns false, and changes nothing, if it can't run here.
bool UseImplementation(const char* name);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_IMPLEMENTATION_H_
