// SPDX-License-Identifier: Apache-2.0

// Tests that rounded moments get the same bits from both writebacks, and in one piece or in several.

#include <vector>

#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

constexpr uint64_t kStart = 14695981039346656037u;

// The device adds or puts what an assign returns. After 20 steps, weights and moments are those of an update in place.
void TestWritebacks(MomentFormat moments, const std::string& isa) {
  for (const Mode& mode : AllModes(moments)) {
    if (mode.assign || mode.decay != Decay::kNone) continue;
    Mode assigned = mode;
    assigned.assign = true;
    Case in_place(mode, 301, 1, 5), assign(assigned, 301, 1, 5);
    for (int step = 0; step < 20; ++step) {
      Random random(step), same_random(step);
      in_place.SetGradient(&random);
      assign.SetGradient(&same_random);
      for (Case* one : {&in_place, &assign}) {
        BucketItem item = one->Item();
        item.coefficients.step = static_cast<float>(step);
        UpdateBucket({item});
        one->WriteBack();
      }
    }
    Expect(in_place.Digest(kStart) == assign.Digest(kStart), NameOf(mode, isa) + ": assign gives other bits");
  }
}

// Halves of a tensor, each with the index of its first element, round as the whole.
void TestPieces(MomentFormat moments, const std::string& isa) {
  constexpr size_t kHalf = 256;
  const Mode mode{Element::kFloat32, Element::kFloat32, false, Decay::kL2, false, moments};
  Case whole(mode, 2 * kHalf, 1, 5), cut(mode, 2 * kHalf, 1, 5), wrong(mode, 2 * kHalf, 1, 5);
  UpdateBucket({whole.Item()});
  const auto update_halves = [moments](Case* one, size_t second_element) {
    BucketItem first = one->Item(), second = one->Item();
    AdamTensors& t = second.tensors;
    first.tensors.size = t.size = kHalf;
    t.weight += kHalf;
    t.moment1 = static_cast<char*>(t.moment1) + BytesOf(moments, kHalf);
    t.moment2 = static_cast<char*>(t.moment2) + BytesOf(moments, kHalf);
    t.gradient = static_cast<const float*>(t.gradient) + kHalf;
    t.first_element += second_element;
    UpdateBucket({first, second});
  };
  update_halves(&cut, kHalf);
  update_halves(&wrong, 0);
  Expect(cut.Digest(kStart) == whole.Digest(kStart),
         isa + ", moments " + DtypeOf(moments) + ": pieces give other bits");
  Expect(wrong.Digest(kStart) != whole.Digest(kStart),
         isa + ", moments " + DtypeOf(moments) + ": the index of an element does not matter");
}
