// SPDX-License-Identifier: Apache-2.0
// The operator on a CUDA device.
#pragma once

#include "checked_call.h"

namespace noisystore {

// y = load(flip(store(x))) on the current device, in the order of a stream (a cudaStream_t); y may
// be x. Returns when the work is queued; false with a message where CUDA refuses it.
bool store_on_cuda(const Call& call, const void* x, void* y, void* stream, Message& message);

}  // namespace noisystore
