// SPDX-License-Identifier: Apache-2.0
// CUDA's runtime interface over emulated devices: what NoisyStore calls, and what ONNX Runtime's
// CUDA provider and PyTorch call around it. What they need besides is made by stubs.py, and
// answers that it is not supported.
#pragma once

#include "device.h"

namespace emulator {

inline thread_local cudaError_t last_error = cudaSuccess;

inline cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// Calls f under the lock; errors of kernels stay.
template <class F>
cudaError_t with_devices(F f) {
  Devices& all = Devices::get();
  const std::lock_guard<std::recursive_mutex> lock(all.mutex);
  if (all.count == 0) return remember(cudaErrorNoDevice);
  const cudaError_t error = f(all);
  return remember(error == cudaSuccess ? all.error : error);
}

template <class F>
cudaError_t on_stream(cudaStream_t handle, F f) {
  return with_devices([&](Devices& all) {
    Stream* stream = all.stream(handle);
    return stream == nullptr ? cudaErrorInvalidResourceHandle : f(all, stream);
  });
}

}  // namespace emulator
