// SPDX-License-Identifier: Apache-2.0

// See tracking.h.

#include "tracking.h"

#include <algorithm>
#include <cstdio>

#include "../../mindspore_offload/csrc/kernel.h"
#include "code_reference.h"
#include "expect.h"

using namespace mindspore_offload;

std::vector<Gradients> AllGradients() {
  Gradients rising{"rising 30 times", 1}, drifting{"drifting"}, seldom{"in 1 of 50 steps", 1};
  Gradients short_memory{"steady, beta2 0.95", 3, 0.95}, long_memory{"steady, beta2 0.9999", 3, 0.9999};
  rising.before = 1.0f / 30;
  drifting.drift = 0.1f;
  seldom.every = 50, seldom.steps = 20000, seldom.measured = 4000, seldom.low = 0.94, seldom.high = 1.07;
  return {Steady(), SteadyInOneDecade(), Falling(), rising, drifting, Outlier(), seldom, short_memory, long_memory};
}

namespace {

constexpr size_t kTracked = 4096, kBlocks = kTracked / kCodesOfBlock;

struct Exact {
  std::vector<double> m = std::vector<double>(kTracked), v = m, squares = m;
};

void UpdateInFloat64(const AdamCoefficients& c, const std::vector<float>& gradient, bool measured, Exact* exact) {
  const double beta1 = c.beta1, beta2 = c.beta2;
  for (size_t i = 0; i < kTracked; ++i) {
    double &m = exact->m[i], &v = exact->v[i];
    m = m * beta1 + (1 - beta1) * gradient[i];
    v = v * beta2 + (1 - beta2) * gradient[i] * gradient[i];
    const double delta = c.learning_rate * m / (std::sqrt(v) + c.eps);
    if (measured) exact->squares[i] += delta * delta;
  }
}

// Both moments of kTracked elements in a format, and the sums of what is measured.
class Tracked {
 public:
  explicit Tracked(MomentFormat format) : format_(format), m_(BytesOf(format, kTracked) / 4), v_(m_.size()) {}

  void Update(const AdamCoefficients& c, const std::vector<float>& gradient, bool measured) {
    std::vector<float> delta(kTracked);
    AdamTensors t{};
    t.kind = Kind::kDifference;
    t.moment_format = format_;
    t.moment1 = m_.data();
    t.moment2 = v_.data();
    t.gradient = gradient.data();
    t.result = delta.data();
    t.size = kTracked;
    t.key = 12345;
    UpdateBucket({{c, t}});
    for (size_t i = 0; measured && i < kTracked; ++i) squares[i] += static_cast<double>(delta[i]) * delta[i];
  }

  float V(size_t i) const {
    if (format_ == MomentFormat::kUint8) return Decoded(v_.data(), false, i);
    if (format_ == MomentFormat::kBFloat16) return ToFloat(reinterpret_cast<const BFloat16*>(v_.data())[i]);
    return FloatOf(v_[i]);
  }

  // Rounds float32 moments as another format would.
  void Round(const Rounding& rounding) {
    for (size_t block = 0; block < kBlocks; ++block) {
      for (bool is_m : {false, true}) {
        float* values = reinterpret_cast<float*>(is_m ? m_.data() : v_.data()) + block * kCodesOfBlock;
        const auto rounded = rounding({values, values + kCodesOfBlock}, is_m, block * kCodesOfBlock);
        std::copy(rounded.begin(), rounded.end(), values);
      }
    }
  }

  std::vector<double> squares = std::vector<double>(kTracked);
  double sum_of_ratios = 0;  // of v to the exact v

 private:
  MomentFormat format_;
  std::vector<uint32_t> m_, v_;
};

Ratios Track(const Gradients& kind, MomentFormat format, const RoundingOfStep& rounding) {
  constexpr double kMiddle = -3.5;  // the decimal exponent of a middle size
  Random random(17);
  std::vector<float> scales(kTracked), gradient(kTracked);
  for (size_t i = 0; i < kTracked; ++i) {
    scales[i] = static_cast<float>(std::pow(10.0, kMiddle + kind.decades / 2 * random.Uniform()));
    if (kind.outlier > 0 && i % kCodesOfBlock == 77)
      scales[i] = static_cast<float>(std::pow(10.0, kMiddle)) * kind.outlier;
  }
  Tracked tracked(format);
  Exact exact;
  AdamCoefficients c{};
  c.clip = c.gradient_scale = 1;
  c.beta1 = 0.9f;
  c.beta2 = static_cast<float>(kind.beta2);
  c.eps = 1e-8f;
  int compared = 0;
  for (int step = 0; step < kind.steps; ++step) {
    const float factor = step < kind.steps / 2 ? kind.before : kind.after;
    for (size_t begin = 0; begin < kTracked; begin += kCodesOfBlock) {
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
    if (rounding) tracked.Round(rounding(SeedOf(c.step, 12345)));
    if (!measured || step % 20 != 0) continue;
    ++compared;
    for (size_t i = 0; i < kTracked; ++i) tracked.sum_of_ratios += tracked.V(i) / exact.v[i];
  }
  std::vector<double> ratios(kTracked);
  for (size_t i = 0; i < kTracked; ++i) ratios[i] = std::sqrt(tracked.squares[i] / exact.squares[i]);
  std::sort(ratios.begin(), ratios.end());
  return {ratios[kTracked / 2], ratios[kTracked / 20], ratios[kTracked * 19 / 20], ratios[kTracked - 1],
          tracked.sum_of_ratios / compared / kTracked};
}

}  // namespace

Ratios Track(const Gradients& kind, MomentFormat format) { return Track(kind, format, nullptr); }

Ratios Track(const Gradients& kind, const RoundingOfStep& rounding) {
  return Track(kind, MomentFormat::kFloat32, rounding);
}

void Print(const char* what, const Gradients& gradients, const Ratios& r) {
  std::fprintf(stderr, "updates with %s, %s: %.3f [%.3f - %.3f], largest %.3g; v %.3f\n", what, gradients.name,
               r.median, r.low, r.high, r.largest, r.v);
}
