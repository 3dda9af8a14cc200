// SPDX-License-Identifier: Apache-2.0

// The wire format: all that the library and the Python side must have alike.

#ifndef MINDSPORE_OFFLOAD_CSRC_ABI_H_
#define MINDSPORE_OFFLOAD_CSRC_ABI_H_

namespace mindspore_offload {

// The wire format as text, a line for each entry: "name: value value ...". native_library.py compares it with abi.py.
const char* DescriptionOfAbi();

}  // namespace mindspore_offload

#endif  // MINDSPORE_OFFLOAD_CSRC_ABI_H_
