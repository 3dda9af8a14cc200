// The thread team: one for the process, however many operations MindSpore runs at once.

#ifndef MINDSPORE_OFFLOAD_CSRC_TEAM_H_
#define MINDSPORE_OFFLOAD_CSRC_TEAM_H_

#include <cstddef>
#include <functional>

namespace mindspore_offload {

// Threads that work on an operation, its caller included: what SetTeamSize said, else 1.
size_t TeamSize();

// Holds from the next operation on.
void SetTeamSize(size_t threads);

// Calls work(chunk) once for each chunk in [0, chunks) and returns when all are done. Threads fetch the next chunk
// when they have finished one, so a thread on a busy core takes fewer chunks instead of making everybody wait.
//
// Operations take turns: one that comes while another has the team sleeps until that one is done. As each uses all the
// cores there are, nothing is lost, and an update of the same tensors from two threads is always one after the other.
// A single chunk runs on the caller and wakes nobody.
void RunChunks(size_t chunks, const std::function<void(size_t)>& work);

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_TEAM_H_
