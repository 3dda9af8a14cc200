// The tensors that the kernel works on: raw memory with an element type and a size.

#ifndef MINDSPORE_OFFLOAD_CSRC_TENSORS_H_
#define MINDSPORE_OFFLOAD_CSRC_TENSORS_H_

#include <cstddef>

namespace mindspore_offload {

// The element type of a parameter or of a gradient.
enum class Element { kFloat32, kFloat16, kBFloat16 };

// The tensors of one parameter. All that are present have `size` elements. There are three kinds of parameters:
//
//   parameter                 | weight        | delta      | parameter       | rounded
//   float32, within reach     | the parameter | null       | null            | null
//   float32, on a device      | null          | the result | null            | null
//   float16 or bfloat16       | its master    | null       | its value now   | the result, may be `parameter`
//
// `delta` receives the difference that the device then adds to the parameter.
struct AdamTensors {
  Element parameter_type;
  Element gradient_type;
  float* weight;
  float* delta;
  const void* parameter;
  void* rounded;
  float* moment1;
  float* moment2;
  const void* gradient;
  size_t size;
};

struct Gradient {
  Element type;
  const void* data;
  size_t size;
};

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_TENSORS_H_
