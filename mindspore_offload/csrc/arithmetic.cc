// SPDX-License-Identifier: Apache-2.0

#include "arithmetic.h"

#include <cmath>
#include <limits>

namespace mindspore_offload {
namespace {

// Keeps the compiler from evaluating an expression early.
float Opaque(float value) {
  volatile float hidden = value;
  return hidden;
}

// 1 + 1e8 is 1e8 in float32.
bool Reorders() {
  const float small = Opaque(1.0f), large = Opaque(1e8f);
  return (small + large) - large != 0.0f;
}

// The square of 1 + 2^-12 is 1 + 2^-11 after rounding.
bool Fuses() {
  const float x = Opaque(1.0f + 0x1p-12f), rounded = Opaque(1.0f + 0x1p-11f);
  return x * x - rounded != 0.0f;
}

// 41 times the rounded 1 / 41 is not 1.
bool MultipliesByReciprocal() {
  const float divisor = Opaque(41.0f);
  const float one = Opaque(41.0f) / divisor, two = Opaque(82.0f) / divisor, three = Opaque(123.0f) / divisor;
  return one != 1.0f || two != 2.0f || three != 3.0f;
}

bool IgnoresNan() { return !std::isnan(Opaque(std::numeric_limits<float>::quiet_NaN())); }

bool IgnoresInfinity() { return std::isfinite(Opaque(std::numeric_limits<float>::infinity())); }

// -(1 - 1) is -0, and 1 - 1 is 0.
bool IgnoresSignOfZero() {
  const float x = Opaque(1.0f), y = Opaque(1.0f);
  return !std::signbit(-(x - y));
}

}  // namespace

const char* ChangedArithmetic() {
  if (IgnoresNan() || IgnoresInfinity()) return "it takes NaN and infinity for ordinary numbers";
  if (Fuses()) return "it fuses products with sums";
  if (Reorders()) return "it reorders sums";
  if (MultipliesByReciprocal()) return "it multiplies by reciprocals";
  if (IgnoresSignOfZero()) return "it ignores the sign of zero";
  return "";
}

}  // namespace mindspore_offload
