// SPDX-License-Identifier: Apache-2.0

// The tensors that the kernel works on: raw memory with an element type and a size.

#ifndef MINDSPORE_OFFLOAD_CSRC_TENSORS_H_
#define MINDSPORE_OFFLOAD_CSRC_TENSORS_H_

#include <cstddef>
#include <cstdint>

namespace mindspore_offload {

// The element type of a parameter, a gradient or a moment.
enum class Element { kFloat32, kFloat16, kBFloat16 };

inline size_t BytesOf(Element type) { return type == Element::kFloat32 ? 4 : 2; }

// The tensors of one parameter. All that are present have `size` elements. There are three kinds of parameters:
//
//   parameter                 | weight        | delta      | parameter       | rounded
//   float32, within reach     | the parameter | null       | null            | null
//   float32, on a device      | null          | the result | null            | null
//   float16 or bfloat16       | its master    | null       | its value now   | the result, may be `parameter`
//
// `delta` receives the difference that the device then adds to the parameter.
//
// Moments are float32, or bfloat16 with stochastic rounding, whose random bits are those of the parameter's `key` and
// of the elements from `first_element` on: a shard does not begin with element 0.
struct AdamTensors {
  Element parameter_type;
  Element gradient_type;
  Element moment_type;
  float* weight;
  float* delta;
  const void* parameter;
  void* rounded;
  void* moment1;
  void* moment2;
  const void* gradient;
  size_t size;
  uint32_t key;
  size_t first_element;
};

struct Gradient {
  Element type;
  const void* data;
  size_t size;
};

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_TENSORS_H_
