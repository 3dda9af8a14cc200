// SPDX-License-Identifier: Apache-2.0

// One launch of an operation, as MindSpore's ops.Custom(func_type="aot") calls it.

#ifndef MINDSPORE_OFFLOAD_CSRC_LAUNCH_H_
#define MINDSPORE_OFFLOAD_CSRC_LAUNCH_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "moments.h"
#include "tensors.h"

namespace mindspore_offload {

// The result of a launch. MindSpore raises an error that shows the number. Nothing has been written then.
enum Status : int {
  kOk = 0,
  kBadCount = 1,    // the number of inputs and outputs does not fit the number of rows
  kBadPointer = 2,  // a null pointer
  kBadType = 3,     // a dtype that this argument can't have
  kBadShape = 4,    // a wrong width, an empty tensor, or tensors of one parameter that differ in size
  kBadRow = 5,      // a row that the coefficient tensor does not have, or a negative piece
  kNoMemory = 6,
  kBadDecay = 7,    // an L2 penalty for a parameter that is not among the arguments
  kUnexpected = 8,  // any other exception: none is known
};
constexpr int kStatuses = kUnexpected + 1;

// The arguments of a launch: inputs first, then outputs.
struct Launch {
  int count;
  void** data;
  const int* ndims;
  const int64_t* const* shapes;
  const char* const* dtypes;

  bool HasType(int i, const char* dtype) const { return dtypes[i] != nullptr && std::strcmp(dtypes[i], dtype) == 0; }

  bool IsFloat32(int i) const { return HasType(i, "float32"); }

  // Reads the element type of argument i. Returns false if no parameter or gradient can have it.
  bool ReadElement(int i, Element* element) const {
    const auto* found = std::find_if(std::begin(kElements), std::end(kElements),
                                     [=](Element each) { return HasType(i, NameOf(each)); });
    if (found == std::end(kElements)) return false;
    *element = *found;
    return true;
  }

  // Reads the format of a moment, argument i. Returns false if no format has its dtype.
  bool ReadMomentFormat(int i, MomentFormat* format) const {
    const auto* found = std::find_if(std::begin(kMomentFormats), std::end(kMomentFormats),
                                     [=](MomentFormat each) { return HasType(i, DtypeOf(each)); });
    if (found == std::end(kMomentFormats)) return false;
    *format = *found;
    return true;
  }

  bool HasNullTable() const { return data == nullptr || ndims == nullptr || shapes == nullptr || dtypes == nullptr; }

  // True if one of the first `used` arguments is a null pointer.
  bool HasNull(int used) const { return std::find(data, data + used, nullptr) != data + used; }

  float* Floats(int i) const { return static_cast<float*>(data[i]); }

  // The number of elements of argument i. 0 if a dimension is not positive or the product overflows.
  size_t Size(int i) const {
    size_t size = 1;
    for (int d = 0; d < ndims[i]; ++d) {
      if (shapes[i] == nullptr || shapes[i][d] <= 0) return 0;
      if (__builtin_mul_overflow(size, static_cast<size_t>(shapes[i][d]), &size)) return 0;
    }
    return ndims[i] < 0 ? 0 : size;
  }
};

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_LAUNCH_H_
