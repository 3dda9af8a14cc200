// SPDX-License-Identifier: Apache-2.0

// Tests of the thread team under many operations at once.

#include "../../mindspore_offload/csrc/team.h"

#include <dirent.h>

#include <thread>
#include <vector>

#include "../../mindspore_offload/csrc/sizes.h"
#include "tests.h"
#include "update_case.h"

using namespace mindspore_offload;

static size_t ThreadsOfProcess() {
  size_t count = 0;
  DIR* folder = opendir("/proc/self/task");
  if (folder == nullptr) return 0;
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

// 16 operations at once, each on its own tensors: the results are right, and one team of threads serves all.
void TestManyAtOnce() {
  constexpr size_t kOperations = 16, kTeam = 3;
  SetTeamSize(kTeam);
  const Mode mode{Element::kFloat32, Element::kFloat32, false, Decay::kL2, false};
  std::vector<Case> cases;
  std::vector<std::vector<Case::Values>> expected;
  for (size_t i = 0; i < kOperations; ++i) {
    cases.emplace_back(mode, kChunk + 17 * i, i, i);
    expected.push_back(cases.back().Reference());
  }
  const size_t before = ThreadsOfProcess();
  std::vector<std::thread> callers;
  for (Case& one : cases) callers.emplace_back([&one] { UpdateBucket({one.Item()}); });
  for (std::thread& caller : callers) caller.join();
  Expect(ThreadsOfProcess() <= before + kTeam - 1, "more threads than the team's");
  for (size_t i = 0; i < kOperations; ++i) cases[i].Check(expected[i], "operation " + std::to_string(i) + " of many");
}
