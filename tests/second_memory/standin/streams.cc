// SPDX-License-Identifier: Apache-2.0

// Each stream is a queue and a thread that works it off.
//
// SECOND_MEMORY_PACE=PRODUCT_MS,LINK_GB_S,MEMORY_GB_S makes what handles more than 64 KiB take a time instead of doing
// anything: a matrix product, a copy between the memories, and all other work. It is for pictures of a step, not for
// results.
#include "streams.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "memory.h"

namespace second_memory {
namespace {
constexpr const char* kNames[] = {"host_to_host", "to_device", "to_host", "on_device", "kernel", "product", "host"};
constexpr size_t kSmall = 64 * 1024;

class Stream {
 public:
  Stream() { std::thread(&Stream::Run, this).detach(); }

  void Push(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> guard(lock_);
      queue_.push_back(std::move(task));
      ++pushed_;
    }
    changed_.notify_all();
  }

  // Waits for what has been pushed until now.
  void Wait() {
    std::unique_lock<std::mutex> guard(lock_);
    changed_.wait(guard, [this, all = pushed_] { return done_ >= all; });
  }

  bool IsIdle() {
    std::lock_guard<std::mutex> guard(lock_);
    return done_ == pushed_;
  }

 private:
  [[noreturn]] void Run() {
    for (;;) {
      std::unique_lock<std::mutex> guard(lock_);
      changed_.wait(guard, [this] { return !queue_.empty(); });
      const auto task = std::move(queue_.front());
      queue_.pop_front();
      guard.unlock();
      task();
      guard.lock();
      ++done_;
      changed_.notify_all();
    }
  }

  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  uint64_t pushed_ = 0, done_ = 0;
};

class Event {
 public:
  // Returns the number of this record.
  uint64_t Record() {
    std::lock_guard<std::mutex> guard(lock_);
    return ++recorded_;
  }
  void Reach(uint64_t record) {
    std::lock_guard<std::mutex> guard(lock_);
    reached_ = std::max(reached_, record);  // an earlier record may be in a slower stream
    changed_.notify_all();
  }
  uint64_t LastRecord() {
    std::lock_guard<std::mutex> guard(lock_);
    return recorded_;
  }
  void WaitFor(uint64_t record) {
    std::unique_lock<std::mutex> guard(lock_);
    changed_.wait(guard, [this, record] { return reached_ >= record; });
  }
  bool IsReached() {
    std::lock_guard<std::mutex> guard(lock_);
    return reached_ >= recorded_;
  }

 private:
  std::mutex lock_;
  std::condition_variable changed_;
  uint64_t recorded_ = 0, reached_ = 0;
};

// Never destroyed: the threads outlive main.
std::mutex& lock = *new std::mutex;
std::vector<Stream*>& streams = *new std::vector<Stream*>;

Stream* NewStream() {
  std::lock_guard<std::mutex> guard(lock);
  streams.push_back(new Stream);
  return streams.back();
}

bool IsNull(cudaStream_t stream) { return stream == nullptr || stream == cudaStreamLegacy; }

Stream& StreamOf(cudaStream_t stream) {
  if (!IsNull(stream)) return *reinterpret_cast<Stream*>(stream);
  static Stream* const null_stream = NewStream();
  WaitForDevice();
  return *null_stream;
}

Event& EventOf(cudaEvent_t event) { return *reinterpret_cast<Event*>(event); }

struct Pace {
  bool is_given = false;
  double product_ms = 0, link_gb_s = 0, memory_gb_s = 0;
};

const Pace& GivenPace() {
  static const Pace given = [] {
    Pace pace;
    if (const char* text = getenv("SECOND_MEMORY_PACE")) {
      pace.is_given = sscanf(text, "%lf,%lf,%lf", &pace.product_ms, &pace.link_gb_s, &pace.memory_gb_s) == 3;
      if (!pace.is_given) Fail("SECOND_MEMORY_PACE is '%s'; give three numbers", text);
    }
    return pace;
  }();
  return given;
}

double PacedSeconds(What what, size_t bytes) {
  const Pace& pace = GivenPace();
  if (what == What::kProduct) return pace.product_ms * 1e-3;
  const bool crosses = what == What::kToDevice || what == What::kToHost;
  return static_cast<double>(bytes) * 1e-9 / (crosses ? pace.link_gb_s : pace.memory_gb_s);
}
}  // namespace

long Now() {
  using std::chrono::microseconds;
  return std::chrono::duration_cast<microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Log(What what, size_t bytes, const char* memory, long start, long end) {
  static FILE* const file = getenv("SECOND_MEMORY_LOG") ? fopen(getenv("SECOND_MEMORY_LOG"), "a") : nullptr;
  if (!file) return;
  fprintf(file, "%s %zu %s %ld %ld\n", kNames[static_cast<int>(what)], bytes, memory, start, end);
  fflush(file);
}

cudaError_t Launch(cudaStream_t in, What what, size_t bytes, std::function<void()> work, const char* memory) {
  Stream& stream = StreamOf(in);
  stream.Push([=] {
    const long start = Now();
    if (GivenPace().is_given && bytes > kSmall) {
      std::this_thread::sleep_for(std::chrono::duration<double>(PacedSeconds(what, bytes)));
    } else {
      work();
    }
    Log(what, bytes, memory, start, Now());
  });
  if (IsNull(in)) stream.Wait();
  return cudaSuccess;
}

void WaitForDevice() {
  std::vector<Stream*> now;
  {
    std::lock_guard<std::mutex> guard(lock);
    now = streams;
  }
  for (Stream* stream : now) stream->Wait();
}
}  // namespace second_memory

using second_memory::EventOf;
using second_memory::StreamOf;

extern "C" {
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = reinterpret_cast<cudaStream_t>(second_memory::NewStream());
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return StreamOf(stream).IsIdle() ? cudaSuccess : cudaErrorNotReady; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  StreamOf(stream).Wait();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  StreamOf(stream).Push([event, record = EventOf(event).LastRecord()] { EventOf(event).WaitFor(record); });
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  second_memory::WaitForDevice();
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(new second_memory::Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
// Not deleted: a stream may still have to reach it.
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  StreamOf(stream).Push([event, record = EventOf(event).Record()] { EventOf(event).Reach(record); });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return EventOf(event).IsReached() ? cudaSuccess : cudaErrorNotReady; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  EventOf(event).WaitFor(EventOf(event).LastRecord());
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return cudaSuccess;
}
}
