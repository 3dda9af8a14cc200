// SPDX-License-Identifier: Apache-2.0

// See update_case.h.

#include "update_case.h"

#include <algorithm>
#include <cmath>

#include "../../mindspore_offload/csrc/half.h"
#include "../../mindspore_offload/csrc/stochastic.h"
#include "code_reference.h"

using namespace mindspore_offload;

// Where stochastic rounding begins in the tensors of a case.
constexpr uint32_t kKey = 0x9abcdef0;
constexpr size_t kFirstElement = 1000003;

// The 32-bit words of the blocks of codes that a moment of this size has.
static size_t CodeWordsOf(size_t size) { return (size + kCodesOfBlock - 1) / kCodesOfBlock * kBytesOfBlock / 4; }

// Blocks of random codes, with scales that are zero or have any magnitude.
static void FillCodes(uint32_t* words, size_t size, Random* random) {
  for (size_t i = 0; i < size; ++i) words[i] = random->Bits();
  for (size_t i = kCodesOfBlock / 4; i < size; i += kBytesOfBlock / 4) {
    const uint32_t bits = random->Bits();
    words[i] =
        bits % 8 == 0 ? 0 : BitsOf(std::ldexp(1.0f + std::fabs(random->Uniform()), static_cast<int>(bits % 140) - 110));
  }
}

uint16_t ToBits(Element type, float value) {
  return static_cast<uint16_t>(type == Element::kFloat16 ? Rounded(value, Float16{}) : Rounded(value, BFloat16{}));
}

float FromBits(Element type, uint16_t bits) {
  return type == Element::kFloat16 ? ToFloat(Float16{bits}) : ToFloat(BFloat16{bits});
}

std::vector<Mode> AllModes(MomentFormat moments) {
  std::vector<Mode> modes;
  const Element types[] = {Element::kFloat32, Element::kFloat16, Element::kBFloat16};
  for (Element parameter : types) {
    for (Element gradient : types) {
      for (Decay decay : {Decay::kNone, Decay::kL2, Decay::kDecoupled}) {
        for (int bits = 0; bits < 4; ++bits)
          modes.push_back({parameter, gradient, (bits & 1) != 0, decay, (bits & 2) != 0, moments});
      }
    }
  }
  return modes;
}

std::string NameOf(const Mode& mode, const std::string& isa) {
  const char* decays[] = {"", ", L2 decay", ", decoupled decay"};
  return isa + ", " + NameOf(mode.parameter) + ", gradient " + NameOf(mode.gradient) + ", moments " +
         DtypeOf(mode.moments) + (mode.assign ? ", assign" : "") + decays[static_cast<int>(mode.decay)] +
         (mode.nesterov ? ", nesterov" : "");
}

AdamCoefficients CoefficientsOf(const Mode& mode) {
  const bool device_decays = mode.IsDifference() && mode.decay == Decay::kL2;
  AdamCoefficients c{};
  c.learning_rate = 0.01f;
  c.weight_decay = mode.decay == Decay::kL2 && !device_decays ? 0.1f : 0.0f;
  c.decoupled_decay = mode.decay == Decay::kDecoupled ? 0.003f : 0.0f;
  c.eps = 1e-8f;
  c.clip = device_decays ? 1.0f : 0.7f;
  c.beta1 = 0.9f;
  c.beta2 = 0.999f;
  c.gradient_scale = 1.0f / 3;
  c.step = 5;
  c.nesterov = mode.nesterov ? 1.0f : 0.0f;
  return c;
}

Case::Case(const Mode& mode, size_t size, size_t shift, uint64_t seed)
    : mode_(mode),
      size_(size),
      weight_(size, shift),
      delta_(size, shift),
      moment1_(size, (shift + 3) % 16),
      moment2_(size, (shift + 6) % 16),
      gradient_(size, (shift + 9) % 16),
      half_gradient_(size, (shift + 1) % 16),
      parameter_(size, (shift + 5) % 16),
      result_(size, (shift + 11) % 16),
      narrow_moment1_(size, (shift + 2) % 16),
      narrow_moment2_(size, (shift + 13) % 16),
      code_moment1_(CodeWordsOf(size), (shift + 4) % 16),
      code_moment2_(CodeWordsOf(size), (shift + 7) % 16) {
  Random random(seed);
  for (size_t i = 0; i < size; ++i) {
    weight_.data()[i] = random.Uniform();
    moment1_.data()[i] = random.Uniform();
    moment2_.data()[i] = std::fabs(random.Uniform());
    narrow_moment1_.data()[i] = ToBits(Element::kBFloat16, moment1_.data()[i]);
    narrow_moment2_.data()[i] = ToBits(Element::kBFloat16, moment2_.data()[i]);
    delta_.data()[i] = 0;
    result_.data()[i] = 0;
    // Every seventh parameter was changed from outside.
    parameter_.data()[i] = ToBits(mode.parameter, i % 7 == 0 ? random.Uniform() : weight_.data()[i]);
  }
  FillCodes(code_moment1_.data(), CodeWordsOf(size), &random);
  FillCodes(code_moment2_.data(), CodeWordsOf(size), &random);
  SetGradient(&random);
}

