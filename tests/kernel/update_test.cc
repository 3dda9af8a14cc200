// SPDX-License-Identifier: Apache-2.0

// Tests of the update: sizes, misalignments, element types and modes against the reference.

#include <cmath>
#include <vector>

#include "../../mindspore_offload/csrc/sizes.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

static void TestUpdate(const Mode& mode, size_t size, size_t shift, const std::string& isa) {
  Case one(mode, size, shift, 1 + size * 16 + shift);
  const auto expected = one.Reference();
  UpdateBucket({one.Item()});
  one.Check(expected, NameOf(mode, isa));
}

// Up to two vectors of 16 lanes, both sides of a tile and of a chunk, and every misalignment within a vector.
void TestSizes(MomentFormat moments, const std::string& isa) {
  for (const Mode& mode : AllModes(moments)) {
    for (size_t size = 0; size <= 33; ++size) TestUpdate(mode, size, size % 16, isa);
    for (size_t shift = 0; shift < 16; ++shift) TestUpdate(mode, 41, shift, isa);
    for (size_t size : {kTile - 1, kTile, kTile + 1, 2 * kTile, 2 * kTile + 1}) TestUpdate(mode, size, 1, isa);
  }
  for (const Mode& mode : {Mode{Element::kFloat32, Element::kFloat32, false, Decay::kL2, false, moments},
                           Mode{Element::kFloat16, Element::kBFloat16, true, Decay::kDecoupled, true, moments}}) {
    for (size_t size : {kChunk - 1, kChunk, kChunk + 1, 2 * kChunk + 1}) TestUpdate(mode, size, 3, isa);
  }
}

// A skipped step changes no weight and no state, and its result changes no parameter.
void TestSkippedStep(MomentFormat moments, const std::string& isa) {
  for (const Mode& mode : AllModes(moments)) {
    Case one(mode, kTile + 45, 5, 3);
    const auto expected = one.Untouched();
    BucketItem item = one.Item();
    item.coefficients.skip = 1.0f;
    UpdateBucket({item});
    one.Check(expected, NameOf(mode, isa) + ", skipped");
  }
}

// All bit patterns of both 16-bit types stay as they are if they are widened and rounded again.
void TestConversions(const std::string& isa) {
  for (Element type : {Element::kFloat16, Element::kBFloat16}) {
    const Mode mode{type, Element::kFloat32, false, Decay::kNone, false};
    std::vector<uint16_t> parameter(65536);
    std::vector<float> master(65536, 0.1234567f), zeros[3];
    for (auto& zero : zeros) zero.assign(65536, 0.0f);
    for (size_t i = 0; i < 65536; ++i) parameter[i] = static_cast<uint16_t>(i);
    AdamTensors t{};
    t.kind = Kind::kMaster;
    t.parameter_type = type;
    t.gradient_type = Element::kFloat32;
    t.weight = master.data();
    t.parameter = t.result = parameter.data();
    t.moment1 = zeros[0].data();
    t.moment2 = zeros[1].data();
    t.gradient = zeros[2].data();
    t.size = 65536;
    UpdateBucket({{CoefficientsOf(mode), t}});
    for (size_t i = 0; i < 65536; ++i) {
      const uint16_t bits = static_cast<uint16_t>(i);
      const bool nan = std::isnan(FromBits(type, bits));
      const bool same = nan ? std::isnan(FromBits(type, parameter[i])) : parameter[i] == bits;
      if (!same) Expect(false, NameOf(mode, isa) + ", bits " + std::to_string(i));
    }
  }
}

// 1,000 steps of a bucket of all modes that update in place. The gradients are finite, of every magnitude that float16
// holds: one infinity would turn an element into NaN for all later steps, and hide its bits.
uint64_t DigestOfTraining(MomentFormat moments) {
  std::vector<Case> cases;
  for (const Mode& mode : AllModes(moments)) {
    if (!mode.assign) cases.emplace_back(mode, 100 + cases.size(), cases.size() % 16, cases.size());
  }
  Random random(7);
  for (int step = 0; step < 1000; ++step) {
    std::vector<BucketItem> bucket;
    for (Case& one : cases) {
      one.SetGradient(&random, &Random::FiniteGradient);
      bucket.push_back(one.Item());
      bucket.back().coefficients.learning_rate = 0.01f / static_cast<float>(1 + step % 10);
      bucket.back().coefficients.step = static_cast<float>(step);
      bucket.back().tensors.key = static_cast<uint32_t>(bucket.size());
    }
    UpdateBucket(bucket);
  }
  uint64_t digest = 14695981039346656037u;
  for (Case& one : cases) {
    digest = one.Digest(digest);
    Expect(one.IsFinite(), "the digest hides an element that is not finite");
  }
  return digest;
}
