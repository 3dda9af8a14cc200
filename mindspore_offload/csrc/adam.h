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

// The tensors of one parameter; all have `size` elements.
struct AdamTensors {
  float* parameter;
  float* moment1;
  float* moment2;
  const float* gradient;
  size_t size;
};

// Every line rounds to float32 on its own (the library is compiled with -ffp-contract=off), so a scalar loop, any
// vector width and any split of the range end in the same bits.
template <bool kDecay, bool kNesterov>
ALWAYS_INLINE void UpdateLoop(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  float* __restrict w = t.parameter;
  float* __restrict m = t.moment1;
  float* __restrict v = t.moment2;
  const float* __restrict gradient = t.gradient;
  const AdamCoefficients k = c;  // a copy, so that no store through w, m or v can be thought to change it
  const float one_minus_beta1 = 1.0f - k.beta1;
  const float one_minus_beta2 = 1.0f - k.beta2;

  for (size_t i = begin; i < end; ++i) {
    float g = gradient[i];
    if (kDecay) g = g + w[i] * k.weight_decay;
    g = g * k.gradient_scale;
    m[i] = m[i] * k.beta1 + one_minus_beta1 * g;
    v[i] = v[i] * k.beta2 + one_minus_beta2 * g * g;
    const float direction = kNesterov ? m[i] * k.beta1 + one_minus_beta1 * g : m[i];
    const float delta = -k.learning_rate * direction / (std::sqrt(v[i]) + k.eps);
    w[i] = w[i] + delta;
  }
}

// Updates the elements [begin, end) of one parameter. `weight_decay` of 0 means that no decay is computed at all, so
// that an infinite weight does not become NaN.
ALWAYS_INLINE void UpdateRange(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  const bool decay = c.weight_decay != 0.0f;
  const bool nesterov = c.nesterov != 0.0f;
  if (decay && nesterov) {
    UpdateLoop<true, true>(c, t, begin, end);
  } else if (decay) {
    UpdateLoop<true, false>(c, t, begin, end);
  } else if (nesterov) {
    UpdateLoop<false, true>(c, t, begin, end);
  } else {
    UpdateLoop<false, false>(c, t, begin, end);
  }
}

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ADAM_H_
