// SPDX-License-Identifier: Apache-2.0

// Tests that bfloat16 moments follow float64 moments over thousands of steps, and prints how closely. Rounding to
// nearest must fail this test.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include "../../mindspore_offload/csrc/half.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

namespace {

constexpr size_t kElements = 4096;
constexpr int kSteps = 6000, kMeasured = 200;

enum class Gradients { kSteady, kFalling, kDrifting };

// The moments of kElements elements, and the sum of the squares of their last updates.
template <class Moment>
struct Tracked {
  std::vector<Moment> m = std::vector<Moment>(kElements), v = std::vector<Moment>(kElements);
  std::vector<double> squares = std::vector<double>(kElements);
};

// One step of the kernel, which returns the difference.
template <class Moment>
void Update(MomentFormat format, Tracked<Moment>* tracked, AdamCoefficients c, const std::vector<float>& gradient,
            bool measured) {
  std::vector<float> delta(kElements);
  AdamTensors t{};
  t.kind = Kind::kDifference;
  t.moment_format = format;
  t.moment1 = tracked->m.data();
  t.moment2 = tracked->v.data();
  t.gradient = gradient.data();
  t.result = delta.data();
  t.size = kElements;
  UpdateBucket({{c, t}});
  for (size_t i = 0; measured && i < kElements; ++i) tracked->squares[i] += static_cast<double>(delta[i]) * delta[i];
}

void UpdateInFloat64(Tracked<double>* tracked, const AdamCoefficients& c, const std::vector<float>& gradient,
                     bool measured) {
  const double beta1 = c.beta1, beta2 = c.beta2;
  for (size_t i = 0; i < kElements; ++i) {
    double &m = tracked->m[i], &v = tracked->v[i];
    m = m * beta1 + (1 - beta1) * gradient[i];
    v = v * beta2 + (1 - beta2) * gradient[i] * gradient[i];
    const double delta = c.learning_rate * m / (std::sqrt(v) + c.eps);
    if (measured) tracked->squares[i] += delta * delta;
  }
}

void RoundToNearest(std::vector<float>* moment) {
  for (float& value : *moment) value = FromBits(Element::kBFloat16, ToBits(Element::kBFloat16, value));
}

// The sizes of the elements' updates relative to those in float64: the median, and where 5 % and 95 % of them are.
struct Ratios {
  double low, median, high;

  // True if the median is within 1 %, and 90 % of the elements within about a tenth.
  bool Follow() const { return 0.99 < median && median < 1.01 && 0.9 < low && high < 1.12; }
};

template <class Moment>
Ratios Compare(const Tracked<Moment>& tracked, const Tracked<double>& exact) {
  std::vector<double> ratios(kElements);
  for (size_t i = 0; i < kElements; ++i) ratios[i] = std::sqrt(tracked.squares[i] / exact.squares[i]);
  std::sort(ratios.begin(), ratios.end());
  return {ratios[kElements / 20], ratios[kElements / 2], ratios[kElements * 19 / 20]};
}

struct Result {
  Ratios stochastic, nearest;
};

Result Track(Gradients kind) {
  Random random(17);
  std::vector<float> scales(kElements), gradient(kElements);
  for (float& scale : scales) scale = std::pow(10.0f, -3.5f + 1.5f * random.Uniform());  // three decades
  Tracked<uint16_t> stochastic;
  Tracked<float> nearest;
  Tracked<double> exact;
  AdamCoefficients c{};
  c.clip = c.gradient_scale = 1;
  c.beta1 = 0.9f;
  c.beta2 = 0.999f;
  c.eps = 1e-8f;
  for (int step = 0; step < kSteps; ++step) {
    const float fall = kind == Gradients::kFalling && step >= kSteps / 2 ? 0.03f : 1.0f;
    const float drift = kind == Gradients::kDrifting ? 0.1f : 0.0f;
    for (size_t i = 0; i < kElements; ++i) {
      const float noise = random.Uniform() + random.Uniform() + random.Uniform();  // of variance 1
      gradient[i] = (noise + drift) * scales[i] * fall;
    }
    c.step = static_cast<float>(step);
    c.learning_rate = static_cast<float>(std::sqrt(1 - std::pow(0.999, step + 1)) / (1 - std::pow(0.9, step + 1)));
    const bool measured = step >= kSteps - kMeasured;
    UpdateInFloat64(&exact, c, gradient, measured);
    Update(MomentFormat::kBFloat16, &stochastic, c, gradient, measured);
    Update(MomentFormat::kFloat32, &nearest, c, gradient, measured);
    RoundToNearest(&nearest.m);
    RoundToNearest(&nearest.v);
  }
  return {Compare(stochastic, exact), Compare(nearest, exact)};
}

}  // namespace

void TestTracking(const std::string& isa) {
  const std::pair<Gradients, const char*> kinds[] = {
      {Gradients::kSteady, "steady"}, {Gradients::kFalling, "falling"}, {Gradients::kDrifting, "drifting"}};
  for (const auto& [kind, name] : kinds) {
    const auto [stochastic, nearest] = Track(kind);
    std::fprintf(stderr,
                 "updates with bfloat16 moments, %s gradients: %.3f [%.3f - %.3f]; to nearest: %.3f [%.3f - %.3f]\n",
                 name, stochastic.median, stochastic.low, stochastic.high, nearest.median, nearest.low, nearest.high);
    Expect(stochastic.Follow(), isa + ": moments don't follow " + name + " gradients");
    Expect(!nearest.Follow(), isa + ": rounding to nearest follows " + name + " gradients too: the test is too weak");
  }
}
