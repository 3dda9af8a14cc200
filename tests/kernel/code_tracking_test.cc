// SPDX-License-Identifier: Apache-2.0

// Tests that moments of 8 bits follow float64 moments over thousands of steps, and prints how closely. Formats with one
// fault each must fail this test.

#include <vector>

#include "code_reference.h"
#include "expect.h"
#include "tests.h"
#include "tracking.h"

using namespace mindspore_offload;

namespace {

// The random bits of a block's elements.
std::vector<uint32_t> BitsOfBlock(RoundingSeed seed, uint32_t first) {
  std::vector<uint32_t> bits;
  for (uint32_t i = 0; i < kCodesOfBlock; ++i) bits.push_back(RandomBits(seed, first + i));
  return bits;
}

}  // namespace

void TestCodeTracking(const std::string& isa) {
  for (const Gradients& kind : AllGradients()) {
    const Ratios ratios = Track(kind, MomentFormat::kUint8);
    Print("uint8 moments", kind, ratios);
    Expect(ratios.Follow(kind), isa + ": uint8 moments don't follow gradients: " + kind.name);
  }
  // Half of the distance of two codes, for both moments.
  constexpr uint32_t kHalf = 0x80080000;
  const std::vector<uint32_t> halves(kCodesOfBlock, kHalf);
  const RoundingOfStep nearest = [&](RoundingSeed) {
    return
        [&](const std::vector<float>& block, bool is_m, uint32_t) { return ReferenceRounded(block, is_m, 1, halves); };
  };
  const RoundingOfStep fixed_scale = [](RoundingSeed seed) {
    return [=](const std::vector<float>& block, bool is_m, uint32_t first) {
      return ReferenceRounded(block, is_m, 1, BitsOfBlock(seed, first));
    };
  };
  const RoundingOfStep zero_v = [](RoundingSeed seed) {
    return [=](const std::vector<float>& block, bool, uint32_t first) {
      return ReferenceRounded(block, true, 1, BitsOfBlock(seed, first));
    };
  };
  struct Mutant {
    const char* name;
    Gradients gradients;
    RoundingOfStep rounding;
  };
  for (const Mutant& mutant :
       {Mutant{"rounding to nearest", Steady(), nearest}, Mutant{"a scale that does not decay", Falling(), fixed_scale},
        Mutant{"a second moment that may be zero", Outlier(), zero_v}}) {
    const Ratios ratios = Track(mutant.gradients, mutant.rounding);
    Print(mutant.name, mutant.gradients, ratios);
    Expect(!ratios.Follow(mutant.gradients), isa + ": the test is too weak for " + mutant.name);
  }
}
