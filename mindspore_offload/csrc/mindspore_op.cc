// What the library exports: the operation in the form that MindSpore's ops.Custom(func_type="aot") launches, and a
// few questions that the Python side asks through ctypes. No MindSpore header is needed for either.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "implementation.h"
#include "kernel.h"
#include "team.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace mindspore_offload {
namespace {

// Returned to MindSpore, which raises an error that carries the number. Nothing has been written by then.
enum Status : int {
  kOk = 0,
  kBadCount = 1,    // the number of inputs and outputs does not fit the number of rows
  kBadPointer = 2,  // a null pointer
  kBadType = 3,     // a dtype other than the one this input must have
  kBadShape = 4,    // tensors of one parameter differ in size, or one is empty
  kBadRow = 5,      // a row that the coefficient tensor does not have
  kNoMemory = 6,
};

// The arguments of one launch, as MindSpore gives them: inputs first, then outputs.
struct Launch {
  int count;
  void** data;
  const int* ndims;
  const int64_t* const* shapes;
  const char* const* dtypes;

  bool HasType(int i, const char* dtype) const { return dtypes[i] != nullptr && std::strcmp(dtypes[i], dtype) == 0; }

  bool IsFloat32(int i) const { return HasType(i, "float32"); }

  // False if argument i is of none of the types that parameters and gradients may have.
  bool ReadElement(int i, Element* element) const {
    *element = IsFloat32(i) ? Element::kFloat32 : HasType(i, "float16") ? Element::kFloat16 : Element::kBFloat16;
    return *element != Element::kBFloat16 || HasType(i, "bfloat16");
  }

  bool HasNullTable() const { return data == nullptr || ndims == nullptr || shapes == nullptr || dtypes == nullptr; }

  // Whether one of the first `used` arguments is a null pointer.
  bool HasNull(int used) const { return std::find(data, data + used, nullptr) != data + used; }

  float* Floats(int i) const { return static_cast<float*>(data[i]); }

  // Elements of argument i, or 0 if its shape is not one of a tensor with elements.
  size_t Size(int i) const {
    size_t size = 1;
    for (int d = 0; d < ndims[i]; ++d) {
      if (shapes[i] == nullptr || shapes[i][d] <= 0) return 0;
      if (__builtin_mul_overflow(size, static_cast<size_t>(shapes[i][d]), &size)) return 0;
    }
    return ndims[i] < 0 ? 0 : size;
  }
};

enum class Writeback { kInPlace, kAssign };

constexpr int kLeading = 2;  // coefficients and rows, before the tensors
constexpr size_t kColumns = 10;
static_assert(sizeof(AdamCoefficients) == kColumns * sizeof(float), "a row of the coefficient tensor");

// Where the tensors of parameter i of a bucket are among the arguments; -1 for what this writeback does not have.
struct Places {
  int parameter, moment1, moment2, gradient, master, result;
};

// The arguments of AdamInPlace or AdamAssign, whose order is described there. `tensors` is their number, and
// `halves` how many of them have 16 bits.
struct Layout {
  Writeback writeback;
  int tensors;
  int halves;

  int Inputs() const {
    return writeback == Writeback::kInPlace ? kLeading + 4 * tensors + halves : kLeading + 3 * tensors + 2 * halves;
  }

  int Outputs() const { return writeback == Writeback::kInPlace ? 1 : tensors; }

  // `half` counts the 16-bit parameters before this one, or is -1 if this one is float32.
  Places Of(int i, int half) const {
    const bool is_half = half >= 0;
    if (writeback == Writeback::kInPlace) {
      const int parameter = kLeading + i, master = kLeading + 4 * tensors + half;
      return {parameter, parameter + tensors, parameter + 2 * tensors, parameter + 3 * tensors, is_half ? master : -1,
              parameter};
    }
    const int moment1 = kLeading + i, parameter = kLeading + 3 * tensors + half;
    return {is_half ? parameter : -1,          moment1,     moment1 + tensors, moment1 + 2 * tensors,
            is_half ? parameter + halves : -1, Inputs() + i};
  }

