// SPDX-License-Identifier: Apache-2.0

// The Adam update of one block of elements: the whole mathematics of the native operation.
//
// Kingma and Ba, "Adam: A Method for Stochastic Optimization", in the form at the end of section 2: the bias
// corrections are folded into the learning rate, so eps is added to the *uncorrected* root ("epsilon hat"). AdamW
// (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2) is the same update after a decay of the
// weight, with an eps corrected like the root.

#ifndef MINDSPORE_OFFLOAD_CSRC_ADAM_H_
#define MINDSPORE_OFFLOAD_CSRC_ADAM_H_

#include <cmath>
#include <cstddef>

#include "isa.h"

namespace mindspore_offload {

// One row of the coefficient tensor: the scalars of a step. The fields are the columns of abi.py, in order.
struct AdamCoefficients {
  float learning_rate;    // bias-corrected: lr * sqrt(1 - beta2^t) / (1 - beta1^t)
  float weight_decay;     // L2 penalty times loss_scale, because it is added before the gradient is unscaled
  float decoupled_decay;  // AdamW: lr * weight decay, the fraction by which the weight shrinks
  float eps;              // AdamW: times sqrt(1 - beta2^t), so that it is added to the corrected root
  float clip;             // at most 1: scales the gradient first, to bound the global norm
  float gradient_scale;   // 1 / loss_scale
  float step;             // number of the step, 0 in the first: stochastic rounding differs from step to step
  float skip;             // 1 if the step is skipped, because the norm is not finite; else 0
  float beta1;
  float beta2;
  float nesterov;  // 0 or 1
};

// The update of a block of `size` elements, in three parts. Everything is float32, and every operation rounds on its
// own (the library is compiled with -ffp-contract=off). So a scalar loop, any vector width and any split of a tensor
// give the same bits.
//
// A single loop would need fewer instructions, but would walk through four tensors at once. Where these lie at unlucky
// addresses, the caches of some CPUs confuse their lines: it took up to twice as long.

// Returns the gradient for the moments: clipped, with its L2 penalty, unscaled. That is `gradient` itself if none of
// these changes it, else `buffer`. Only the penalty needs the weight: `w` may be null if weight_decay is 0.
ALWAYS_INLINE const float* PreparedGradient(const AdamCoefficients& c, const float* __restrict w,
                                            const float* __restrict gradient, float* __restrict buffer, size_t size) {
  const AdamCoefficients k = c;  // a copy, which no store through a pointer can change
  // A decay of 0 is not computed at all, because 0 times an infinite weight would be NaN.
  if (k.weight_decay != 0.0f) {
    for (size_t i = 0; i < size; ++i) buffer[i] = (gradient[i] * k.clip + w[i] * k.weight_decay) * k.gradient_scale;
    return buffer;
  }
  if (k.clip == 1.0f && k.gradient_scale == 1.0f) return gradient;
  for (size_t i = 0; i < size; ++i) buffer[i] = gradient[i] * k.clip * k.gradient_scale;
  return buffer;
}

// The units in which UpdateMoments() gets and leaves the moments of a block: a format may keep them as multiples of a
// number of its own. The betas are in the units too, as what is left of a moment and what a gradient adds to it.
struct MomentUnits {
  float m, v, root_of_v;
  float decay_m, decay_v;
  float gain_m, gain_v;
};

// Units of 1. The products and quotients with them change no bit, and compilers leave them out.
ALWAYS_INLINE MomentUnits PlainUnits(const AdamCoefficients& c) {
  return {1.0f, 1.0f, 1.0f, c.beta1, c.beta2, 1.0f - c.beta1, 1.0f - c.beta2};
}

// Updates both moments and computes the difference that the step adds to the weight. Calls `draw` for each element: a
// format draws its random bits there, because roots and quotients leave the CPU time for something else.
template <bool kNesterov, class Drawing>
ALWAYS_INLINE void UpdateMoments(const AdamCoefficients& c, const MomentUnits& units, const float* __restrict g,
                                 float* __restrict m, float* __restrict v, float* __restrict delta, size_t size,
                                 Drawing draw) {
  const AdamCoefficients k = c;
  const MomentUnits u = units;
  // Both divided by the root of v's unit, so that no root has to be multiplied by it.
  const float rate = -k.learning_rate * u.m / u.root_of_v, eps = k.eps / u.root_of_v;
  for (size_t i = 0; i < size; ++i) {
    draw();
    m[i] = m[i] * u.decay_m + u.gain_m * g[i];
    v[i] = v[i] * u.decay_v + u.gain_v * g[i] * g[i];
    const float direction = kNesterov ? m[i] * k.beta1 + u.gain_m * g[i] : m[i];
    delta[i] = rate * direction / (std::sqrt(v[i]) + eps);
  }
}

// Shrinks the weight by the decoupled decay, then adds the difference.
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
