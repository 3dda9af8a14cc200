// The Adam update of one tensor. This header is the whole mathematics of the package's native operation.
//
// Kingma and Ba, "Adam: A Method for Stochastic Optimization", in the form at the end of section 2: the bias
// corrections are folded into the step size, so eps is added to the *uncorrected* root ("epsilon hat"). AdamW
// (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2) is the same update after a decay of the
// weight, with an eps that is corrected as the root is.

#ifndef MINDSPORE_OFFLOAD_CSRC_ADAM_H_
#define MINDSPORE_OFFLOAD_CSRC_ADAM_H_

#include <cmath>
#include <cstddef>

#include "isa.h"

namespace mindspore_offload {

// One row of the coefficient tensor: what a step needs to know beside the tensors. The order is that of
// the columns in coefficients.py.
struct AdamCoefficients {
  float learning_rate;    // bias-corrected: lr * sqrt(1 - beta2^t) / (1 - beta1^t)
  float weight_decay;     // L2 penalty times loss_scale, because it is added before the gradient is unscaled
  float decoupled_decay;  // of AdamW: lr * weight decay, the part of the weight that is taken off it
  float eps;              // of AdamW: times sqrt(1 - beta2^t), which puts it at the corrected root
  float clip;             // what a gradient is multiplied with first: at most 1, to bound the norm of all
  float skip;             // 1 if this step is not to be taken, because the norm is not finite; else 0
  float beta1;
  float beta2;
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

enum class Decay { kNone, kL2, kDecoupled };

// The update of `size` elements, everything in float32. Every line rounds on its own (the library is compiled with
// -ffp-contract=off), so a scalar loop, any vector width and any split of the range end in the same bits.
template <Decay kDecay, bool kNesterov, bool kReturnDelta>
ALWAYS_INLINE void UpdateLoop(const AdamCoefficients& c, float* __restrict w, float* __restrict m, float* __restrict v,
                              const float* __restrict gradient, size_t size) {
  const AdamCoefficients k = c;  // a copy, so that no store through w, m or v can be thought to change it
  const float one_minus_beta1 = 1.0f - k.beta1;
  const float one_minus_beta2 = 1.0f - k.beta2;

  for (size_t i = 0; i < size; ++i) {
    float g = gradient[i] * k.clip;
    if (kDecay == Decay::kL2) g = g + w[i] * k.weight_decay;
    if (kDecay == Decay::kDecoupled) w[i] = w[i] - w[i] * k.decoupled_decay;
    g = g * k.gradient_scale;
    m[i] = m[i] * k.beta1 + one_minus_beta1 * g;
    v[i] = v[i] * k.beta2 + one_minus_beta2 * g * g;
    const float direction = kNesterov ? m[i] * k.beta1 + one_minus_beta1 * g : m[i];
    const float delta = -k.learning_rate * direction / (std::sqrt(v[i]) + k.eps);
    w[i] = kReturnDelta ? delta : w[i] + delta;
  }
}

template <Decay kDecay, bool kReturnDelta = false>
ALWAYS_INLINE void UpdateWith(const AdamCoefficients& c, float* w, float* m, float* v, const float* gradient,
                              size_t size) {
  if (c.nesterov != 0.0f) {
    UpdateLoop<kDecay, true, kReturnDelta>(c, w, m, v, gradient, size);
  } else {
    UpdateLoop<kDecay, false, kReturnDelta>(c, w, m, v, gradient, size);
  }
}

// A decay of 0 means that none is computed at all, so that an infinite weight does not become NaN.
ALWAYS_INLINE void UpdateFloats(const AdamCoefficients& c, const AdamTensors& t, size_t begin, const float* gradient,
                                size_t size) {
  float* m = t.moment1 + begin;
  float* v = t.moment2 + begin;
  if (t.weight == nullptr) {
    // The weight is not here, so whoever has it decays. An L2 penalty comes after the clipping: then that is done too.
    AdamCoefficients rest = c;
    if (c.weight_decay != 0.0f) rest.clip = 1.0f;
    UpdateWith<Decay::kNone, true>(rest, t.delta + begin, m, v, gradient, size);
  } else if (c.weight_decay != 0.0f) {
    UpdateWith<Decay::kL2>(c, t.weight + begin, m, v, gradient, size);
  } else if (c.decoupled_decay != 0.0f) {
    UpdateWith<Decay::kDecoupled>(c, t.weight + begin, m, v, gradient, size);
  } else {
    UpdateWith<Decay::kNone>(c, t.weight + begin, m, v, gradient, size);
  }
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ADAM_H_
