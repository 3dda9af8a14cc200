// What the library exports: the operation in the form that MindSpore's ops.Custom(func_type="aot") launches, and a
// few questions that the Python side asks through ctypes. No MindSpore header is needed for either.

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "isa.h"
#include "kernel.h"
#include "team.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace mindspore_offload {
namespace {

// Returned to MindSpore, which raises an error that carries the number. Nothing has been written by then.
enum Status : int {
  kOk = 0,
  kBadCount = 1,    // the number of inputs and outputs is not 2 + 4 * tensors + 1
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

constexpr int kLeading = 2;  // coefficients and rows, before the tensors
constexpr size_t kColumns = 7;
static_assert(sizeof(AdamCoefficients) == kColumns * sizeof(float), "a row of the coefficient tensor");

Status ReadBucket(const Launch& launch, std::vector<BucketItem>* bucket) {
  const int tensors = (launch.count - kLeading - 1) / 4;
  if (tensors < 1 || launch.count != kLeading + 4 * tensors + 1) return kBadCount;
  if (launch.data == nullptr || launch.ndims == nullptr || launch.shapes == nullptr || launch.dtypes == nullptr) {
    return kBadPointer;
  }
  for (int i = 0; i < launch.count - 1; ++i) {  // the output is a token that is never written
    if (launch.data[i] == nullptr) return kBadPointer;
    if (!launch.HasType(i, i == 1 ? "int32" : "float32")) return kBadType;
  }
  const size_t floats = launch.Size(0);
  if (floats == 0 || floats % kColumns != 0) return kBadShape;
  if (launch.Size(1) != static_cast<size_t>(tensors)) return kBadShape;

  const auto* coefficients = static_cast<const AdamCoefficients*>(launch.data[0]);
  const auto* rows = static_cast<const int32_t*>(launch.data[1]);
  bucket->reserve(tensors);
  for (int i = 0; i < tensors; ++i) {
    const int w = kLeading + i, m = w + tensors, v = m + tensors, g = v + tensors;
    const size_t size = launch.Size(w);
    if (size == 0 || launch.Size(m) != size || launch.Size(v) != size || launch.Size(g) != size) return kBadShape;
    if (rows[i] < 0 || static_cast<size_t>(rows[i]) >= floats / kColumns) return kBadRow;
    bucket->push_back({coefficients[rows[i]],
                       {static_cast<float*>(launch.data[w]), static_cast<float*>(launch.data[m]),
                        static_cast<float*>(launch.data[v]), static_cast<const float*>(launch.data[g]), size}});
  }
  return kOk;
}

}  // namespace
}  // namespace mindspore_offload

// Inputs: coefficients (rows, 7) float32; the row of each tensor (tensors,) int32; then the parameters, their first
// moments, their second moments and their gradients. Output: a token that orders the operation in the graph.
EXPORT int AdamInPlace(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                       void* /*extra*/) try {
  std::vector<mindspore_offload::BucketItem> bucket;
  const auto status = mindspore_offload::ReadBucket({count, data, ndims, shapes, dtypes}, &bucket);
  if (status != mindspore_offload::kOk) return status;
  mindspore_offload::UpdateBucket(bucket);
  return mindspore_offload::kOk;
} catch (const std::bad_alloc&) {
  return mindspore_offload::kNoMemory;
}

EXPORT const char* MindsporeOffloadIsa() { return mindspore_offload::IsaName(mindspore_offload::ActiveIsa()); }

EXPORT const char* MindsporeOffloadSupportedIsas() { return mindspore_offload::SupportedIsas(); }

EXPORT bool MindsporeOffloadSetIsa(const char* name) { return mindspore_offload::SetIsa(name); }

EXPORT size_t MindsporeOffloadThreads() { return mindspore_offload::TeamSize(); }

EXPORT void MindsporeOffloadSetThreads(size_t threads) { mindspore_offload::SetTeamSize(threads); }