void Case::SetGradient(Random* random, Gradients gradients) {
  for (size_t i = 0; i < size_; ++i) {
    const float gradient = (random->*gradients)();
    gradient_.data()[i] = gradient;
    half_gradient_.data()[i] = ToBits(mode_.gradient, gradient);
  }
}

BucketItem Case::Item() {
  AdamTensors t{};
  t.parameter_type = mode_.parameter;
  t.gradient_type = mode_.gradient;
  t.moment_format = mode_.moments;
  t.moment1 = MemoryOf(1);
  t.moment2 = MemoryOf(2);
  t.key = kKey;
  t.first_element = kFirstElement;
  t.gradient = mode_.gradient == Element::kFloat32 ? static_cast<void*>(gradient_.data()) : half_gradient_.data();
  t.size = size_;
  if (mode_.IsHalf()) {
    t.kind = Kind::kMaster;
    t.weight = weight_.data();
    t.parameter = parameter_.data();
    t.result = mode_.assign ? result_.data() : parameter_.data();
  } else if (mode_.assign) {
    t.kind = Kind::kDifference;
    t.result = delta_.data();
  } else {
    t.kind = Kind::kInPlace;
    t.weight = weight_.data();
  }
  return {CoefficientsOf(mode_), t};
}

void* Case::MemoryOf(int moment) {
  switch (mode_.moments) {
    case MomentFormat::kFloat32:
      return moment == 1 ? moment1_.data() : moment2_.data();
    case MomentFormat::kBFloat16:
      return moment == 1 ? narrow_moment1_.data() : narrow_moment2_.data();
    case MomentFormat::kUint8:
      return moment == 1 ? code_moment1_.data() : code_moment2_.data();
  }
  return nullptr;
}

float Case::Moment(int moment, size_t i) {
  const void* memory = MemoryOf(moment);
  switch (mode_.moments) {
    case MomentFormat::kFloat32:
      return static_cast<const float*>(memory)[i];
    case MomentFormat::kBFloat16:
      return ToFloat(static_cast<const BFloat16*>(memory)[i]);
    case MomentFormat::kUint8:
      return Decoded(memory, moment == 1, i);
  }
  return NAN;
}

void Case::WriteBack() {
  for (size_t i = 0; i < size_; ++i) {
    if (mode_.IsDifference()) weight_.data()[i] += delta_.data()[i];
    if (mode_.assign && mode_.IsHalf()) parameter_.data()[i] = result_.data()[i];
  }
}

std::vector<Case::Values> Case::Reference() {
  const AdamCoefficients c = CoefficientsOf(mode_);
  std::vector<Values> expected(size_);
  for (size_t i = 0; i < size_; ++i) {
    float w = weight_.data()[i];
    const uint16_t half = parameter_.data()[i];
    if (mode_.IsHalf() && ToBits(mode_.parameter, w) != half) w = FromBits(mode_.parameter, half);
    float g = gradient_.data()[i];
    if (mode_.gradient != Element::kFloat32) g = FromBits(mode_.gradient, half_gradient_.data()[i]);
    g *= c.clip;
    if (!mode_.IsDifference()) {
      if (mode_.decay == Decay::kL2) g += w * c.weight_decay;
      if (mode_.decay == Decay::kDecoupled) w -= w * c.decoupled_decay;
    }
    g *= c.gradient_scale;
    ReferenceUnits units_m{1.0f, c.beta1, 1.0f - c.beta1}, units_v{1.0f, c.beta2, 1.0f - c.beta2};
    float m = Moment1(i), v = Moment2(i), root = 1.0f;
    if (HasCodes()) {
      units_m = ReferenceUnitsOf(BlockOf(1, i), c.beta1);
      units_v = ReferenceUnitsOf(BlockOf(2, i), c.beta2);
      m = CodeValue(BlockOf(1, i), true, i % kCodesOfBlock);
      v = CodeValue(BlockOf(2, i), false, i % kCodesOfBlock);
      root = std::sqrt(units_v.unit);
    }
    m = m * units_m.decay + units_m.gain * g;
    v = v * units_v.decay + units_v.gain * g * g;
    const float direction = mode_.nesterov ? m * c.beta1 + units_m.gain * g : m;
    const float delta = -c.learning_rate * units_m.unit / root * direction / (std::sqrt(v) + c.eps / root);
    if (mode_.moments == MomentFormat::kBFloat16) {
      const uint32_t random = RandomBits(SeedOf(c.step, kKey), static_cast<uint32_t>(kFirstElement + i));
      m = FloatOf(StochasticallyRounded(m, random & 0xffff) << 16);
      v = FloatOf(StochasticallyRounded(v, random >> 16) << 16);
    }
    const float updated = mode_.IsDifference() ? w : w + delta;
    expected[i] = {updated, mode_.IsDifference() ? delta : 0.0f, m, v,
                   mode_.IsHalf() ? ToBits(mode_.parameter, updated) : half};
  }
  for (size_t begin = 0; HasCodes() && begin < size_; begin += kCodesOfBlock) RoundToCodes(begin, &expected);
  return expected;
}

