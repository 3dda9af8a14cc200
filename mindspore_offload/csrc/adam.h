// The Adam update of one tensor. This header is the whole mathematics of the package's native operation.
//
// Kingma and Ba, "Adam: A Method for Stochastic Optimization", in the form at the end of section 2: the bias
// corrections are folded into the step size, so eps is added to the *uncorrected* root ("epsilon hat").

#ifndef MINDSPORE_OFFLOAD_CSRC_ADAM_H_
#define MINDSPORE_OFFLOAD_CSRC_ADAM_H_

#include <cmath>
#include <cstddef>

#include "isa.h"

namespace mindspore_offload {

// One row of the coefficient tensor: what a step needs to know beside the tensors. The order is that of
// the columns in coefficients.py.
struct AdamCoefficients {
  float learning_rate;  // bias-corrected: lr * sqrt(1 - beta2^t) / (1 - beta1^t)
  float weight_decay;   // L2 penalty times loss_scale, because it is added before the gradient is unscaled
  float beta1;
  float beta2;
  float eps;
  float gradient_scale;  // 1 / loss_scale
  float nesterov;        // 0 or 1
};

// What the elements of a parameter or of a gradient are.
enum class Element { kFloat32, kFloat16, kBFloat16 };

// The tensors of one parameter; all that are there have `size` elements. A float32 parameter that can be reached is
// updated in place: then `weight` is it. If it can't, `weight` is null and the difference is written to `delta`. With a
// 16-bit parameter, `weight` is its float32 master, and the rounded result is written to `rounded`.
struct AdamTensors {
  Element parameter_type;
  Element gradient_type;
  float* weight;
  float* delta;
  const void* parameter;  // the 16-bit parameter as it is now
  void* rounded;          // may be the parameter itself
  float* moment1;
  float* moment2;
  const void* gradient;
  size_t size;
};

// The update of `size` elements, everything in float32. Every line rounds on its own (the library is compiled with
// -ffp-contract=off), so a scalar loop, any vector width and any split of the range end in the same bits.
template <bool kDecay, bool kNesterov, bool kReturnDelta>
ALWAYS_INLINE void UpdateLoop(const AdamCoefficients& c, float* __restrict w, float* __restrict m, float* __restrict v,
                              const float* __restrict gradient, size_t size) {
  const AdamCoefficients k = c;  // a copy, so that no store through w, m or v can be thought to change it
  const float one_minus_beta1 = 1.0f - k.beta1;
  const float one_minus_beta2 = 1.0f - k.beta2;

  for (size_t i = 0; i < size; ++i) {
    float g = gradient[i];
    if (kDecay) g = g + w[i] * k.weight_decay;
    g = g * k.gradient_scale;
    m[i] = m[i] * k.beta1 + one_minus_beta1 * g;
    v[i] = v[i] * k.beta2 + one_minus_beta2 * g * g;
    const float direction = kNesterov ? m[i] * k.beta1 + one_minus_beta1 * g : m[i];
    const float delta = -k.learning_rate * direction / (std::sqrt(v[i]) + k.eps);
    w[i] = kReturnDelta ? delta : w[i] + delta;
  }
}

// A `weight_decay` of 0 means that no decay is computed at all, so that an infinite weight does not become NaN. A
// returned difference is of a gradient that has the decay in it: the weight is not here.
ALWAYS_INLINE void UpdateFloats(const AdamCoefficients& c, const AdamTensors& t, size_t begin, const float* gradient,
                                size_t size) {
  float* m = t.moment1 + begin;
  float* v = t.moment2 + begin;
  const bool nesterov = c.nesterov != 0.0f;
  if (t.weight == nullptr) {
    float* delta = t.delta + begin;
    if (nesterov) {
      UpdateLoop<false, true, true>(c, delta, m, v, gradient, size);
    } else {
      UpdateLoop<false, false, true>(c, delta, m, v, gradient, size);
    }
    return;
  }
  float* w = t.weight + begin;
  const bool decay = c.weight_decay != 0.0f;
  if (decay && nesterov) {
    UpdateLoop<true, true, false>(c, w, m, v, gradient, size);
  } else if (decay) {
    UpdateLoop<true, false, false>(c, w, m, v, gradient, size);
  } else if (nesterov) {
    UpdateLoop<false, true, false>(c, w, m, v, gradient, size);
  } else {
    UpdateLoop<false, false, false>(c, w, m, v, gradient, size);
  }
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ADAM_H_
