// SPDX-License-Identifier: Apache-2.0

// The streams of the second memory. As on a GPU, what is launched in a stream runs later, after what was launched in it
// before, and the launch returns at once.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>

namespace second_memory {
// The subject of a line of the log. The names are in streams.cc.
enum class What { kHostToHost, kToDevice, kToHost, kOnDevice, kKernel, kProduct, kHostOperation };

// Appends `work` to a stream. The null stream waits for all others, and for its own work.
cudaError_t Launch(cudaStream_t stream, What what, size_t bytes, std::function<void()> work, const char* memory = "-");

// Waits until all streams are idle.
void WaitForDevice();

// Microseconds of the clock that Python's time.monotonic reads.
long Now();

// Appends a line to SECOND_MEMORY_LOG: what, bytes, the kind of host memory of a copy, start and end.
void Log(What what, size_t bytes, const char* memory, long start, long end);
}  // namespace second_memory
