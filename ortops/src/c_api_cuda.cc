// SPDX-License-Identifier: Apache-2.0
// The functions of noisystore.h for CUDA devices, with CUDA and without.
#include <cstdio>

#include "checked_call.h"
#include "cuda.h"

#if !defined(NOISYSTORE_CUDA_ARCHITECTURES)
#define NOISYSTORE_CUDA_ARCHITECTURES ""

namespace noisystore {

bool store_on_cuda(const Call&, const void*, void*, void*, Message& message) {
  return message.set(
      "CUDA: this library was built without it; build NoisyStore where nvcc is found");
}

}  // namespace noisystore
#endif

extern "C" {

int noisystore_apply_cuda(const noisystore_call* call, const void* x, void* y, void* stream,
                          char* message, size_t message_size) {
  noisystore::Call checked;
  noisystore::Message problem;
  if (noisystore::make_call(*call, false, checked, problem) &&
      noisystore::store_on_cuda(checked, x, y, stream, problem)) {
    return 0;
  }
  if (message != nullptr && message_size > 0) {
    std::snprintf(message, message_size, "%s", problem.text);
  }
  return 1;
}

const char* noisystore_cuda_architectures(void) { return NOISYSTORE_CUDA_ARCHITECTURES; }

}  // extern "C"
