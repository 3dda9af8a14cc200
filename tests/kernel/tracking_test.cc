// SPDX-License-Identifier: Apache-2.0

// Tests that bfloat16 moments follow float64 moments over thousands of steps, and prints how closely. Rounding to
// nearest must fail this test.

#include "tracking.h"

#include <vector>

#include "../../mindspore_offload/csrc/half.h"
#include "expect.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

void TestTracking(const std::string& isa) {
  const RoundingOfStep nearest = [](RoundingSeed) {
    return [](const std::vector<float>& block, bool, uint32_t) {
      std::vector<float> rounded;
      for (float value : block) {
        rounded.push_back(FromBits(Element::kBFloat16, ToBits(Element::kBFloat16, value)));
      }
      return rounded;
    };
  };
  Gradients drifting{"drifting"};
  drifting.drift = 0.1f;
  for (Gradients gradients : {Steady(), Falling(), drifting}) {
    gradients.median = 1.01, gradients.low = 0.9, gradients.high = 1.12;
    const Ratios stochastic = Track(gradients, MomentFormat::kBFloat16), to_nearest = Track(gradients, nearest);
    Print("bfloat16 moments", gradients, stochastic);
    Print("bfloat16 moments to nearest", gradients, to_nearest);
    Expect(stochastic.Follow(gradients), isa + ": bfloat16 moments don't follow gradients: " + gradients.name);
    Expect(!to_nearest.Follow(gradients),
           isa + ": rounding to nearest follows gradients too, the test is too weak: " + gradients.name);
  }
}
