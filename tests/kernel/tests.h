// SPDX-License-Identifier: Apache-2.0

// The tests of the harness. Each compares with a reference of its own, and calls Expect. `isa` only names the
// instruction set in messages.

#ifndef MINDSPORE_OFFLOAD_TESTS_KERNEL_TESTS_H_
#define MINDSPORE_OFFLOAD_TESTS_KERNEL_TESTS_H_

#include <cstdint>
#include <string>

#include "../../mindspore_offload/csrc/tensors.h"

// update_test.cc
void TestSizes(mindspore_offload::MomentFormat moments, const std::string& isa);
void TestSkippedStep(mindspore_offload::MomentFormat moments, const std::string& isa);
void TestConversions(const std::string& isa);
uint64_t DigestOfTraining(mindspore_offload::MomentFormat moments);

// moments_test.cc
void TestWritebacks(mindspore_offload::MomentFormat moments, const std::string& isa);
void TestPieces(mindspore_offload::MomentFormat moments, const std::string& isa);

void TestNorm(const std::string& isa);          // norm_test.cc
void TestTracking(const std::string& isa);      // tracking_test.cc
void TestCodeTracking(const std::string& isa);  // code_tracking_test.cc
void TestCodeEdges(const std::string& isa);     // code_edges_test.cc
void TestManyAtOnce();                          // team_test.cc
void TestArguments();                           // arguments_test.cc

// stochastic_test.cc
void TestHash();
void TestStochasticRounding();

#endif  // MINDSPORE_OFFLOAD_TESTS_KERNEL_TESTS_H_
