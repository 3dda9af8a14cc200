// SPDX-License-Identifier: Apache-2.0

// The thread team: its workers sleep until an operation has chunks for them.

#include "team.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace mindspore_offload {
namespace {

std::atomic<size_t>& Size() {
  static std::atomic<size_t> size{1};
  return size;
}

class Team {
 public:
  void Run(size_t chunks, const std::function<void(size_t)>& work) {
    std::lock_guard<std::mutex> turn(turn_);
    const size_t helpers = TeamSize() - 1;
    if (chunks > 1 && helpers > 0) {
      RunShared(chunks, work, helpers);
    } else {
      for (size_t chunk = 0; chunk < chunks; ++chunk) work(chunk);
    }
  }

 private:
  void RunShared(size_t chunks, const std::function<void(size_t)>& work, size_t helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      StartWorkers(helpers);
      work_ = &work;
      chunks_ = chunks;
      next_ = 0;
      wanted_ = helpers;
    }
    wake_.notify_all();
    Help();
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;  // no worker joins from here on
    done_.wait(lock, [this] { return helpers_ == 0; });
  }

  // Workers start with the first operation that has work for them, not with the import of the package. If the system
  // refuses a thread, the team is smaller and the result the same.
  void StartWorkers(size_t count) {
    try {
      for (; workers_ < count; ++workers_) std::thread([this] { Work(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return helpers_ < wanted_ && next_ < chunks_; });
      ++helpers_;
      lock.unlock();
      Help();
      lock.lock();
      if (--helpers_ == 0) done_.notify_one();
    }
  }

  void Help() {
    for (size_t chunk; (chunk = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_;) (*work_)(chunk);
  }

  std::mutex turn_;   // held by the current operation
  std::mutex mutex_;  // guards the rest
  std::condition_variable wake_;
  std::condition_variable done_;
  size_t workers_ = 0;  // started threads
  size_t wanted_ = 0;   // workers that the current operation wants
  size_t helpers_ = 0;  // workers inside Help()
  // The work of the current operation. It changes only while no worker is inside Help().
  const std::function<void(size_t)>* work_ = nullptr;
  size_t chunks_ = 0;
  std::atomic<size_t> next_{0};
};

// Never destroyed: the workers sleep in it until the process ends.
std::atomic<Team*> team{nullptr};

// A forked child has no workers, and its copy of the mutex may be locked forever, so it gets a new team.
void ForgetTeam() { team = new Team; }

Team* TheTeam() {
  static const bool registered = [] {
    team = new Team;
    pthread_atfork(nullptr, nullptr, ForgetTeam);
    return true;
  }();
  static_cast<void>(registered);
  return team;
}

}  // namespace

size_t TeamSize() { return Size(); }

void SetTeamSize(size_t threads) { Size() = threads > 0 ? threads : 1; }

void RunChunks(size_t chunks, const std::function<void(size_t)>& work) { TheTeam()->Run(chunks, work); }

}  // namespace mindspore_offload
