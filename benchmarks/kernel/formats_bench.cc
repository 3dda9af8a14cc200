// SPDX-License-Identifier: Apache-2.0

// Prints how closely updates with moments of 8 bits follow those in float64: the format of this package, and formats of
// other projects, which are written anew here from their descriptions. All of those round to nearest.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "../../mindspore_offload/csrc/half.h"
#include "../../tests/kernel/tracking.h"

using namespace mindspore_offload;

namespace {

using Block = std::vector<float>;

float LargestOf(const Block& block) {
  float largest = 0;
  for (float value : block) largest = std::max(largest, std::fabs(value));
  return largest;
}

float AsFloat16(float value) { return ToFloat(Float16{static_cast<uint16_t>(Rounded(value, Float16{}))}); }

// FlashOptim: scales of float16. m is spread by a softsign, v by its root, both over integers.
void FlashOptim(Block* block, bool is_m) {
  constexpr float kLeast = 1e-12f;
  const float largest = std::max(is_m ? LargestOf(*block) : std::sqrt(LargestOf(*block)), kLeast);
  const float scale = AsFloat16(largest);
  for (float& value : *block) {
    if (is_m) {
      const float ratio = value / largest, spread = 2 * ratio / (1 + std::fabs(ratio));
      const float code = std::nearbyint(spread * 127) / 127;
      value = code / (2 - std::fabs(code)) * scale;
    } else {
      const float root = std::nearbyint(std::sqrt(value) / largest * 255) / 255 * scale;
      value = root * root;
    }
  }
}

// The largest number of a float8 with 4 bits of exponent and 3 of mantissa, and its smallest, a subnormal.
constexpr float kMostOfFloat8 = 448, kLeastOfFloat8 = 0x1p-9f;

float AsFloat8(float value) {
  if (value == 0) return 0;
  const float place = std::ldexp(1.0f, std::max(std::ilogb(value), -6) - 3);
  return std::clamp(std::nearbyint(value / place) * place, -kMostOfFloat8, kMostOfFloat8);
}

// torchao: float8, the largest of a block as the largest number.
void Float8(Block* block, bool /*is_m*/) {
  const float scale = std::max(LargestOf(*block), 1e-12f) / kMostOfFloat8;
  for (float& value : *block) value = AsFloat8(value / scale) * scale;
}

// COAT: the same, after a power has spread the range of the block over that of float8.
void Coat(Block* block, bool /*is_m*/) {
  const float largest = LargestOf(*block);
  float smallest = largest;
  for (float value : *block) smallest = value == 0 ? smallest : std::min(smallest, std::fabs(value));
  if (smallest == 0) return;
  const float range = std::log(kMostOfFloat8 / kLeastOfFloat8);
  const float power = smallest < largest ? std::max(1.0f, range / std::log(largest / smallest)) : 1.0f;
  for (float& value : *block) {
    const float spread = AsFloat8(std::pow(std::fabs(value) / largest, power) * kMostOfFloat8) / kMostOfFloat8;
    value = std::copysign(std::pow(spread, 1 / power) * largest, value);
  }
}

// The map of bitsandbytes: from 1e-7 to 1, each decade has twice as many numbers as the one below.
Block DynamicMap(bool is_m) {
  constexpr int kDecades = 7;
  Block map = {0.0f, 1.0f};
  for (int decade = 0; decade < kDecades; ++decade) {
    const int count = 1 << (decade + (is_m ? 0 : 1));
    for (int i = 0; i < count; ++i) {
      const double middle = 0.1 + 0.9 * (i + 0.5) / count;
      map.push_back(static_cast<float>(middle * std::pow(10.0, decade - kDecades + 1)));
      if (is_m) map.push_back(-map.back());
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

void Bitsandbytes(Block* block, bool is_m) {
  static const Block maps[] = {DynamicMap(false), DynamicMap(true)};
  const Block& map = maps[is_m];
  const float largest = LargestOf(*block);
  if (largest == 0) return;
  for (float& value : *block) {
    const float ratio = value / largest;
    auto next = std::min(std::lower_bound(map.begin(), map.end(), ratio), map.end() - 1);
    if (next != map.begin() && ratio - next[-1] < next[0] - ratio) --next;
    value = *next * largest;
  }
}

using InPlace = void (*)(Block*, bool is_m);

// The rounding of a format with `size` elements in a block, of which 256 are whole blocks.
RoundingOfStep InBlocks(size_t size, InPlace format) {
  return [=](RoundingSeed) {
    return [=](const Block& values, bool is_m, uint32_t /*first*/) {
      Block rounded;
      for (auto begin = values.begin(); begin != values.end(); begin += static_cast<std::ptrdiff_t>(size)) {
        Block block(begin, begin + static_cast<std::ptrdiff_t>(size));
        format(&block, is_m);
        rounded.insert(rounded.end(), block.begin(), block.end());
      }
      return rounded;
    };
  };
}

}  // namespace

int main() {
  const std::pair<const char*, RoundingOfStep> formats[] = {{"this package", nullptr},
                                                            {"FlashOptim", InBlocks(32, FlashOptim)},
                                                            {"torchao, float8", InBlocks(256, Float8)},
                                                            {"COAT", InBlocks(128, Coat)},
                                                            {"bitsandbytes' map", InBlocks(256, Bitsandbytes)}};
  std::printf("sizes of updates relative to float64: median, 5 %% and 95 %% of the elements, largest; mean of v\n");
  for (const Gradients& gradients : {Steady(), SteadyInOneDecade(), Falling(), Outlier()}) {
    std::printf("%s\n", gradients.name);
    for (const auto& [name, rounding] : formats) {
      const Ratios r = rounding ? Track(gradients, rounding) : Track(gradients, MomentFormat::kUint8);
      std::printf("  %-18s %7.3f %7.3f %8.3f %8.3g %7.3f\n", name, r.median, r.low, r.high, r.largest, r.v);
      std::fflush(stdout);
    }
  }
}
