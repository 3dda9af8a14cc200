// SPDX-License-Identifier: Apache-2.0

// The test harness: expectations that count failures, and random numbers that are the same on every machine.

#ifndef MINDSPORE_OFFLOAD_TESTS_KERNEL_EXPECT_H_
#define MINDSPORE_OFFLOAD_TESTS_KERNEL_EXPECT_H_

#include <cmath>
#include <cstdint>
#include <string>

// Counts a failure, and prints the first twenty, unless `condition` holds.
void Expect(bool condition, const std::string& what);

// Compilers choose the order in which arguments are computed, so no call here has two that draw numbers.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint32_t Bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }

  // From -1 to 1.
  float Uniform() { return static_cast<float>(static_cast<int32_t>(Bits() >> 8) - (1 << 23)) * 0x1p-23f; }

  // Magnitudes from subnormal to those of float16.
  float FiniteGradient() {
    const int exponent = static_cast<int>(Bits() % 150) - 138;
    return std::ldexp(Uniform(), exponent);
  }

  // Magnitudes from subnormal to huge, and now and then zero, infinity or NaN.
  float Gradient() {
    switch (Bits() % 64) {
      case 0:
        return 0.0f;
      case 1:
        return INFINITY;
      case 2:
        return NAN;
      default: {
        const int exponent = static_cast<int>(Bits() % 160) - 140;
        return std::ldexp(Uniform(), exponent);
      }
    }
  }

 private:
  uint64_t state_;
};

#endif  // MINDSPORE_OFFLOAD_TESTS_KERNEL_EXPECT_H_
