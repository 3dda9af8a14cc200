// SPDX-License-Identifier: Apache-2.0

// The second memory: what its kernels and copies may do with an address.
#pragma once
#include <cstddef>

namespace second_memory {
// True if `address` is in device memory.
bool IsDevice(const void* address);

// Where the host finds the bytes of a device address. Only the stand-in's own code may ask: it plays the device.
void* TwinOf(const void* address);

// The same for the argument of a kernel, which must be device memory.
template <class T>
T* OfKernel(T* address) {
  void RefuseHostAddress(const void*);
  RefuseHostAddress(address);
  return static_cast<T*>(TwinOf(address));
}

// Ends the process with a message; there is no way back from a wrong copy.
[[noreturn]] void Fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
}  // namespace second_memory
