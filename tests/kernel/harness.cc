// Tests of the native kernel without MindSpore or Python: every count, misalignment, element type, mode and instruction
// set against a scalar reference, with sentinels around every tensor; and many operations at once. Prints a digest of
// 1,000 steps, which has to be the same for every compiler, instruction set and machine.

#include <dirent.h>

#include <cinttypes>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../../mindspore_offload/csrc/half.h"
#include "../../mindspore_offload/csrc/implementation.h"
#include "../../mindspore_offload/csrc/kernel.h"
#include "../../mindspore_offload/csrc/team.h"

namespace {

using namespace mindspore_offload;

constexpr size_t kChunk = size_t{1} << 17;  // as in kernel.cc

int failures = 0;

void Expect(bool condition, const std::string& what) {
  if (condition || ++failures > 20) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

// The same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint32_t Bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }

  float Uniform() { return static_cast<float>(static_cast<int32_t>(Bits() >> 8) - (1 << 23)) * 0x1p-23f; }

  // Magnitudes from subnormal to huge, and now and then zero, infinity or NaN.
  float Gradient() {
    switch (Bits() % 64) {
      case 0:
        return 0.0f;
      case 1:
        return INFINITY;
      case 2:
        return NAN;
      default:
        return std::ldexp(Uniform(), static_cast<int>(Bits() % 160) - 140);
    }
  }

 private:
  uint64_t state_;
};

uint16_t ToBits(Element type, float value) {
  return static_cast<uint16_t>(type == Element::kFloat16 ? Rounded(value, Float16{}) : Rounded(value, BFloat16{}));
}

float FromBits(Element type, uint16_t bits) {
  return type == Element::kFloat16 ? ToFloat(Float16{bits}) : ToFloat(BFloat16{bits});
}

// A tensor between sentinels that starts `shift` elements into its memory.
template <class T>
class Guarded {
 public:
  Guarded(size_t size, size_t shift) : size_(size), shift_(shift), memory_(size + shift + kGuard, Sentinel()) {}

  T* data() { return memory_.data() + shift_; }

