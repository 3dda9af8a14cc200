// SPDX-License-Identifier: Apache-2.0

// Tests of the norm: gradients of all types in one call, against a plain sum.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../../mindspore_offload/csrc/half.h"
#include "../../mindspore_offload/csrc/sizes.h"
#include "../../mindspore_offload/csrc/team.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

namespace {

float Norm(const std::vector<Gradient>& gradients) {
  std::vector<GradientSums> counts;
  for (const Gradient& gradient : gradients) counts.push_back({SumsOf(gradient.size), false});
  return NormOf(counts, SumsOfSquares(gradients), 1);
}

// The norm of gradients that are cut in pieces, one for each rank. The last one is whole on all ranks.
float NormInPieces(const std::vector<Gradient>& gradients, size_t ranks) {
  std::vector<GradientSums> counts;
  std::vector<double> sums;
  for (size_t rank = 0; rank < ranks; ++rank) {
    std::vector<Gradient> pieces;
    std::vector<std::vector<char>> memory;
    counts.clear();
    for (const Gradient& gradient : gradients) {
      const bool is_piece = &gradient != &gradients.back();
      const size_t blocks = is_piece ? (gradient.size + ranks * kBlock - 1) / (ranks * kBlock) : 0;
      const size_t size = is_piece ? blocks * kBlock : gradient.size;
      const size_t begin = std::min(gradient.size, rank * size * is_piece), end = std::min(gradient.size, begin + size);
      memory.emplace_back(size * BytesOf(gradient.type));  // zeros: a piece is padded with them
      std::memcpy(memory.back().data(), static_cast<const char*>(gradient.data) + begin * BytesOf(gradient.type),
                  (end - begin) * BytesOf(gradient.type));
      pieces.push_back({gradient.type, memory.back().data(), size});
      counts.push_back({SumsOf(size), is_piece});
    }
    const std::vector<double> sums_of_rank = SumsOfSquares(pieces);
    sums.insert(sums.end(), sums_of_rank.begin(), sums_of_rank.end());
  }
  return NormOf(counts, sums, ranks);
}

}  // namespace

void TestNorm(const std::string& isa) {
  for (size_t size : {size_t{1}, size_t{15}, kTile + 1, kChunk - 1, 2 * kChunk + 3}) {
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
    const float norm = Norm(gradients);
    SetTeamSize(3);
    Expect(BitsOf(Norm(gradients)) == BitsOf(norm), what + ", another number of threads");
    Expect(std::fabs(norm - std::sqrt(sum)) <= 1e-7 * std::sqrt(sum), what);
    for (size_t ranks : {1, 2, 3, 8}) {
      Expect(BitsOf(NormInPieces(gradients, ranks)) == BitsOf(norm), what + ", ranks: " + std::to_string(ranks));
    }
    wide.data()[size / 2] = INFINITY;
    Expect(std::isinf(Norm(gradients)), what + ", infinity");
    wide.data()[size - 1] = NAN;
    Expect(std::isnan(Norm(gradients)), what + ", NaN");
  }
}
