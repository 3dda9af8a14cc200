// SPDX-License-Identifier: Apache-2.0

// The thread team: one for the process, even if MindSpore runs several operations at once.

#ifndef MINDSPORE_OFFLOAD_CSRC_TEAM_H_
#define MINDSPORE_OFFLOAD_CSRC_TEAM_H_

#include <cstddef>
#include <functional>

namespace mindspore_offload {

// The number of threads that work on an operation, its caller included. 1 until SetTeamSize is called.
size_t TeamSize();

// Sets the number of threads from the next operation on.
void SetTeamSize(size_t threads);

// Calls work(chunk) once for each chunk in [0, chunks) and returns when all are done. A thread that has finished a
// chunk fetches the next, so a thread on a busy core does fewer chunks and the others don't wait for it.
//
// Operations take turns: each waits until the one before it is done. Nothing is lost, as each uses all cores, and two
// updates of the same tensors never mix. A single chunk runs on the caller and wakes no other thread.
void RunChunks(size_t chunks, const std::function<void(size_t)>& work);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_TEAM_H_
