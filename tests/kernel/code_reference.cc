// SPDX-License-Identifier: Apache-2.0

// See code_reference.h.

#include "code_reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

// All magnitudes of f, in order: eight in each of the binades from 2^lowest to 1.
std::vector<double> Table(bool is_m) {
  std::vector<double> table;
  for (int exponent = is_m ? -15 : -31; exponent <= 0; ++exponent) {
    for (int eighths = 8; eighths < 16; ++eighths) table.push_back(std::ldexp(eighths / 8.0, exponent));
  }
  return table;
}

float ScaleOf(const void* block) {
  float scale;
  std::memcpy(&scale, static_cast<const uint8_t*>(block) + kCodesOfBlock, sizeof(scale));
  return scale;
}

}  // namespace

float CodeValue(const void* block, bool is_m, size_t i) {
  static const std::vector<double> tables[] = {Table(false), Table(true)};
  const std::vector<double>& table = tables[is_m];
  const uint8_t code = static_cast<const uint8_t*>(block)[4 * (i % 64) + i / 64];
  if (!is_m) return static_cast<float>(table[code]);
  const float magnitude = static_cast<float>(table[code & 127] - table[0]);
  return code & 128 ? -magnitude : magnitude;
}

float Decoded(const void* blocks, bool is_m, size_t i) {
  const uint8_t* block = static_cast<const uint8_t*>(blocks) + i / kCodesOfBlock * kBytesOfBlock;
  return CodeValue(block, is_m, i % kCodesOfBlock) * ScaleOf(block);
}

ReferenceUnits ReferenceUnitsOf(const void* block, float beta) {
  const float decayed = beta * ScaleOf(block);
  if (decayed < 0x1p-60f) return {1.0f, decayed, 1.0f - beta};
  return {decayed, 1.0f, (1.0f - beta) / decayed};
}

std::vector<float> ReferenceRounded(const std::vector<float>& values, bool is_m, float unit,
                                    const std::vector<uint32_t>& random) {
  const std::vector<double> table = Table(is_m);
  double largest = 0;
  for (float value : values) largest = std::max(largest, std::fabs(static_cast<double>(value)));
  if (largest == 0) return std::vector<float>(values.size(), 0.0f);
  // The smallest window, of those that float32 holds, that the largest value does not leave when it is rounded up.
  const double lowest = table[0], least_window = std::ldexp(1.0, -126) / lowest;
  double window = std::exp2(std::floor(std::log2(largest)));
  const double step = window / 8, offset = is_m ? window * lowest * 2 : 0;
  if (largest + offset > 2 * window - step + (is_m ? 0 : window * 0x1p-23)) window *= 2;
  window = std::max(window, least_window);
  std::vector<float> rounded;
  for (size_t i = 0; i < values.size(); ++i) {
    double magnitude = std::fabs(values[i]);
    if (is_m) magnitude = static_cast<float>(magnitude + static_cast<float>(window * lowest));
    magnitude = std::max(magnitude / window, lowest);
    const size_t below = std::upper_bound(table.begin(), table.end(), magnitude) - table.begin() - 1;
    const double distance = std::ldexp(1.0, std::ilogb(table[below])) / 8;
    const double draw = is_m ? std::ldexp(random[i] >> 12, -20) : std::ldexp(random[i] & 0xfffff, -20);
    const bool up = (magnitude - table[below]) / distance + draw >= 1;
    const float value = static_cast<float>(table[below + (up ? 1 : 0)] - (is_m ? lowest : 0));
    const float scale = unit * static_cast<float>(window);
    rounded.push_back((std::signbit(values[i]) && is_m ? -value : value) * scale);
  }
  return rounded;
}
