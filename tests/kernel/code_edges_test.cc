// SPDX-License-Identifier: Apache-2.0

// Tests moments of 8 bits with gradients at the edges: zero, tiny, huge, NaN, infinite, and none for a long time.

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "code_reference.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

namespace {

constexpr size_t kElements = 2 * kCodesOfBlock;

// Two blocks, a learning rate of 1, and the updates of the last step.
class Blocks {
 public:
  std::vector<float> gradient = std::vector<float>(kElements), update = gradient;

  explicit Blocks(size_t size = kElements) : size_(size) {
    c_.clip = c_.gradient_scale = c_.learning_rate = 1;
    c_.beta1 = 0.9f;
    c_.beta2 = 0.999f;
    c_.eps = 1e-8f;
  }

  // Gradients of the first block.
  void Set(const std::function<float(int)>& value) {
    for (size_t i = 0; i < kCodesOfBlock; ++i) gradient[i] = value(static_cast<int>(i));
  }

  void Step() {
    AdamTensors t{};
    t.kind = Kind::kDifference;
    t.moment_format = MomentFormat::kUint8;
    t.moment1 = m_.data();
    t.moment2 = v_.data();
    t.gradient = gradient.data();
    t.result = update.data();
    t.size = size_;
    UpdateBucket({{c_, t}});
    c_.step += 1;
  }

  float M(size_t i) const { return Decoded(m_.data(), true, i); }
  float V(size_t i) const { return Decoded(v_.data(), false, i); }

  bool SameMemory(const Blocks& other) const { return m_ == other.m_ && v_ == other.v_; }

  // The largest update of the first block; infinite if one is not finite.
  float Largest() const {
    float largest = 0;
    for (size_t i = 0; i < kCodesOfBlock; ++i) {
      largest = std::isfinite(update[i]) ? std::max(largest, std::fabs(update[i])) : INFINITY;
    }
    return largest;
  }

  int NotFinite() const {
    return static_cast<int>(std::count_if(update.begin(), update.end(), [](float x) { return !std::isfinite(x); }));
  }

 private:
  size_t size_;
  AdamCoefficients c_{};
  std::vector<uint32_t> m_ = std::vector<uint32_t>(kElements / kCodesOfBlock * kBytesOfBlock / 4), v_ = m_;
};

// A number from -5 to 5.
float Small(int i, int step) { return static_cast<float>((i * 7 + step * 13) % 11 - 5); }

void TestZeros(const std::string& isa) {
  Blocks b;
  for (int step = 0; step < 100; ++step) b.Step();
  bool zero = b.Largest() == 0;
  for (size_t i = 0; i < kElements; ++i) zero = zero && b.M(i) == 0 && b.V(i) == 0;
  Expect(zero, isa + ", uint8: gradients of zero make moments");
}

void TestMagnitudes(const std::string& isa) {
  Blocks tiny, huge, jump, outlier;
  for (int step = 0; step < 50; ++step) {
    tiny.Set([](int i) { return 1e-30f * static_cast<float>(i + 1); });
    tiny.Step();
    Expect(tiny.Largest() < 1, isa + ", uint8: gradients of 1e-30");    // their squares are zero, and eps is 1e-8
    huge.Set([](int i) { return 1e17f * static_cast<float>(i + 1); });  // the last squares are beyond float32
    huge.Step();
    Expect(std::isfinite(huge.Largest()), isa + ", uint8: gradients of 1e19");
    jump.Set([](int) { return 1e-12f; });
    jump.Step();
  }
  jump.Set([](int) { return 1e12f; });
  jump.Step();
  // m / sqrt(v) = 0.1 g / sqrt(0.001 g^2)
  Expect(std::fabs(jump.Largest() - std::sqrt(10.0f)) < 1e-3f, isa + ", uint8: a jump from 1e-12 to 1e12");
  for (int step = 0; step < 4000; ++step) {
    outlier.Set([=](int i) { return (i == 9 ? 1e6f : 1e-4f) * Small(i, step); });
    outlier.Step();
    // No update of Adam is larger: (1 - beta1) / sqrt(1 - beta2) / sqrt(1 - beta1^2 / beta2).
    Expect(outlier.Largest() < 7.3f, isa + ", uint8: an outlier of 1e10");
  }
}

// One such gradient gives the update that float32 gives, and leaves the rest of its block alone.
void TestNotFinite(const std::string& isa) {
  for (float bad : {NAN, INFINITY, -INFINITY, 1e30f}) {
    Blocks b;
    b.Set([](int) { return 1e-3f; });
    for (int step = 0; step < 20; ++step) b.Step();
    b.gradient[3] = bad;
    b.Step();
    const std::string what = isa + ", uint8: a gradient of " + std::to_string(bad);
    Expect(b.NotFinite() == (std::isfinite(bad) ? 0 : 1), what + " in its step");
    Expect(!std::isfinite(bad) || b.update[3] == 0, what + ": another update than with an infinite v");
    Expect(b.M(3) == 0, what + ": its moment");
    b.gradient[3] = 1e-3f;
    b.Step();
    Expect(b.NotFinite() == 0, what + " in the next step");
    for (size_t i = 0; i < kCodesOfBlock; ++i) Expect(b.update[i] < -0.01f, what + ": an element has stopped");
  }
}

void TestWithoutGradients(const std::string& isa) {
  Blocks live;
  bool moved = false;
  for (int step = 0; step < 100000; ++step) {
    live.Set([=](int i) { return i == 5 ? 0.0f : Small(i, step) * 1e-3f; });
    live.Step();
    moved = moved || live.update[5] != 0;
  }
  Expect(!moved, isa + ", uint8: an element without gradients moves");

  Blocks b;
  b.Set([](int) { return 1e-2f; });
  b.Step();
  const double first = b.V(0);
  b.Set([](int) { return 0.0f; });
  for (int step = 1; step < 3000; ++step) b.Step();
  const double exact = first * std::pow(static_cast<double>(0.999f), 2999);
  Expect(std::fabs(b.V(0) / exact - 1) < 1e-3, isa + ", uint8: a block without gradients does not decay exactly");
  for (int step = 0; step < 200000; ++step) {
    b.Step();
    if (!(b.Largest() < 1e-3f)) Expect(false, isa + ", uint8: a block that decays has an update");
  }
}

// The padding of the last block is as elements whose gradient is zero.
void TestPadding(const std::string& isa) {
  constexpr int kSize = 101;
  Blocks padded(kSize), whole(kCodesOfBlock);
  for (int step = 0; step < 100; ++step) {
    for (Blocks* b : {&padded, &whole}) {
      b->Set([=](int i) { return i < kSize ? Small(i, step) : 0.0f; });
      b->Step();
    }
  }
  Expect(padded.SameMemory(whole), isa + ", uint8: the padding has other bits than elements without gradients");
}

}  // namespace

void TestCodeEdges(const std::string& isa) {
  TestZeros(isa);
  TestMagnitudes(isa);
  TestNotFinite(isa);
  TestWithoutGradients(isa);
  TestPadding(isa);
}
