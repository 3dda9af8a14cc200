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
  float gradient_scale;   // 1 / loss_scale
  float skip;             // 1 if this step is not to be taken, because the norm is not finite; else 0
  float beta1;
  float beta2;
  float nesterov;  // 0 or 1
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

// The update of a block of `size` elements, in three parts. Everything is float32, and every operation rounds on its
// own (the library is compiled with -ffp-contract=off), so a scalar loop, any vector width and any split of a tensor
// end in the same bits.
//
// One loop for all three would be fewer instructions, but it would walk through four tensors at once, and where these
// lie at unlucky addresses the caches of some CPUs take their lines for one another: it took up to twice as long.

// The gradient that the moments take: clipped, with its L2 penalty, and unscaled. Without the weight there is no
// penalty, and whoever has it has clipped already, because that comes first.
ALWAYS_INLINE void PrepareGradient(const AdamCoefficients& c, const float* __restrict w,
                                   const float* __restrict gradient, float* __restrict g, size_t size) {
  const AdamCoefficients k = c;  // a copy, so that no store through a pointer can be thought to change it
  // A decay of 0 means that none is computed at all, so that an infinite weight does not become NaN.
  if (k.weight_decay == 0.0f) {
    for (size_t i = 0; i < size; ++i) g[i] = gradient[i] * k.clip * k.gradient_scale;
  } else if (w != nullptr) {
    for (size_t i = 0; i < size; ++i) g[i] = (gradient[i] * k.clip + w[i] * k.weight_decay) * k.gradient_scale;
  } else {
    for (size_t i = 0; i < size; ++i) g[i] = gradient[i] * k.gradient_scale;
  }
}

template <bool kNesterov>
ALWAYS_INLINE void UpdateMoments(const AdamCoefficients& c, const float* __restrict g, float* __restrict m,
                                 float* __restrict v, float* __restrict delta, size_t size) {
  const AdamCoefficients k = c;
  const float one_minus_beta1 = 1.0f - k.beta1;
  const float one_minus_beta2 = 1.0f - k.beta2;
  for (size_t i = 0; i < size; ++i) {
    m[i] = m[i] * k.beta1 + one_minus_beta1 * g[i];
    v[i] = v[i] * k.beta2 + one_minus_beta2 * g[i] * g[i];
    const float direction = kNesterov ? m[i] * k.beta1 + one_minus_beta1 * g[i] : m[i];
    delta[i] = -k.learning_rate * direction / (std::sqrt(v[i]) + k.eps);
  }
}

ALWAYS_INLINE void UpdateWeights(const AdamCoefficients& c, const float* __restrict delta, float* __restrict w,
                                 size_t size) {
  const float decay = c.decoupled_decay;
  if (decay == 0.0f) {
    for (size_t i = 0; i < size; ++i) w[i] = w[i] + delta[i];
  } else {
    for (size_t i = 0; i < size; ++i) w[i] = (w[i] - w[i] * decay) + delta[i];
  }
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ADAM_H_
