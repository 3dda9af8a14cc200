// SPDX-License-Identifier: Apache-2.0

// Tests the native kernel without MindSpore or Python, for every instruction set that this machine runs. Prints a
// digest of 1,000 steps, which must be the same for every compiler, instruction set and machine. With an argument it
// leaves out the statistical tests of stochastic rounding: they take minutes under a sanitizer or an emulator, and
// equal digests mean equal bits.

#include <cinttypes>
#include <cstdio>
#include <iterator>
#include <sstream>
#include <string>

#include "../../mindspore_offload/csrc/implementation.h"
#include "../../mindspore_offload/csrc/team.h"
#include "expect.h"
#include "tests.h"

namespace {

int failures = 0;

}  // namespace

void Expect(bool condition, const std::string& what) {
  if (condition || ++failures > 20) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

int main(int argc, char** /*arguments*/) {
  using namespace mindspore_offload;
  uint64_t digests[std::size(kMomentFormats)] = {};
  std::istringstream isas(SupportedImplementations());
  for (std::string isa; isas >> isa;) {
    Expect(UseImplementation(isa.c_str()) && isa == ActiveImplementation().name, isa + " can't be chosen");
    for (size_t i = 0; i < std::size(kMomentFormats); ++i) {
      for (size_t threads : {1, 2, 3, 7}) {
        SetTeamSize(threads);
        const uint64_t found = DigestOfTraining(kMomentFormats[i]);
        if (digests[i] == 0) digests[i] = found;
        Expect(found == digests[i], isa + ", " + std::to_string(threads) + " threads: another digest");
      }
      TestSizes(kMomentFormats[i], isa);
      TestSkippedStep(kMomentFormats[i], isa);
    }
    TestConversions(isa);
    for (MomentFormat rounded : {MomentFormat::kBFloat16, MomentFormat::kUint8}) {
      TestWritebacks(rounded, isa);
      TestPieces(rounded, isa);
    }
    TestNorm(isa);
    TestCodeEdges(isa);
  }
  TestManyAtOnce();
  TestArguments();
  if (argc == 1) {
    TestHash();
    TestStochasticRounding();
    TestTracking(ActiveImplementation().name);
    TestCodeTracking(ActiveImplementation().name);
  }
  Expect(!UseImplementation("avx1024"), "an unknown instruction set was accepted");
  std::fprintf(stderr, "instruction sets: %s; %d failures\n", SupportedImplementations(), failures);
  for (uint64_t digest : digests) std::printf("%016" PRIx64 "\n", digest);
  return failures > 0;
}
