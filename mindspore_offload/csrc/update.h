// The update of a part of one parameter of any element type: 16-bit elements are widened and rounded a block at a time
// around the float32 arithmetic of adam.h.

#ifndef MINDSPORE_OFFLOAD_CSRC_UPDATE_H_
#define MINDSPORE_OFFLOAD_CSRC_UPDATE_H_

#include <algorithm>
#include <cstring>

#include "adam.h"
#include "half.h"

namespace mindspore_offload {

// Elements of a block. What a block touches, at most 20 bytes an element, stays in the first cache.
constexpr size_t kBlock = 256;

// A parameter that is not its master rounded has been changed by somebody else since the last step, by a checkpoint for
// example: it wins, and becomes the master.
template <class Conversion, class Half>
ALWAYS_INLINE void AdoptOutsideChanges(const Half* parameter, float* master, size_t size) {
  Half rounded[kBlock];
  Conversion::Narrow(master, rounded, size);
  if (std::memcmp(rounded, parameter, size * sizeof(Half)) == 0) return;
  for (size_t i = 0; i < size; ++i) {
    if (rounded[i].bits != parameter[i].bits) master[i] = ToFloat(parameter[i]);
  }
}

template <class Conversion, class Half>
ALWAYS_INLINE void UpdateMasters(const AdamCoefficients& c, const AdamTensors& t, size_t begin, const float* gradient,
                                 size_t size) {
  AdoptOutsideChanges<Conversion>(static_cast<const Half*>(t.parameter) + begin, t.weight + begin, size);
  UpdateFloats(c, t, begin, gradient, size);
  Conversion::Narrow(t.weight + begin, static_cast<Half*>(t.rounded) + begin, size);
}

// The gradient of a block as float32: itself, or widened into `buffer`.
template <class Conversion>
ALWAYS_INLINE const float* WideGradient(const AdamTensors& t, size_t begin, float* buffer, size_t size) {
  switch (t.gradient_type) {
    case Element::kFloat16:
      Conversion::Widen(static_cast<const Float16*>(t.gradient) + begin, buffer, size);
      return buffer;
    case Element::kBFloat16:
      Conversion::Widen(static_cast<const BFloat16*>(t.gradient) + begin, buffer, size);
      return buffer;
    default:
      return static_cast<const float*>(t.gradient) + begin;
  }
}

// Updates the elements [begin, end) of one parameter.
template <class Conversion>
ALWAYS_INLINE void UpdateRange(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  if (t.parameter_type == Element::kFloat32 && t.gradient_type == Element::kFloat32) {
    UpdateFloats(c, t, begin, static_cast<const float*>(t.gradient) + begin, end - begin);
    return;
  }
  float buffer[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t size = std::min(kBlock, end - i);
    const float* gradient = WideGradient<Conversion>(t, i, buffer, size);
    switch (t.parameter_type) {
      case Element::kFloat16:
        UpdateMasters<Conversion, Float16>(c, t, i, gradient, size);
        break;
      case Element::kBFloat16:
        UpdateMasters<Conversion, BFloat16>(c, t, i, gradient, size);
        break;
      default:
        UpdateFloats(c, t, i, gradient, size);
    }
  }
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_UPDATE_H_
