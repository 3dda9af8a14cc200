// SPDX-License-Identifier: Apache-2.0

// One parameter with all tensors of its update, and a scalar reference of the update.

#ifndef MINDSPORE_OFFLOAD_TESTS_KERNEL_UPDATE_CASE_H_
#define MINDSPORE_OFFLOAD_TESTS_KERNEL_UPDATE_CASE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../../mindspore_offload/csrc/kernel.h"
#include "expect.h"

using mindspore_offload::AdamCoefficients;
using mindspore_offload::BucketItem;
using mindspore_offload::Element;
using mindspore_offload::MomentFormat;

uint16_t ToBits(Element type, float value);
float FromBits(Element type, uint16_t bits);

// A tensor between sentinels, which starts `shift` elements into its memory.
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
  MomentFormat moments = MomentFormat::kFloat32;

  bool IsHalf() const { return parameter != Element::kFloat32; }

  // True if the kernel has no weight and returns a difference.
  bool IsDifference() const { return assign && !IsHalf(); }
};

// Every combination, with moments in this format.
std::vector<Mode> AllModes(MomentFormat moments);

std::string NameOf(const Mode& mode, const std::string& isa);

AdamCoefficients CoefficientsOf(const Mode& mode);

class Case {
 public:
  Case(const Mode& mode, size_t size, size_t shift, uint64_t seed);

  using Gradients = float (Random::*)();
  void SetGradient(Random* random, Gradients gradients = &Random::Gradient);

  BucketItem Item();

  // All that an update of Item() can write, for one element.
  struct Values {
    float weight, delta, moment1, moment2;
    uint16_t half;
  };

  // Does what the device does with the result of an assign.
  void WriteBack();

  // The values after one update.
  std::vector<Values> Reference();

  // The values after a skipped step.
  std::vector<Values> Untouched();

  void Check(const std::vector<Values>& expected, const std::string& what);

  // FNV-1a over weights and states. All NaNs count as one: IEEE 754 leaves open which payload an operation on two of
  // them keeps.
  uint64_t Digest(uint64_t digest);

  // True if no weight and no state is infinite or NaN.
  bool IsFinite();

 private:
  // The memory of a moment.
  void* MemoryOf(int moment);

  // Rounds the moments of a block of expected values, from `begin`, to codes.
  void RoundToCodes(size_t begin, std::vector<Values>* expected);

  bool HasCodes() const { return mode_.moments == MomentFormat::kUint8; }

  // The moments of element i as float32.
  float Moment(int moment, size_t i);
  float Moment1(size_t i) { return Moment(1, i); }
  float Moment2(size_t i) { return Moment(2, i); }

  // The block of codes with element i of a moment.
  const void* BlockOf(int moment, size_t i);

  float FromHalf(size_t i) { return mode_.IsHalf() ? FromBits(mode_.parameter, parameter_.data()[i]) : 0.0f; }

  Mode mode_;
  size_t size_;
  Guarded<float> weight_, delta_, moment1_, moment2_, gradient_;
  Guarded<uint16_t> half_gradient_, parameter_, result_, narrow_moment1_, narrow_moment2_;
  Guarded<uint32_t> code_moment1_, code_moment2_;
};

#endif  // MINDSPORE_OFFLOAD_TESTS_KERNEL_UPDATE_CASE_H_
