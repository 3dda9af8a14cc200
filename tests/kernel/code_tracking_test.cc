// SPDX-License-Identifier: Apache-2.0

// Tests that moments of 8 bits follow float64 moments over thousands of steps, and prints how closely. Formats with one
// fault each must fail this test.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "../../mindspore_offload/csrc/stochastic.h"
#include "code_reference.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

namespace {

constexpr size_t kElements = 4096, kBlocks = kElements / kCodesOfBlock;

// How the gradients of a block are made.
struct Gradients {
  const char* name;
  double decades = 3;  // over which the sizes of a block's elements are spread
  double beta2 = 0.999;
  float before = 1, after = 1;  // factors in the first and the second half of the steps
  float drift = 0;              // their mean
  float outlier = 1;            // the size of one element of each block
  uint32_t every = 1;           // a block has gradients in one of so many steps
  int steps = 6000, measured = 200;
  double low = 0.84, high = 1.22, v = 0.01;  // the bounds
};

constexpr Gradients Steady() { return {"steady"}; }
constexpr Gradients Falling() {
  Gradients one{"falling to 3 %"};
  one.after = 0.03f, one.low = 0.83, one.v = 0.02;
  return one;
}
constexpr Gradients Outlier() {
  Gradients one{"one outlier in each block", 1};
  // The second moments of its smallest neighbours are below 2^-31 of its own, to which they are cut.
  one.outlier = 1e4f, one.low = 0.81, one.v = 0.04;
  return one;
}

std::vector<Gradients> AllGradients() {
  Gradients narrow{"steady, one decade", 1}, rising{"rising 30 times", 1}, drifting{"drifting"},
      seldom{"in 1 of 50 steps", 1};
  Gradients short_memory{"steady, beta2 0.95", 3, 0.95}, long_memory{"steady, beta2 0.9999", 3, 0.9999};
  rising.before = 1.0f / 30;
  drifting.drift = 0.1f;
  seldom.every = 50, seldom.steps = 20000, seldom.measured = 4000, seldom.low = 0.94, seldom.high = 1.07;
  return {Steady(), narrow, Falling(), rising, drifting, Outlier(), seldom, short_memory, long_memory};
}

struct Exact {
  std::vector<double> m = std::vector<double>(kElements), v = m, squares = m;
};

void UpdateInFloat64(const AdamCoefficients& c, const std::vector<float>& gradient, bool measured, Exact* exact) {
  const double beta1 = c.beta1, beta2 = c.beta2;
  for (size_t i = 0; i < kElements; ++i) {
    double &m = exact->m[i], &v = exact->v[i];
    m = m * beta1 + (1 - beta1) * gradient[i];
    v = v * beta2 + (1 - beta2) * gradient[i] * gradient[i];
    const double delta = c.learning_rate * m / (std::sqrt(v) + c.eps);
    if (measured) exact->squares[i] += delta * delta;
  }
}

// Both moments of kElements elements in a format, and the sums of what is measured.
class Tracked {
 public:
  explicit Tracked(MomentFormat format) : format_(format), m_(BytesOf(format, kElements) / 4), v_(m_.size()) {}

  void Update(const AdamCoefficients& c, const std::vector<float>& gradient, bool measured) {
    std::vector<float> delta(kElements);
    AdamTensors t{};
    t.kind = Kind::kDifference;
    t.moment_format = format_;
    t.moment1 = m_.data();
    t.moment2 = v_.data();
    t.gradient = gradient.data();
    t.result = delta.data();
    t.size = kElements;
    t.key = 12345;
    UpdateBucket({{c, t}});
    for (size_t i = 0; measured && i < kElements; ++i) squares[i] += static_cast<double>(delta[i]) * delta[i];
  }

  float V(size_t i) const { return format_ == MomentFormat::kUint8 ? Decoded(v_.data(), false, i) : FloatOf(v_[i]); }

  // Rounds float32 moments as a format with a fault would.
  using Rounding = std::function<std::vector<float>(const std::vector<float>& block, bool is_m, uint32_t first)>;
  void Round(const Rounding& rounding) {
    for (size_t block = 0; block < kBlocks; ++block) {
      for (bool is_m : {false, true}) {
        float* values = reinterpret_cast<float*>(is_m ? m_.data() : v_.data()) + block * kCodesOfBlock;
        const auto rounded = rounding({values, values + kCodesOfBlock}, is_m, block * kCodesOfBlock);
        std::copy(rounded.begin(), rounded.end(), values);
      }
    }
  }

  std::vector<double> squares = std::vector<double>(kElements);
  double sum_of_ratios = 0;  // of v to the exact v

 private:
  MomentFormat format_;
  std::vector<uint32_t> m_, v_;
};

// The sizes of the updates relative to those in float64: the median, where 5 % and 95 % of the elements are, and the
// largest. And the mean of v, relative too.
struct Ratios {
  double median, low, high, largest, v;