  bool Intact() const {
    for (size_t i = 0; i < memory_.size(); ++i) {
      const T sentinel = Sentinel();
      if ((i < shift_ || i >= shift_ + size_) && std::memcmp(&memory_[i], &sentinel, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 24;

  static T Sentinel() {
    T value;
    std::memset(&value, 0x5a, sizeof(T));
    return value;
  }

  size_t size_, shift_;
  std::vector<T> memory_;
};

enum class Decay { kNone, kL2, kDecoupled };

struct Mode {
  Element parameter, gradient;
  bool assign;
  Decay decay;
  bool nesterov;

  bool IsHalf() const { return parameter != Element::kFloat32; }
};

AdamCoefficients CoefficientsOf(const Mode& mode) {
  AdamCoefficients c{};
  c.learning_rate = 0.01f;
  c.weight_decay = mode.decay == Decay::kL2 ? 0.1f : 0.0f;
  c.decoupled_decay = mode.decay == Decay::kDecoupled ? 0.003f : 0.0f;
  c.eps = 1e-8f;
  c.clip = 0.7f;
  c.beta1 = 0.9f;
  c.beta2 = 0.999f;
  c.gradient_scale = 1.0f / 3;
  c.nesterov = mode.nesterov ? 1.0f : 0.0f;
  return c;
}

// One parameter with all that its update reads and writes, and what each has to be afterwards.
class Case {
 public:
  Case(const Mode& mode, size_t size, size_t shift, uint64_t seed)
      : mode_(mode),
        size_(size),
        weight_(size, shift),
        delta_(size, shift),
        moment1_(size, (shift + 3) % 16),
        moment2_(size, (shift + 6) % 16),
        gradient_(size, (shift + 9) % 16),
        half_gradient_(size, (shift + 1) % 16),
        parameter_(size, (shift + 5) % 16),
        result_(size, (shift + 11) % 16) {
    Random random(seed);
    for (size_t i = 0; i < size; ++i) {
      weight_.data()[i] = random.Uniform();
      moment1_.data()[i] = random.Uniform();
      moment2_.data()[i] = std::fabs(random.Uniform());
      delta_.data()[i] = 0;
      result_.data()[i] = 0;
      // Every seventh parameter was changed from outside.
      parameter_.data()[i] = ToBits(mode.parameter, i % 7 == 0 ? random.Uniform() : weight_.data()[i]);
    }
    SetGradient(&random);
  }

  void SetGradient(Random* random) {
    for (size_t i = 0; i < size_; ++i) {
      const float gradient = random->Gradient();
      gradient_.data()[i] = gradient;
      half_gradient_.data()[i] = ToBits(mode_.gradient, gradient);
    }
  }

  BucketItem Item() {
    AdamTensors t{};
    t.parameter_type = mode_.parameter;
    t.gradient_type = mode_.gradient;
    t.moment1 = moment1_.data();
    t.moment2 = moment2_.data();
    t.gradient = mode_.gradient == Element::kFloat32 ? static_cast<void*>(gradient_.data()) : half_gradient_.data();
    t.size = size_;
    if (mode_.IsHalf()) {
      t.weight = weight_.data();
      t.parameter = parameter_.data();
      t.rounded = mode_.assign ? result_.data() : parameter_.data();
    } else {
      (mode_.assign ? t.delta : t.weight) = mode_.assign ? delta_.data() : weight_.data();
    }
    return {CoefficientsOf(mode_), t};
  }

  // What Item() stands for after one update, an element at a time.
  struct Values {
    float weight, delta, moment1, moment2;
    uint16_t half;
  };

  std::vector<Values> Reference() {
    const AdamCoefficients c = CoefficientsOf(mode_);
    std::vector<Values> expected(size_);
    for (size_t i = 0; i < size_; ++i) {
      float w = weight_.data()[i];
      const uint16_t half = parameter_.data()[i];
      if (mode_.IsHalf() && ToBits(mode_.parameter, w) != half) w = FromBits(mode_.parameter, half);
      float g = mode_.gradient == Element::kFloat32 ? gradient_.data()[i]
                                                    : FromBits(mode_.gradient, half_gradient_.data()[i]);
      const bool delta_only = mode_.assign && !mode_.IsHalf();
      if (!delta_only || mode_.decay != Decay::kL2) g *= c.clip;
      if (mode_.decay == Decay::kL2 && !delta_only) g += w * c.weight_decay;
      if (mode_.decay == Decay::kDecoupled && !delta_only) w -= w * c.decoupled_decay;
      g *= c.gradient_scale;
      const float m = moment1_.data()[i] * c.beta1 + (1.0f - c.beta1) * g;
      const float v = moment2_.data()[i] * c.beta2 + (1.0f - c.beta2) * g * g;
      const float direction = mode_.nesterov ? m * c.beta1 + (1.0f - c.beta1) * g : m;
      const float delta = -c.learning_rate * direction / (std::sqrt(v) + c.eps);
      const float updated = delta_only ? w : w + delta;
      expected[i] = {updated, delta_only ? delta : 0.0f, m, v,
                     mode_.IsHalf() ? ToBits(mode_.parameter, updated) : half};
    }
    return expected;
  }

  // What it stands for if nothing happens to it.
  std::vector<Values> Untouched() {
    std::vector<Values> expected(size_);
    for (size_t i = 0; i < size_; ++i) {
      const float delta = mode_.assign && !mode_.IsHalf() ? -0.0f : 0.0f;
      expected[i] = {weight_.data()[i], delta, moment1_.data()[i], moment2_.data()[i], parameter_.data()[i]};
    }
    return expected;
  }

  void Check(const std::vector<Values>& expected, const std::string& what) {
    const uint16_t* half = mode_.assign && mode_.IsHalf() ? result_.data() : parameter_.data();
    for (size_t i = 0; i < size_; ++i) {
      const bool same = Same(weight_.data()[i], expected[i].weight) && Same(delta_.data()[i], expected[i].delta) &&
                        Same(moment1_.data()[i], expected[i].moment1) &&
                        Same(moment2_.data()[i], expected[i].moment2) && SameHalf(half[i], expected[i].half);
      Expect(same, what + ", element " + std::to_string(i) + " of " + std::to_string(size_));
    }
    const bool intact = weight_.Intact() && delta_.Intact() && moment1_.Intact() && moment2_.Intact() &&
                        gradient_.Intact() && half_gradient_.Intact() && parameter_.Intact() && result_.Intact();
    Expect(intact, what + ": written outside of a tensor");
  }

  // FNV-1a over weights and states. Every NaN counts as the same one: which payload an operation on two of them keeps
  // is left open by IEEE 754.
  uint64_t Digest(uint64_t digest) {
    for (size_t i = 0; i < size_; ++i) {
      for (float value : {weight_.data()[i], moment1_.data()[i], moment2_.data()[i], FromHalf(i)}) {
        digest = (digest ^ (std::isnan(value) ? 0x7fc00000u : BitsOf(value))) * 1099511628211u;
      }
    }
    return digest;
  }

 private:
  static bool Same(float a, float b) { return BitsOf(a) == BitsOf(b) || (std::isnan(a) && std::isnan(b)); }

  bool SameHalf(uint16_t a, uint16_t b) const {
    return a == b || (std::isnan(FromBits(mode_.parameter, a)) && std::isnan(FromBits(mode_.parameter, b)));
  }

  float FromHalf(size_t i) { return mode_.IsHalf() ? FromBits(mode_.parameter, parameter_.data()[i]) : 0.0f; }

  Mode mode_;
  size_t size_;
  Guarded<float> weight_, delta_, moment1_, moment2_, gradient_;
  Guarded<uint16_t> half_gradient_, parameter_, result_;
};

std::vector<Mode> AllModes() {
  std::vector<Mode> modes;
  const Element types[] = {Element::kFloat32, Element::kFloat16, Element::kBFloat16};
  for (Element parameter : types) {
    for (Element gradient : types) {
      for (Decay decay : {Decay::kNone, Decay::kL2, Decay::kDecoupled}) {
        for (int bits = 0; bits < 4; ++bits)
          modes.push_back({parameter, gradient, (bits & 1) != 0, decay, (bits & 2) != 0});
      }
    }
  }
  return modes;
}

std::string NameOf(const Mode& mode, const std::string& isa) {
  const char* names[] = {"float32", "float16", "bfloat16"};
  const char* decays[] = {"", ", L2 decay", ", decoupled decay"};
  return isa + ", " + names[static_cast<int>(mode.parameter)] + ", gradient " + names[static_cast<int>(mode.gradient)] +
         (mode.assign ? ", assign" : "") + decays[static_cast<int>(mode.decay)] + (mode.nesterov ? ", nesterov" : "");
}

void CheckUpdate(const Mode& mode, size_t size, size_t shift, const std::string& isa) {
  Case one(mode, size, shift, 1 + size * 16 + shift);
  const auto expected = one.Reference();
  UpdateBucket({one.Item()});
  one.Check(expected, NameOf(mode, isa));
}

// Two vectors of 16 lanes and both sides of a block and of a chunk; every misalignment within a vector.
void CheckSizes(const std::string& isa) {
  for (const Mode& mode : AllModes()) {
    for (size_t size = 0; size <= 33; ++size) CheckUpdate(mode, size, size % 16, isa);
    for (size_t shift = 0; shift < 16; ++shift) CheckUpdate(mode, 41, shift, isa);
    for (size_t size : {255, 256, 257, 1025}) CheckUpdate(mode, size, 1, isa);
  }
  for (const Mode& mode : {Mode{Element::kFloat32, Element::kFloat32, false, Decay::kL2, false},
                           Mode{Element::kFloat16, Element::kBFloat16, true, Decay::kDecoupled, true}}) {
    for (size_t size : {kChunk - 1, kChunk, kChunk + 1, 2 * kChunk + 1}) CheckUpdate(mode, size, 3, isa);
  }
}

// A step that is not taken leaves weights and states, and returns what changes no parameter.
void CheckSkip(const std::string& isa) {
  for (const Mode& mode : AllModes()) {
    const size_t size = 301;
    Case one(mode, size, 5, 3);
    auto expected = one.Untouched();
    BucketItem item = one.Item();
    item.coefficients.skip = 1.0f;
    UpdateBucket({item});
    one.Check(expected, NameOf(mode, isa) + ", skipped");
  }
}

// The norm of gradients of all types, next to each other in one call, against a plain sum.
void CheckNorm(const std::string& isa) {
  for (size_t size : {size_t{1}, size_t{15}, size_t{257}, kChunk - 1, 2 * kChunk + 3}) {
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

// All bit patterns of both 16-bit types, widened and rounded again by this instruction set, are what they were.
void CheckConversions(const std::string& isa) {
  for (Element type : {Element::kFloat16, Element::kBFloat16}) {
    const Mode mode{type, Element::kFloat32, false, Decay::kNone, false};
    std::vector<uint16_t> parameter(65536);
    std::vector<float> master(65536, 0.1234567f), zeros[3];
    for (auto& zero : zeros) zero.assign(65536, 0.0f);
    for (size_t i = 0; i < 65536; ++i) parameter[i] = static_cast<uint16_t>(i);
    AdamTensors t{};
    t.parameter_type = type;
    t.gradient_type = Element::kFloat32;
    t.weight = master.data();
    t.parameter = t.rounded = parameter.data();
    t.moment1 = zeros[0].data();
    t.moment2 = zeros[1].data();
    t.gradient = zeros[2].data();
    t.size = 65536;
    UpdateBucket({{CoefficientsOf(mode), t}});
    for (size_t i = 0; i < 65536; ++i) {
      const uint16_t bits = static_cast<uint16_t>(i);
      const bool nan = std::isnan(FromBits(type, bits));
      const bool same = nan ? std::isnan(FromBits(type, parameter[i])) : parameter[i] == bits;
      Expect(same, NameOf(mode, isa) + ", bits " + std::to_string(i));
    }
  }
}

size_t ThreadsOfProcess() {
  size_t count = 0;
  DIR* folder = opendir("/proc/self/task");
  if (folder == nullptr) return 0;
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

// 16 operations at once, each on tensors of its own: right results, and one team of threads for all of them.
void CheckManyAtOnce() {
  constexpr size_t kOperations = 16, kTeam = 3;
  SetTeamSize(kTeam);
  const Mode mode{Element::kFloat32, Element::kFloat32, false, Decay::kL2, false};
  std::vector<Case> cases;
  std::vector<std::vector<Case::Values>> expected;
  for (size_t i = 0; i < kOperations; ++i) {
    cases.emplace_back(mode, kChunk + 17 * i, i, i);
    expected.push_back(cases.back().Reference());
  }
  const size_t before = ThreadsOfProcess();
  std::vector<std::thread> callers;
  for (Case& one : cases) callers.emplace_back([&one] { UpdateBucket({one.Item()}); });
  for (std::thread& caller : callers) caller.join();
  Expect(ThreadsOfProcess() <= before + kTeam - 1, "more threads than the team's");
  for (size_t i = 0; i < kOperations; ++i) cases[i].Check(expected[i], "operation " + std::to_string(i) + " of many");
}

// 1,000 steps of a bucket of all modes that update in place, with gradients of every magnitude.
uint64_t DigestOfTraining() {
  std::vector<Case> cases;
  for (const Mode& mode : AllModes()) {
    if (!mode.assign) cases.emplace_back(mode, 100 + cases.size(), cases.size() % 16, cases.size());
  }
  Random random(7);
  for (int step = 0; step < 1000; ++step) {
    std::vector<BucketItem> bucket;
    for (Case& one : cases) {
      one.SetGradient(&random);
      bucket.push_back(one.Item());
      bucket.back().coefficients.learning_rate = 0.01f / static_cast<float>(1 + step % 10);
    }
    UpdateBucket(bucket);
  }
  uint64_t digest = 14695981039346656037u;
  for (Case& one : cases) digest = one.Digest(digest);
  return digest;
}

}  // namespace

int main() {
  std::vector<std::string> isas;
  for (std::string rest = SupportedImplementations(); !rest.empty();) {
    const size_t space = rest.find(' ');
    isas.push_back(rest.substr(0, space));
    rest = space == std::string::npos ? "" : rest.substr(space + 1);
  }
  uint64_t digest = 0;
  for (const std::string& isa : isas) {
    Expect(UseImplementation(isa.c_str()) && isa == ActiveImplementation().name, isa + " can't be chosen");
    for (size_t threads : {1, 3}) {
      SetTeamSize(threads);
      const uint64_t found = DigestOfTraining();
      if (digest == 0) digest = found;
      Expect(found == digest, isa + ": another digest");
    }
    CheckSizes(isa);
    CheckSkip(isa);
    CheckNorm(isa);
    CheckConversions(isa);
  }
  CheckManyAtOnce();
  Expect(!UseImplementation("avx1024"), "an unknown instruction set was accepted");
  std::fprintf(stderr, "instruction sets: %s; %d failures\n", SupportedImplementations(), failures);
  std::printf("%016" PRIx64 "\n", digest);
  return failures > 0;
}