  // The argument whose dtype is that of parameter i.
  int TypedBy(int i, int count) const { return writeback == Writeback::kInPlace ? kLeading + i : count - tensors + i; }
};

Status ReadTensors(const Launch& launch, const Places& at, Element parameter_type, AdamTensors* tensors) {
  const size_t size = launch.Size(at.moment1);
  if (size == 0) return kBadShape;
  for (int i : {at.parameter, at.moment2, at.gradient, at.master, at.result}) {
    if (i >= 0 && launch.Size(i) != size) return kBadShape;
  }
  Element gradient_type;
  if (!launch.ReadElement(at.gradient, &gradient_type)) return kBadType;
  for (int i : {at.moment1, at.moment2, at.master}) {
    if (i >= 0 && !launch.IsFloat32(i)) return kBadType;
  }
  *tensors = {};
  tensors->parameter_type = parameter_type;
  tensors->gradient_type = gradient_type;
  tensors->moment1 = launch.Floats(at.moment1);
  tensors->moment2 = launch.Floats(at.moment2);
  tensors->gradient = launch.data[at.gradient];
  tensors->size = size;
  if (at.master >= 0) {
    Element read_type;
    if (!launch.ReadElement(at.parameter, &read_type) || read_type != parameter_type) return kBadType;
    tensors->weight = launch.Floats(at.master);
    tensors->parameter = launch.data[at.parameter];
    tensors->rounded = launch.data[at.result];
  } else if (at.parameter >= 0) {
    tensors->weight = launch.Floats(at.parameter);
  } else {
    tensors->delta = launch.Floats(at.result);
  }
  return kOk;
}

Status ReadBucket(const Launch& launch, Writeback writeback, std::vector<BucketItem>* bucket) {
  if (launch.count <= kLeading) return kBadCount;
  if (launch.HasNullTable()) return kBadPointer;
  if (!launch.IsFloat32(0) || !launch.HasType(1, "int32")) return kBadType;
  const size_t floats = launch.Size(0);
  if (floats == 0 || floats % kColumns != 0) return kBadShape;
  const size_t rows_size = launch.Size(1);
  if (rows_size == 0 || rows_size >= static_cast<size_t>(launch.count)) return kBadCount;

  Layout layout{writeback, static_cast<int>(rows_size), 0};
  std::vector<Element> types(layout.tensors);
  for (int i = 0; i < layout.tensors; ++i) {
    const int typed_by = layout.TypedBy(i, launch.count);
    if (typed_by < kLeading || typed_by >= launch.count) return kBadCount;
    if (!launch.ReadElement(typed_by, &types[i])) return kBadType;
    layout.halves += types[i] != Element::kFloat32;
  }
  if (launch.count != layout.Inputs() + layout.Outputs()) return kBadCount;
  const int used = writeback == Writeback::kInPlace ? layout.Inputs() : launch.count;  // a token is never written
  if (launch.HasNull(used)) return kBadPointer;

  const auto* coefficients = static_cast<const AdamCoefficients*>(launch.data[0]);
  const auto* rows = static_cast<const int32_t*>(launch.data[1]);
  bucket->resize(layout.tensors);
  for (int i = 0, halves = 0; i < layout.tensors; ++i) {
    if (rows[i] < 0 || static_cast<size_t>(rows[i]) >= floats / kColumns) return kBadRow;
    BucketItem& item = (*bucket)[i];
    item.coefficients = coefficients[rows[i]];
    const bool is_half = types[i] != Element::kFloat32;
    const Status status = ReadTensors(launch, layout.Of(i, is_half ? halves++ : -1), types[i], &item.tensors);
    if (status != kOk) return status;
  }
  return kOk;
}

Status ReadGradients(const Launch& launch, std::vector<Gradient>* gradients) {
  if (launch.count < 2) return kBadCount;
  if (launch.HasNullTable() || launch.HasNull(launch.count)) return kBadPointer;
  const int output = launch.count - 1;
  if (!launch.IsFloat32(output)) return kBadType;
  if (launch.Size(output) != 1) return kBadShape;
  gradients->resize(output);
  for (int i = 0; i < output; ++i) {
    Gradient& gradient = (*gradients)[i];
    if (!launch.ReadElement(i, &gradient.type)) return kBadType;
    gradient.data = launch.data[i];
    gradient.size = launch.Size(i);
    if (gradient.size == 0) return kBadShape;
  }
  return kOk;
}

int RunUpdate(const Launch& launch, Writeback writeback) try {
  std::vector<BucketItem> bucket;
  const Status status = ReadBucket(launch, writeback, &bucket);
  if (status == kOk) UpdateBucket(bucket);
  return status;
} catch (const std::bad_alloc&) {
  return kNoMemory;
}

int RunNorm(const Launch& launch) try {
  std::vector<Gradient> gradients;
  const Status status = ReadGradients(launch, &gradients);
  if (status == kOk) *launch.Floats(launch.count - 1) = GlobalNorm(gradients);
  return status;
} catch (const std::bad_alloc&) {
  return kNoMemory;
}

}  // namespace
}  // namespace mindspore_offload

// Inputs of both updates: coefficients (rows, 10) float32; the row of each tensor (tensors,) int32; then lists of
// tensors. Here: the parameters, their first moments, their second moments, their gradients, and the masters of those
// parameters that have 16 bits. Output: a token that orders the operation in the graph.
EXPORT int AdamInPlace(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                       void* /*extra*/) {
  return mindspore_offload::RunUpdate({count, data, ndims, shapes, dtypes}, mindspore_offload::Writeback::kInPlace);
}

// The first moments, the second moments, the gradients, then those parameters that have 16 bits, and their masters.
// Outputs: of each float32 parameter what is to be added to it, of each other one its new value.
EXPORT int AdamAssign(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                      void* /*extra*/) {
  return mindspore_offload::RunUpdate({count, data, ndims, shapes, dtypes}, mindspore_offload::Writeback::kAssign);
}

// Inputs: gradients. Output: the norm of all of them together, (1,) float32.
EXPORT int GradientNorm(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                        void* /*extra*/) {
  return mindspore_offload::RunNorm({count, data, ndims, shapes, dtypes});
}

// What built this library, and with which flags: setup.py says.
EXPORT const char* MindsporeOffloadBuild() {
#ifdef __clang__
  return __VERSION__ ": " MINDSPORE_OFFLOAD_FLAGS;
#else
  return "GCC " __VERSION__ ": " MINDSPORE_OFFLOAD_FLAGS;
#endif
}

EXPORT const char* MindsporeOffloadIsa() { return mindspore_offload::ActiveImplementation().name; }

EXPORT const char* MindsporeOffloadSupportedIsas() { return mindspore_offload::SupportedImplementations(); }

EXPORT bool MindsporeOffloadSetIsa(const char* name) { return mindspore_offload::UseImplementation(name); }

EXPORT size_t MindsporeOffloadThreads() { return mindspore_offload::TeamSize(); }

EXPORT void MindsporeOffloadSetThreads(size_t threads) { mindspore_offload::SetTeamSize(threads); }
