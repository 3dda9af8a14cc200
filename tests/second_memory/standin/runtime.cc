// SPDX-License-Identifier: Apache-2.0

// A CUDA runtime without a GPU: the functions of libcudart that MindSpore calls.
//
// Device memory is mapped twice. The address that is given out is inaccessible (PROT_NONE), so host code that touches
// it dies of a segmentation fault. The stand-in itself uses the second mapping, the twin.
//
// A copy from or to host memory that is not pinned has been done when it returns, as on a GPU. Other copies and kernels
// run in their stream.
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "memory.h"
#include "streams.h"

namespace second_memory {
namespace {
struct Block {
  char *device, *twin;
  size_t size;
};

constexpr size_t kPage = 4096;
constexpr size_t kTotal = size_t{8} << 30;

// Never destroyed: MindSpore's threads outlive main.
std::mutex& lock = *new std::mutex;
std::map<const char*, Block>& blocks = *new std::map<const char*, Block>;
std::map<const char*, size_t>& pinned = *new std::map<const char*, size_t>;
size_t used = 0;

const Block* BlockOf(const void* address) {
  const auto* byte = static_cast<const char*>(address);
  const auto after = blocks.upper_bound(byte);
  if (after == blocks.begin()) return nullptr;
  const Block& block = std::prev(after)->second;
  return byte < block.device + block.size ? &block : nullptr;
}

bool IsPinned(const void* address) {
  std::lock_guard<std::mutex> guard(lock);
  const auto* byte = static_cast<const char*>(address);
  const auto after = pinned.upper_bound(byte);
  return after != pinned.begin() && byte < std::prev(after)->first + std::prev(after)->second;
}

struct Direction {
  cudaMemcpyKind kind;
  What what;
};
// Indexed by: is the source on the device, is the target.
constexpr Direction kDirections[2][2] = {
    {{cudaMemcpyHostToHost, What::kHostToHost}, {cudaMemcpyHostToDevice, What::kToDevice}},
    {{cudaMemcpyDeviceToHost, What::kToHost}, {cudaMemcpyDeviceToDevice, What::kOnDevice}},
};

cudaError_t Copy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const bool to_device = IsDevice(target), from_device = IsDevice(source);
  const Direction& is = kDirections[from_device][to_device];
  if (kind != is.kind && kind != cudaMemcpyDefault) {
    Fail("a copy of %zu bytes says kind %d, but its kind is %d", bytes, kind, is.kind);
  }
  const bool is_pageable = !(to_device || IsPinned(target)) || !(from_device || IsPinned(source));
  const char* memory = to_device && from_device ? "-" : is_pageable ? "pageable" : "pinned";
  Launch(
      stream, is.what, bytes, [to = TwinOf(target), from = TwinOf(source), bytes] { memmove(to, from, bytes); },
      memory);
  return is_pageable ? cudaStreamSynchronize(stream) : cudaSuccess;
}

cudaError_t Set(void* target, int value, size_t bytes, cudaStream_t stream) {
  return Launch(stream, What::kKernel, bytes, [to = OfKernel(target), value, bytes] { memset(to, value, bytes); });
}
}  // namespace

void Fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("second memory: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  abort();
}

bool IsDevice(const void* address) {
  std::lock_guard<std::mutex> guard(lock);
  return BlockOf(address) != nullptr;
}

void* TwinOf(const void* address) {
  std::lock_guard<std::mutex> guard(lock);
  const Block* block = BlockOf(address);
  if (!block) return const_cast<void*>(address);
  return block->twin + (static_cast<const char*>(address) - block->device);
}

void RefuseHostAddress(const void* address) {
  if (!IsDevice(address)) Fail("a kernel got the host address %p", address);
}
}  // namespace second_memory

// The function that build.py's stubs call.
extern "C" void second_memory_stub(const char* name) {
  second_memory::Fail("the stand-in has no %s; if a test needs it, write it in standin/", name);
}

using second_memory::Copy;

extern "C" {
cudaError_t cudaMalloc(void** address, size_t bytes) {
  namespace m = second_memory;
  const size_t size = (bytes + m::kPage - 1) / m::kPage * m::kPage;
  const int file = memfd_create("second_memory", 0);
  if (ftruncate(file, size)) return cudaErrorMemoryAllocation;
  void* device = mmap(nullptr, size, PROT_NONE, MAP_SHARED, file, 0);
  void* twin = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (device == MAP_FAILED || twin == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::lock_guard<std::mutex> guard(m::lock);
  m::blocks[static_cast<char*>(device)] = {static_cast<char*>(device), static_cast<char*>(twin), size};
  m::used += size;
  *address = device;
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  namespace m = second_memory;
  m::WaitForDevice();
  std::lock_guard<std::mutex> guard(m::lock);
  const auto found = m::blocks.find(static_cast<char*>(address));
  if (found == m::blocks.end()) m::Fail("free of %p, which is not the start of device memory", address);
  const m::Block block = found->second;
  m::blocks.erase(found);
  m::used -= block.size;
  munmap(block.device, block.size);
  munmap(block.twin, block.size);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  if (posix_memalign(address, second_memory::kPage, bytes)) return cudaErrorMemoryAllocation;
  return cudaHostRegister(*address, bytes, 0);
}
cudaError_t cudaFreeHost(void* address) {
  second_memory::WaitForDevice();
  cudaHostUnregister(address);
  free(address);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* address, size_t bytes, unsigned) {
  std::lock_guard<std::mutex> guard(second_memory::lock);
  second_memory::pinned[static_cast<char*>(address)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* address) {
  std::lock_guard<std::mutex> guard(second_memory::lock);
  second_memory::pinned.erase(static_cast<char*>(address));
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return Copy(target, source, bytes, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return Copy(target, source, bytes, kind, stream);
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  return second_memory::Set(target, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  return second_memory::Set(target, value, bytes, stream);
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *total = second_memory::kTotal;
  *available = second_memory::kTotal - second_memory::used;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  const char* given = getenv("SECOND_MEMORY_DEVICES");  // one for each rank of a training
  *count = given ? atoi(given) : 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
#undef cudaGetDeviceProperties  // a newer runtime's header renames it
// An A100, as far as MindSpore asks.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "second memory");
  found->totalGlobalMem = second_memory::kTotal;
  found->major = 8;
  found->multiProcessorCount = 108;
  found->warpSize = 32;
  found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxThreadsPerMultiProcessor = 2048;
  found->maxGridSize[0] = 2147483647;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->sharedMemPerBlock = 49152;
  found->sharedMemPerMultiprocessor = 167936;
  found->regsPerBlock = 65536;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the second memory"; }
const char* cudaGetErrorName(cudaError_t) { return "second memory"; }
}
