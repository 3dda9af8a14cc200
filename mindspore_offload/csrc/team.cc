#include "team.h"

#include <fenv.h>
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

// MindSpore has subnormal numbers flushed to zero on some of its threads and not on others, and a new thread does as
// the one that started it. While this lives, its thread computes as IEEE 754 says, as do all threads on every machine.
class IeeeArithmetic {
 public:
  IeeeArithmetic() {
    fegetenv(&before_);
    fesetenv(FE_DFL_ENV);
  }
  ~IeeeArithmetic() { fesetenv(&before_); }
  IeeeArithmetic(const IeeeArithmetic&) = delete;
  IeeeArithmetic& operator=(const IeeeArithmetic&) = delete;

 private:
  fenv_t before_;
};

class Team {
 public:
  void Run(size_t chunks, const std::function<void(size_t)>& work) {
    std::lock_guard<std::mutex> turn(turn_);
    IeeeArithmetic arithmetic;
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
    wanted_ = 0;  // no worker joins from here on; those inside are waited for
    done_.wait(lock, [this] { return helpers_ == 0; });
  }

  // Workers start with the first operation that has work for them: a process that only imports has none. If the
  // system gives fewer threads than asked for, the team is smaller and the result the same.
  void StartWorkers(size_t count) {
    try {
      for (; workers_ < count; ++workers_) std::thread([this] { Work(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  void Work() {
    fesetenv(FE_DFL_ENV);
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

  std::mutex turn_;   // held by the operation that has the team
  std::mutex mutex_;  // guards the rest
  std::condition_variable wake_;
  std::condition_variable done_;
  size_t workers_ = 0;  // threads that were started
  size_t wanted_ = 0;   // of them, how many the operation that has the team wants
  size_t helpers_ = 0;  // of them, how many are inside Help()
  // The work of that operation; changes only while no worker is inside Help().
  const std::function<void(size_t)>* work_ = nullptr;
  size_t chunks_ = 0;
  std::atomic<size_t> next_{0};
};

// Never destroyed: the workers sleep in it until the process ends.
std::atomic<Team*> team{nullptr};

// A forked child has none of its parent's workers, and may have got the mutex while one of them held it: it starts
// over with a team of its own.
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
