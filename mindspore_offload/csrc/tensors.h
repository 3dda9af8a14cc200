// SPDX-License-Identifier: Apache-2.0

// The tensors that the kernel works on: raw memory with an element type and a size.

#ifndef MINDSPORE_OFFLOAD_CSRC_TENSORS_H_
#define MINDSPORE_OFFLOAD_CSRC_TENSORS_H_

#include <cstddef>
#include <cstdint>

#include "half.h"
#include "isa.h"
#include "moments.h"

namespace mindspore_offload {

// The element type of a parameter or a gradient.
enum class Element { kFloat32, kFloat16, kBFloat16 };

constexpr Element kElements[] = {Element::kFloat32, Element::kFloat16, Element::kBFloat16};

// Calls visit() with a value of the C++ type of the elements. All that depends on an element type passes through here,
// so a new one does not compile until it has its case.
template <class Visitor>
ALWAYS_INLINE auto VisitElement(Element type, const Visitor& visit) {
  switch (type) {
    case Element::kFloat32:
      return visit(float{});
    case Element::kFloat16:
      return visit(Float16{});
    case Element::kBFloat16:
      return visit(BFloat16{});
  }
  __builtin_unreachable();
}

// MindSpore's names of the element types.
constexpr const char* NameOf(float /*type*/) { return "float32"; }
constexpr const char* NameOf(Float16 /*type*/) { return "float16"; }
constexpr const char* NameOf(BFloat16 /*type*/) { return "bfloat16"; }

inline const char* NameOf(Element type) {
  return VisitElement(type, [](auto element) { return NameOf(element); });
}

ALWAYS_INLINE size_t BytesOf(Element type) {
  return VisitElement(type, [](auto element) ALWAYS_INLINE_LAMBDA { return sizeof(element); });
}

// The part of a parameter that the kernel reads and writes.
enum class Kind {
  kInPlace,     // float32: `weight` is the parameter itself
  kDifference,  // float32, out of reach: `result` receives the float32 difference that the device adds to it
  kMaster,      // 16 bits: `weight` is its float32 master, `parameter` its value now, `result` receives its new value,
                // and may be `parameter`
};

// The tensors of one parameter. All have `size` elements; those that its kind does not name are null.
struct AdamTensors {
  Kind kind;
  Element parameter_type;
  Element gradient_type;
  MomentFormat moment_format;
  float* weight;
  const void* parameter;
  void* result;
  void* moment1;
  void* moment2;
  const void* gradient;
  size_t size;
  uint32_t key;          // of the parameter, for stochastic rounding
  size_t first_element;  // the index in the parameter of the first element here: a shard does not begin with 0
};

struct Gradient {
  Element type;
  const void* data;
  size_t size;
};

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_TENSORS_H_
