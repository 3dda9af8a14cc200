// SPDX-License-Identifier: Apache-2.0

// NCCL between processes of one machine: the functions that MindSpore's collective library links against.
//
// A communicator is a file in shared memory with a box for each pair of ranks. Collectives run in their streams, one
// after the other, as on a GPU; the ranks meet before and after each part that the boxes hold. Sums are added in the
// order of the ranks, so all ranks get the same bits.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "memory.h"
#include "streams.h"

using second_memory::Fail;
using second_memory::Launch;
using second_memory::OfKernel;
using second_memory::What;

struct ncclUniqueId {
  char name[128];
};

namespace {
constexpr size_t kBox = 64 * 1024;
constexpr int kMaxRanks = 8;

// The numbers are NCCL's.
enum Type { kInt8, kUint8, kInt32, kUint32, kInt64, kUint64, kFloat16, kFloat32, kFloat64, kBfloat16 };
constexpr size_t kBytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
enum Reduction { kSum, kProduct, kMax, kMin };

// The head of the file. All zeros when it is made.
struct Shared {
  bool has_barrier;
  int joined;
  pthread_barrier_t barrier;
  std::atomic<size_t> posted[kMaxRanks][kMaxRanks];  // the bytes of a message in the box of [from][to]; 0: none
};

struct Communicator {
  Shared* shared;
  char* boxes;
  int ranks, rank;

  char* Box(int from, int to = 0) const { return boxes + (size_t(from) * ranks + to) * kBox; }
  void Meet() const { pthread_barrier_wait(&shared->barrier); }
};

template <class T>
T Reduced(T a, T b, int reduction) {
  switch (reduction) {
    case kSum:
      return a + b;
    case kProduct:
      return a * b;
    case kMax:
      return std::max(a, b);
    case kMin:
      return std::min(a, b);
  }
  Fail("a reduction of the number %d", reduction);
}

// `parts` are the ranks', in their order. `Wide` is what the elements are reduced in.
template <class T, class Wide>
void Reduce(char* to, const std::vector<char*>& parts, size_t bytes, int reduction) {
  for (size_t i = 0; i < bytes / sizeof(T); ++i) {
    Wide result = reinterpret_cast<const T*>(parts[0])[i];
    for (size_t rank = 1; rank < parts.size(); ++rank) {
      result = Reduced<Wide>(result, reinterpret_cast<const T*>(parts[rank])[i], reduction);
    }
    reinterpret_cast<T*>(to)[i] = static_cast<T>(result);
  }
}

void Reduce(char* to, const std::vector<char*>& parts, size_t bytes, int type, int reduction) {
  switch (type) {
    case kFloat32:
      return Reduce<float, float>(to, parts, bytes, reduction);
    case kFloat16:
      return Reduce<_Float16, float>(to, parts, bytes, reduction);
    case kInt32:
      return Reduce<int32_t, int32_t>(to, parts, bytes, reduction);
    default:
      Fail("a reduction of the type %d", type);
  }
}

char* Device(const void* address) { return OfKernel(static_cast<char*>(const_cast<void*>(address))); }

// Runs a collective whose tensors, a rank, have `size` bytes, in parts that the boxes hold. In each part, `put` fills
// the rank's own boxes and `take` reads those of all. Their arguments are the part's offset and its bytes.
using Step = std::function<void(size_t, size_t)>;
int Collective(const Communicator& all, size_t size, cudaStream_t stream, const char* name, Step put, Step take) {
  const auto work = [=, &all] {
    for (size_t done = 0; done < size; done += kBox) {
      const size_t now = std::min(kBox, size - done);
      put(done, now);
      all.Meet();
      take(done, now);
      all.Meet();
    }
  };
  return Launch(stream, What::kOnDevice, size, work, name);
}

struct Message {
  const Communicator* all;
  char* bytes;
  size_t size;
  int from, to;
  bool is_sent;
  cudaStream_t stream;

  // Moves what the box lets through.
  void Advance() {
    auto& posted = all->shared->posted[from][to];
    char* const box = all->Box(from, to);
    const size_t waiting = posted.load();
    if (is_sent == (waiting != 0)) return;
    const size_t now = is_sent ? std::min(size, kBox) : waiting;
    is_sent ? memcpy(box, bytes, now) : memcpy(bytes, box, now);
    posted.store(is_sent ? now : 0);
    bytes += now, size -= now;
  }
};

// Messages between ncclGroupStart and ncclGroupEnd run together, so that two ranks may send to each other.
thread_local int depth = 0;
thread_local std::vector<Message> messages;

void RunMessages() {
  if (depth > 0 || messages.empty()) return;
  size_t size = 0;
  for (const Message& each : messages) size += each.size;
  const auto work = [pending = messages]() mutable {
    while (!pending.empty()) {
      for (Message& each : pending) each.Advance();
      const auto is_done = [](const Message& each) { return each.size == 0; };
      pending.erase(std::remove_if(pending.begin(), pending.end(), is_done), pending.end());
      usleep(50);
    }
  };
  Launch(messages[0].stream, What::kOnDevice, size, work, "message");
  messages.clear();
}

int Post(const void* address, size_t count, int type, int peer, void* communicator, cudaStream_t stream, bool is_sent) {
  const auto& all = *static_cast<Communicator*>(communicator);
  const int from = is_sent ? all.rank : peer, to = is_sent ? peer : all.rank;
  messages.push_back({&all, Device(address), count * kBytes[type], from, to, is_sent, stream});
  RunMessages();
  return 0;
}
}  // namespace

