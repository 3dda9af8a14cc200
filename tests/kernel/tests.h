// The tests of the harness. Each compares with a reference of its own, and calls Expect. `isa` only names the
// instruction set in messages.

#ifndef MINDSPORE_OFFLOAD_TESTS_KERNEL_TESTS_H_
#define MINDSPORE_OFFLOAD_TESTS_KERNEL_TESTS_H_

#include <cstdint>
#include <string>

// update_test.cc
void TestSizes(const std::string& isa);
void TestSkippedStep(const std::string& isa);
void TestConversions(const std::string& isa);
uint64_t DigestOfTraining();

void TestNorm(const std::string& isa);  // norm_test.cc
void TestManyAtOnce();                  // team_test.cc
void TestArguments();                   // arguments_test.cc

#endif  // MINDSPORE_OFFLOAD_TESTS_KERNEL_TESTS_H_
