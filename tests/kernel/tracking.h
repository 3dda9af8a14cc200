// SPDX-License-Identifier: Apache-2.0

// Measures how closely the updates with a moment format follow those in float64 over thousands of steps.

#ifndef MINDSPORE_OFFLOAD_TESTS_KERNEL_TRACKING_H_
#define MINDSPORE_OFFLOAD_TESTS_KERNEL_TRACKING_H_

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "../../mindspore_offload/csrc/moments.h"
#include "../../mindspore_offload/csrc/stochastic.h"

// How the gradients of a block are made.
struct Gradients {
  const char* name;
  double decades = 3;  // over which the sizes of a block's elements are spread
  double beta2 = 0.999;
  float before = 1, after = 1;  // factors in the first and the second half of the steps
  float drift = 0;              // their mean
  float outlier = 0;            // the size of one element of each block, as a multiple of the others' middle
  uint32_t every = 1;           // a block has gradients in one of so many steps
  int steps = 6000, measured = 200;
  // The bounds, as those of 8-bit moments. The quantiles of 4,096 elements have a standard error of 0.0035. In the mean
  // of several seeds, they are between 0.848 and 1.206.
  double low = 0.84, high = 1.22, v = 0.01, median = 1.03;
};

constexpr Gradients Steady() { return {"steady"}; }
constexpr Gradients SteadyInOneDecade() { return {"steady, one decade", 1}; }
constexpr Gradients Falling() {
  Gradients one{"falling to 3 %"};
  one.after = 0.03f, one.v = 0.02;
  return one;
}
constexpr Gradients Outlier() {
  Gradients one{"one outlier in each block", 1};
  // A second moment below 2^-31 of its own would be cut to that. The smallest are about twice as large.
  one.outlier = 1e4f;
  return one;
}

std::vector<Gradients> AllGradients();

// The sizes of the updates relative to those in float64: the median, where 5 % and 95 % of the elements are, and the
// largest. And the mean of v, relative too.
struct Ratios {
  double median, low, high, largest, v;

  bool Follow(const Gradients& g) const {
    return 0.99 < median && median < g.median && g.low < low && high < g.high && largest < 1.7 &&
           std::fabs(v - 1) < g.v;
  }
};

// Rounds a block of 256 moments as a format would. `first` is the index of its first element.
using Rounding = std::function<std::vector<float>(const std::vector<float>& block, bool is_m, uint32_t first)>;

// Returns the rounding of a step.
using RoundingOfStep = std::function<Rounding(mindspore_offload::RoundingSeed)>;

// Compares the updates with moments in this format with float64.
Ratios Track(const Gradients& gradients, mindspore_offload::MomentFormat format);

// Does the same with float32 moments that `rounding` rounds after each step.
Ratios Track(const Gradients& gradients, const RoundingOfStep& rounding);

// Prints to stderr.
void Print(const char* what, const Gradients& gradients, const Ratios& ratios);

#endif  // MINDSPORE_OFFLOAD_TESTS_KERNEL_TRACKING_H_