extern "C" {
int ncclGetUniqueId(ncclUniqueId* id) {
  static int made = 0;
  memset(id, 0, sizeof *id);
  snprintf(id->name, sizeof id->name, "/dev/shm/second_memory_%d_%d", getpid(), made++);
  return 0;
}

int ncclCommInitRank(void** communicator, int ranks, ncclUniqueId id, int rank) {
  if (ranks > kMaxRanks) Fail("a communicator of %d ranks", ranks);
  const int file = open(id.name, O_RDWR | O_CREAT, 0600);
  const size_t head = (sizeof(Shared) + 4095) / 4096 * 4096, size = head + size_t(ranks) * ranks * kBox;
  if (file < 0 || ftruncate(file, size)) Fail("%s can't be made", id.name);
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) Fail("%s can't be mapped", id.name);
  auto* const shared = static_cast<Shared*>(memory);
  flock(file, LOCK_EX);
  if (!shared->has_barrier) {
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->barrier, &attributes, ranks);
    shared->has_barrier = true;
  }
  if (++shared->joined == ranks) unlink(id.name);
  flock(file, LOCK_UN);
  close(file);
  auto* const all = new Communicator{shared, static_cast<char*>(memory) + head, ranks, rank};
  all->Meet();
  *communicator = all;
  return 0;
}

int ncclCommAbort(void*) { return 0; }

int ncclAllReduce(const void* send, void* receive, size_t count, int type, int reduction, void* communicator,
                  cudaStream_t stream) {
  const auto& all = *static_cast<Communicator*>(communicator);
  char *const from = Device(send), *const to = Device(receive);
  return Collective(
      all, count * kBytes[type], stream, "all_reduce",
      [=, &all](size_t offset, size_t bytes) { memcpy(all.Box(all.rank), from + offset, bytes); },
      [=, &all](size_t offset, size_t bytes) {
        std::vector<char*> parts;
        for (int rank = 0; rank < all.ranks; ++rank) parts.push_back(all.Box(rank));
        Reduce(to + offset, parts, bytes, type, reduction);
      });
}

int ncclReduceScatter(const void* send, void* receive, size_t count, int type, int reduction, void* communicator,
                      cudaStream_t stream) {
  const auto& all = *static_cast<Communicator*>(communicator);
  char *const from = Device(send), *const to = Device(receive);
  const size_t size = count * kBytes[type];
  return Collective(
      all, size, stream, "reduce_scatter",
      [=, &all](size_t offset, size_t bytes) {
        for (int rank = 0; rank < all.ranks; ++rank) {
          memcpy(all.Box(all.rank, rank), from + rank * size + offset, bytes);
        }
      },
      [=, &all](size_t offset, size_t bytes) {
        std::vector<char*> parts;
        for (int rank = 0; rank < all.ranks; ++rank) parts.push_back(all.Box(rank, all.rank));
        Reduce(to + offset, parts, bytes, type, reduction);
      });
}

int ncclAllGather(const void* send, void* receive, size_t count, int type, void* communicator, cudaStream_t stream) {
  const auto& all = *static_cast<Communicator*>(communicator);
  char *const from = Device(send), *const to = Device(receive);
  const size_t size = count * kBytes[type];
  return Collective(
      all, size, stream, "all_gather",
      [=, &all](size_t offset, size_t bytes) { memcpy(all.Box(all.rank), from + offset, bytes); },
      [=, &all](size_t offset, size_t bytes) {
        for (int rank = 0; rank < all.ranks; ++rank) memcpy(to + rank * size + offset, all.Box(rank), bytes);
      });
}

int ncclBroadcast(const void* send, void* receive, size_t count, int type, int root, void* communicator,
                  cudaStream_t stream) {
  const auto& all = *static_cast<Communicator*>(communicator);
  char *const from = Device(send), *const to = Device(receive);
  return Collective(
      all, count * kBytes[type], stream, "broadcast",
      [=, &all](size_t offset, size_t bytes) {
        if (all.rank == root) memcpy(all.Box(root), from + offset, bytes);
      },
      [=, &all](size_t offset, size_t bytes) { memcpy(to + offset, all.Box(root), bytes); });
}

int ncclGroupStart() {
  ++depth;
  return 0;
}
int ncclGroupEnd() {
  --depth;
  RunMessages();
  return 0;
}
int ncclSend(const void* from, size_t count, int type, int peer, void* communicator, cudaStream_t stream) {
  return Post(from, count, type, peer, communicator, stream, true);
}
int ncclRecv(void* to, size_t count, int type, int peer, void* communicator, cudaStream_t stream) {
  return Post(to, count, type, peer, communicator, stream, false);
}
}