  bool Follow(const Gradients& g) const {
    return 0.99 < median && median < 1.03 && g.low < low && high < g.high && largest < 1.7 && std::fabs(v - 1) < g.v;
  }
};

// Fault: returns the rounding in a step; none for the format itself.
using Fault = std::function<Tracked::Rounding(RoundingSeed)>;

Ratios Track(const Gradients& kind, const Fault& fault = nullptr) {
  Random random(17);
  std::vector<float> scales(kElements), gradient(kElements);
  for (size_t i = 0; i < kElements; ++i) {
    scales[i] = static_cast<float>(std::pow(10.0, -3.5 + kind.decades / 2 * random.Uniform()));
    if (i % kCodesOfBlock == 77) scales[i] *= kind.outlier;
  }
  Tracked tracked(fault ? MomentFormat::kFloat32 : MomentFormat::kUint8);
  Exact exact;
  AdamCoefficients c{};
  c.clip = c.gradient_scale = 1;
  c.beta1 = 0.9f;
  c.beta2 = static_cast<float>(kind.beta2);
  c.eps = 1e-8f;
  int compared = 0;
  for (int step = 0; step < kind.steps; ++step) {
    const float factor = step < kind.steps / 2 ? kind.before : kind.after;
    for (size_t begin = 0; begin < kElements; begin += kCodesOfBlock) {
      const bool has_gradients = random.Bits() % kind.every == 0;
      for (size_t i = begin; i < begin + kCodesOfBlock; ++i) {
        if (!has_gradients) {
          gradient[i] = 0;
          continue;
        }
        float noise = random.Uniform();  // three times: of variance 1
        noise += random.Uniform();
        noise += random.Uniform();
        gradient[i] = (noise + kind.drift) * scales[i] * factor;
      }
    }
    c.step = static_cast<float>(step);
    c.learning_rate = static_cast<float>(std::sqrt(1 - std::pow(kind.beta2, step + 1)) / (1 - std::pow(0.9, step + 1)));
    const bool measured = step >= kind.steps - kind.measured;
    UpdateInFloat64(c, gradient, measured, &exact);
    tracked.Update(c, gradient, measured);
    if (fault) tracked.Round(fault(SeedOf(c.step, 12345)));
    if (!measured || step % 20 != 0) continue;
    ++compared;
    for (size_t i = 0; i < kElements; ++i) tracked.sum_of_ratios += tracked.V(i) / exact.v[i];
  }
  std::vector<double> ratios(kElements);
  for (size_t i = 0; i < kElements; ++i) ratios[i] = std::sqrt(tracked.squares[i] / exact.squares[i]);
  std::sort(ratios.begin(), ratios.end());
  return {ratios[kElements / 2], ratios[kElements / 20], ratios[kElements * 19 / 20], ratios[kElements - 1],
          tracked.sum_of_ratios / compared / kElements};
}

void Print(const char* what, const char* name, const Ratios& r) {
  std::fprintf(stderr, "updates with %s, %s: %.3f [%.3f - %.3f], largest %.3g; v %.3f\n", what, name, r.median, r.low,
               r.high, r.largest, r.v);
}

// The random bits of a block's elements.
std::vector<uint32_t> BitsOfBlock(RoundingSeed seed, uint32_t first) {
  std::vector<uint32_t> bits;
  for (uint32_t i = 0; i < kCodesOfBlock; ++i) bits.push_back(RandomBits(seed, first + i));
  return bits;
}

}  // namespace

void TestCodeTracking(const std::string& isa) {
  for (const Gradients& kind : AllGradients()) {
    const Ratios ratios = Track(kind);
    Print("uint8 moments", kind.name, ratios);
    Expect(ratios.Follow(kind), isa + ": uint8 moments don't follow gradients: " + kind.name);
  }
  // Half of the distance of two codes, for both moments.
  constexpr uint32_t kHalf = 0x80080000;
  const std::vector<uint32_t> halves(kCodesOfBlock, kHalf);
  const Fault nearest = [&](RoundingSeed) {
    return
        [&](const std::vector<float>& block, bool is_m, uint32_t) { return ReferenceRounded(block, is_m, 1, halves); };
  };
  const Fault fixed_scale = [](RoundingSeed seed) {
    return [=](const std::vector<float>& block, bool is_m, uint32_t first) {
      return ReferenceRounded(block, is_m, 1, BitsOfBlock(seed, first));
    };
  };
  const Fault zero_v = [](RoundingSeed seed) {
    return [=](const std::vector<float>& block, bool, uint32_t first) {
      return ReferenceRounded(block, true, 1, BitsOfBlock(seed, first));
    };
  };
  struct Mutant {
    const char* name;
    Gradients gradients;
    Fault fault;
  };
  for (const Mutant& mutant :
       {Mutant{"rounding to nearest", Steady(), nearest}, Mutant{"a scale that does not decay", Falling(), fixed_scale},
        Mutant{"a second moment that may be zero", Outlier(), zero_v}}) {
    const Ratios ratios = Track(mutant.gradients, mutant.fault);
    Print(mutant.name, mutant.gradients.name, ratios);
    Expect(!ratios.Follow(mutant.gradients), isa + ": the test is too weak for " + mutant.name);
  }
}
