// SPDX-License-Identifier: Apache-2.0

// Tests of stochastic rounding: its random bits are uniform and independent, and it rounds up with the right
// probability.

#include "../../mindspore_offload/csrc/stochastic.h"

#include <cmath>
#include <functional>
#include <vector>

#include "expect.h"
#include "tests.h"

using namespace mindspore_offload;

namespace {

// Random bits of an element of a parameter in a step.
using Hash = std::function<uint32_t(uint32_t step, uint32_t key, uint32_t element)>;

uint32_t Good(uint32_t step, uint32_t key, uint32_t element) {
  return RandomBits(SeedOf(static_cast<float>(step), key), element);
}

// True if chi-squared of 256 counts is within six standard deviations of its mean, on both sides.
bool LooksUniform(const std::vector<int>& counts, int samples) {
  const double expected = samples / 256.0;
  double chi_squared = 0;
  for (int count : counts) chi_squared += (count - expected) * (count - expected) / expected;
  return std::fabs(chi_squared - 255) < 6 * std::sqrt(2.0 * 255);
}

constexpr int kSamples = 1 << 17;

// True if pairs of 4 bits, one of each function, are spread evenly. `x` and `y` give 16 bits for a sample. Looks at the
// highest 4 bits, which decide most, and the lowest, which are the weakest of most hashes.
bool AreIndependent(const std::function<uint32_t(uint32_t)>& x, const std::function<uint32_t(uint32_t)>& y) {
  for (int shift : {0, 6, 12}) {
    for (int other_shift : {0, 6, 12}) {
      std::vector<int> counts(256);
      for (uint32_t i = 0; i < kSamples; ++i) ++counts[((x(i) >> shift) & 15) << 4 | ((y(i) >> other_shift) & 15)];
      if (!LooksUniform(counts, kSamples)) return false;
    }
  }
  return true;
}

// True if 8 of the bits are spread evenly over many elements of one step, and over many steps of one element.
bool IsUniform(const Hash& hash) {
  for (int shift : {0, 4, 8, 16, 20, 24}) {
    for (bool over_steps : {false, true}) {
      std::vector<int> counts(256);
      for (uint32_t i = 0; i < kSamples; ++i) {
        ++counts[((over_steps ? hash(i, 77, 5) : hash(1234, 77, i)) >> shift) & 255];
      }
      if (!LooksUniform(counts, kSamples)) return false;
    }
  }
  return true;
}

// Both moments of an element, the same moment of neighbours, of following steps and of other parameters.
bool IsIndependent(const Hash& hash) {
  for (uint32_t step : {0, 1, 1000, 1 << 20}) {
    const auto m = [&](uint32_t i) { return hash(step, 77, i) & 0xffff; };
    const auto v = [&](uint32_t i) { return hash(step, 77, i) >> 16; };
    if (!AreIndependent(m, v)) return false;
    for (uint32_t distance : {1, 2, 8, 128, 4096}) {
      if (!AreIndependent(m, [&](uint32_t i) { return m(i + distance); })) return false;
      if (!AreIndependent(v, [&](uint32_t i) { return v(i + distance); })) return false;
    }
    for (uint32_t later : {1, 2, 16}) {
      if (!AreIndependent(m, [&](uint32_t i) { return hash(step + later, 77, i) & 0xffff; })) return false;
      if (!AreIndependent(v, [&](uint32_t i) { return hash(step + later, 77, i) >> 16; })) return false;
    }
    for (uint32_t key : {76u, 78u, ~77u}) {
      if (!AreIndependent(m, [&](uint32_t i) { return hash(step, key, i) & 0xffff; })) return false;
    }
  }
  // The bits of one element in successive steps.
  const auto over_steps = [&](uint32_t i) { return hash(i, 77, 5) >> 16; };
  return AreIndependent(over_steps, [&](uint32_t i) { return over_steps(i + 1); });
}

bool StaysNan(uint32_t bits, uint32_t random) {
  const uint32_t rounded = StochasticallyRounded(FloatOf(bits), random);
  return (rounded & 0x7fff) > 0x7f80;
}

}  // namespace

// The hash passes, and hashes with one weakness each do not.
void TestHash() {
  Expect(IsUniform(Good) && IsIndependent(Good), "the random bits are not uniform, or not independent");

  const Hash counter = [](uint32_t step, uint32_t key, uint32_t i) { return step + key + i; };
  Expect(!IsUniform(counter), "a counter passes as uniform");
  const Hash same_for_both = [](uint32_t s, uint32_t k, uint32_t i) { return (Good(s, k, i) & 0xffff) * 0x10001; };
  Expect(!IsIndependent(same_for_both), "equal bits for both moments pass");
  const Hash same_for_neighbours = [](uint32_t s, uint32_t k, uint32_t i) { return Good(s, k, i & ~1u); };
  Expect(!IsIndependent(same_for_neighbours), "equal bits for two neighbours pass");
  const Hash same_for_steps = [](uint32_t, uint32_t k, uint32_t i) { return Good(0, k, i); };
  Expect(!IsIndependent(same_for_steps), "equal bits in all steps pass");
  const Hash same_for_keys = [](uint32_t s, uint32_t, uint32_t i) { return Good(s, 77, i); };
  Expect(!IsIndependent(same_for_keys), "equal bits for all parameters pass");
}

void TestStochasticRounding() {
  Random random(3);
  for (int sample = 0; sample < 2000; ++sample) {
    const float value = FloatOf(random.Bits());
    const uint32_t bits = BitsOf(value), low = bits >> 16, rest = bits & 0xffff;
    if (!std::isfinite(value) || (bits & 0x7fffffff) >= 0x7f7f0000) continue;
    // The 65,536 random numbers are equally probable. As many round away from zero as the value is above the lower
    // neighbour in parts of 65,536: the mean is the value.
    uint32_t up = 0, others = 0;
    for (uint32_t r = 0; r < 65536; ++r) {
      const uint32_t rounded = StochasticallyRounded(value, r);
      up += rounded == low + 1;
      others += rounded != low && rounded != low + 1;
    }
    Expect(up == rest && others == 0, "probability of rounding bits " + std::to_string(bits));
  }
  for (uint32_t r : {0u, 1u, 0x7fffu, 0x8000u, 0xffffu}) {
    for (uint32_t sign : {0u, 0x80000000u}) {
      const std::string what = "random bits " + std::to_string(r) + (sign != 0 ? ", negative: " : ": ");
      for (uint32_t high = 0; high <= 0x7f80; ++high) {
        const uint32_t exact = high << 16 | sign;
        Expect(StochasticallyRounded(FloatOf(exact), r) == exact >> 16, what + "a bfloat16, or infinity, changed");
      }
      for (uint32_t beyond = 0x7f7f0000; beyond < 0x7f800000; beyond += 0xfff) {
        const uint32_t rounded = StochasticallyRounded(FloatOf(beyond | sign), r);
        Expect(rounded == (0x7f7f | sign >> 16), what + "a finite value became infinite");
      }
      for (uint32_t payload = 0; payload < 0x400000; payload += 0x3ff) {
        Expect(StaysNan(0x7fc00000 | payload | sign, r), what + "a NaN became a number");
      }
      Expect(StaysNan(0x7fffffff | sign, r), what + "the last NaN became a number");
    }
  }
}
