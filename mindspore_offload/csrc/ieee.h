// SPDX-License-Identifier: Apache-2.0

// The floating-point environment of the kernel.

#ifndef MINDSPORE_OFFLOAD_CSRC_IEEE_H_
#define MINDSPORE_OFFLOAD_CSRC_IEEE_H_

#include <fenv.h>

namespace mindspore_offload {

// MindSpore flushes subnormal numbers to zero on some of its threads, and a new thread inherits this from the thread
// that started it. While an object of this class lives, its thread computes as IEEE 754 demands, so that all threads
// give the same bits.
class IeeeArithmetic {
 public:
  IeeeArithmetic() {
    fegetenv(&before_);
    fesetenv(FE_DFL_ENV);
  }
  ~IeeeArithmetic() { fesetenv(&before_); }
  IeeeArithmetic(const IeeeArithmetic&) = delete;
  IeeeArithmetic& operator=(const IeeeArithmetic&) = delete;

 private:
  fenv_t before_;
};

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_IEEE_H_