void Case::RoundToCodes(size_t begin, std::vector<Values>* expected) {
  const AdamCoefficients c = CoefficientsOf(mode_);
  const float unit_m = ReferenceUnitsOf(BlockOf(1, begin), c.beta1).unit;
  const float unit_v = ReferenceUnitsOf(BlockOf(2, begin), c.beta2).unit;
  std::vector<float> m, v;
  std::vector<uint32_t> random;
  const size_t end = std::min(begin + kCodesOfBlock, size_);
  for (size_t i = begin; i < end; ++i) {
    const Values& one = (*expected)[i];
    const bool fits =
        one.moment2 <= 0x1p126f / std::max(unit_v, 1.0f) && std::fabs(one.moment1) <= 0x1p126f / std::max(unit_m, 1.0f);
    m.push_back(fits ? one.moment1 : 0.0f);
    v.push_back(fits ? one.moment2 : 0.0f);
    random.push_back(RandomBits(SeedOf(c.step, kKey), static_cast<uint32_t>(kFirstElement + i)));
  }
  // The padding of the last block has moments of its own in a case, which may be the largest ones.
  for (size_t i = end; i < begin + kCodesOfBlock; ++i) {
    m.push_back(CodeValue(BlockOf(1, begin), true, i - begin) * ReferenceUnitsOf(BlockOf(1, begin), c.beta1).decay);
    v.push_back(CodeValue(BlockOf(2, begin), false, i - begin) * ReferenceUnitsOf(BlockOf(2, begin), c.beta2).decay);
    random.push_back(0);
  }
  const std::vector<float> rounded_m = ReferenceRounded(m, true, unit_m, random);
  const std::vector<float> rounded_v = ReferenceRounded(v, false, unit_v, random);
  for (size_t i = begin; i < end; ++i) {
    (*expected)[i].moment1 = rounded_m[i - begin];
    (*expected)[i].moment2 = rounded_v[i - begin];
  }
}

const void* Case::BlockOf(int moment, size_t i) {
  return static_cast<const char*>(MemoryOf(moment)) + i / kCodesOfBlock * kBytesOfBlock;
}

std::vector<Case::Values> Case::Untouched() {
  std::vector<Values> expected(size_);
  for (size_t i = 0; i < size_; ++i) {
    const float delta = mode_.IsDifference() ? -0.0f : 0.0f;
    expected[i] = {weight_.data()[i], delta, Moment1(i), Moment2(i), parameter_.data()[i]};
  }
  return expected;
}

static bool Same(float a, float b) { return BitsOf(a) == BitsOf(b) || (std::isnan(a) && std::isnan(b)); }

static bool SameHalf(Element type, uint16_t a, uint16_t b) {
  return a == b || (std::isnan(FromBits(type, a)) && std::isnan(FromBits(type, b)));
}

void Case::Check(const std::vector<Values>& expected, const std::string& what) {
  const uint16_t* half = mode_.assign && mode_.IsHalf() ? result_.data() : parameter_.data();
  for (size_t i = 0; i < size_; ++i) {
    const bool same = Same(weight_.data()[i], expected[i].weight) && Same(delta_.data()[i], expected[i].delta) &&
                      Same(Moment1(i), expected[i].moment1) && Same(Moment2(i), expected[i].moment2) &&
                      SameHalf(mode_.parameter, half[i], expected[i].half);
    if (!same) Expect(false, what + ", element " + std::to_string(i) + " of " + std::to_string(size_));
  }
  const bool intact = weight_.Intact() && delta_.Intact() && moment1_.Intact() && moment2_.Intact() &&
                      gradient_.Intact() && half_gradient_.Intact() && parameter_.Intact() && result_.Intact() &&
                      narrow_moment1_.Intact() && narrow_moment2_.Intact() && code_moment1_.Intact() &&
                      code_moment2_.Intact();
  Expect(intact, what + ": written outside of a tensor");
}

uint64_t Case::Digest(uint64_t digest) {
  for (size_t i = 0; i < size_; ++i) {
    for (float value : {weight_.data()[i], Moment1(i), Moment2(i), FromHalf(i)}) {
      digest = (digest ^ (std::isnan(value) ? 0x7fc00000u : BitsOf(value))) * 1099511628211u;
    }
  }
  return digest;
}

bool Case::IsFinite() {
  for (size_t i = 0; i < size_; ++i) {
    if (!std::isfinite(weight_.data()[i]) || !std::isfinite(Moment1(i)) || !std::isfinite(Moment2(i))) return false;
  }
  return true;
}
