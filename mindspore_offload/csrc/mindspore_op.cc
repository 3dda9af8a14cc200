// SPDX-License-Identifier: Apache-2.0

// The exports of the library: the operations in the form that MindSpore's ops.Custom(func_type="aot") launches, and a
// few functions that the Python side calls through ctypes. Neither needs a header of MindSpore.

#include <cstring>
#include <new>
#include <vector>

#include "abi.h"
#include "arguments.h"
#include "arithmetic.h"
#include "implementation.h"
#include "kernel.h"
#include "same_step.h"
#include "team.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace mindspore_offload {
namespace {

// Runs an operation. No exception leaves it: MindSpore calls it as C, and shows the number of the status.
template <class Operation>
int Guarded(const Operation& operation) noexcept {
  try {
    return operation();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kUnexpected;
  }
}

Status RunUpdate(const Launch& launch, Writeback writeback) {
  std::vector<BucketItem> bucket;
  const Status status = ReadBucket(launch, writeback, &bucket);
  if (status != kOk) return status;
  const GradientCopies copies = CopySharedGradients(&bucket);
  UpdateBucket(bucket);
  return kOk;
}

Status RunSums(const Launch& launch) {
  std::vector<Gradient> gradients;
  const Status status = ReadGradients(launch, &gradients);
  if (status != kOk) return status;
  const std::vector<double> sums = SumsOfSquares(gradients);
  std::memcpy(launch.data[launch.count - 1], sums.data(), sums.size() * sizeof(double));
  return kOk;
}

Status RunNorm(const Launch& launch) {
  SumsOfRanks sums;
  const Status status = ReadSums(launch, &sums);
  if (status == kOk) *launch.Floats(launch.count - 1) = NormOf(sums.gradients, sums.sums, sums.ranks);
  return status;
}

}  // namespace
}  // namespace mindspore_offload

using namespace mindspore_offload;

// arguments.h describes the inputs and outputs of all four.
EXPORT int AdamInPlace(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                       void* /*extra*/) noexcept {
  return Guarded([=] { return RunUpdate({count, data, ndims, shapes, dtypes}, Writeback::kInPlace); });
}

EXPORT int AdamAssign(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                      void* /*extra*/) noexcept {
  return Guarded([=] { return RunUpdate({count, data, ndims, shapes, dtypes}, Writeback::kAssign); });
}

EXPORT int SumsOfSquares(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                         void* /*extra*/) noexcept {
  return Guarded([=] { return RunSums({count, data, ndims, shapes, dtypes}); });
}

EXPORT int GlobalNorm(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                      void* /*extra*/) noexcept {
  return Guarded([=] { return RunNorm({count, data, ndims, shapes, dtypes}); });
}

// same_step.h describes the inputs and the output. It throws what the user has to read: MindSpore shows the text.
EXPORT int SameStep(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* /*stream*/,
                    void* /*extra*/) {
  return mindspore_offload::CheckSameStep({count, data, ndims, shapes, dtypes});
}

// The compiler that built this library, and its flags, which setup.py passes as a macro.
EXPORT const char* MindsporeOffloadBuild() noexcept {
#ifdef __clang__
  return __VERSION__ ": " MINDSPORE_OFFLOAD_FLAGS;
#else
  return "GCC " __VERSION__ ": " MINDSPORE_OFFLOAD_FLAGS;
#endif
}

EXPORT const char* MindsporeOffloadAbi() noexcept { return DescriptionOfAbi(); }

EXPORT const char* MindsporeOffloadChangedArithmetic() noexcept { return ChangedArithmetic(); }

EXPORT const char* MindsporeOffloadIsa() noexcept { return ActiveImplementation().name; }

EXPORT const char* MindsporeOffloadSupportedIsas() noexcept { return SupportedImplementations(); }

EXPORT bool MindsporeOffloadSetIsa(const char* name) noexcept { return UseImplementation(name); }

EXPORT size_t MindsporeOffloadThreads() noexcept { return TeamSize(); }

EXPORT void MindsporeOffloadSetThreads(size_t threads) noexcept { SetTeamSize(threads); }
