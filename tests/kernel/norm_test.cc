// SPDX-License-Identifier: Apache-2.0

// Tests of the norm: gradients of all types in one call, against a plain sum.

#include <cmath>
#include <vector>

#include "../../mindspore_offload/csrc/half.h"
#include "../../mindspore_offload/csrc/sizes.h"
#include "../../mindspore_offload/csrc/team.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

void TestNorm(const std::string& isa) {
  for (size_t size : {size_t{1}, size_t{15}, kBlock + 1, kChunk - 1, 2 * kChunk + 3}) {
    Random random(size);
    Guarded<float> wide(size, 3);
    Guarded<uint16_t> halves[2] = {{size, 1}, {size, 7}};
    double sum = 0;
    std::vector<Gradient> gradients = {{Element::kFloat32, wide.data(), size}};
    for (size_t i = 0; i < size; ++i) wide.data()[i] = 1e4f * random.Uniform();
    for (size_t i = 0; i < size; ++i) sum += static_cast<double>(wide.data()[i]) * wide.data()[i];
    for (Element type : {Element::kFloat16, Element::kBFloat16}) {
      uint16_t* half = halves[type == Element::kBFloat16].data();
      for (size_t i = 0; i < size; ++i) half[i] = ToBits(type, 1e4f * random.Uniform());
      for (size_t i = 0; i < size; ++i) sum += static_cast<double>(FromBits(type, half[i])) * FromBits(type, half[i]);
      gradients.push_back({type, half, size});
    }
    const std::string what = isa + ", norm of " + std::to_string(size);
    SetTeamSize(1);
    const float norm = GlobalNorm(gradients);
    SetTeamSize(3);
    Expect(BitsOf(GlobalNorm(gradients)) == BitsOf(norm), what + ", another number of threads");
    Expect(std::fabs(norm - std::sqrt(sum)) <= 1e-7 * std::sqrt(sum), what);
    wide.data()[size / 2] = INFINITY;
    Expect(std::isinf(GlobalNorm(gradients)), what + ", infinity");
    wide.data()[size - 1] = NAN;
    Expect(std::isnan(GlobalNorm(gradients)), what + ", NaN");
  }
}
