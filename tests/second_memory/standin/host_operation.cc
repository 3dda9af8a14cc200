// SPDX-License-Identifier: Apache-2.0

// The package's operation, with a line in the log for each launch. `timeline.py` makes MindSpore launch this one, which
// runs the operation of the library that SECOND_MEMORY_HOST_LIBRARY names.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>

#include "memory.h"
#include "streams.h"

extern "C" int AdamAssign(int count, void** data, int* ndims, int64_t** shapes, const char** dtypes, void* stream,
                          void* extra) {
  static const auto run = [] {
    const char* path = getenv("SECOND_MEMORY_HOST_LIBRARY");
    void* library = path ? dlopen(path, RTLD_NOW) : nullptr;
    void* found = library ? dlsym(library, "AdamAssign") : nullptr;
    if (!found) second_memory::Fail("no AdamAssign in SECOND_MEMORY_HOST_LIBRARY=%s", path ? path : "");
    return reinterpret_cast<decltype(&AdamAssign)>(found);
  }();
  const long start = second_memory::Now();
  const int status = run(count, data, ndims, shapes, dtypes, stream, extra);
  second_memory::Log(second_memory::What::kHostOperation, 0, "-", start, second_memory::Now());
  return status;
}
