// Tests the native kernel without MindSpore or Python, for every instruction set that this machine runs. Prints a
// digest of 1,000 steps, which must be the same for every compiler, instruction set and machine.

#include <cinttypes>
#include <cstdio>
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

int main() {
  using namespace mindspore_offload;
  uint64_t digest = 0;
  std::istringstream isas(SupportedImplementations());
  for (std::string isa; isas >> isa;) {
    Expect(UseImplementation(isa.c_str()) && isa == ActiveImplementation().name, isa + " can't be chosen");
    for (size_t threads : {1, 3}) {
      SetTeamSize(threads);
      const uint64_t found = DigestOfTraining();
      if (digest == 0) digest = found;
      Expect(found == digest, isa + ": another digest");
    }
    TestSizes(isa);
    TestSkippedStep(isa);
    TestConversions(isa);
    TestNorm(isa);
  }
  TestManyAtOnce();
  TestArguments();
  Expect(!UseImplementation("avx1024"), "an unknown instruction set was accepted");
  std::fprintf(stderr, "instruction sets: %s; %d failures\n", SupportedImplementations(), failures);
  std::printf("%016" PRIx64 "\n", digest);
  return failures > 0;
}
