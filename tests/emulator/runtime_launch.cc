// SPDX-License-Identifier: Apache-2.0
// Kernels: how programs make them known, and start them.
#include <cstdio>
#include <cstdlib>

#include "runtime.h"

using namespace emulator;

namespace {

// Of the launch that a thread begins.
struct Configuration {
  dim3 groups, threads;
  std::size_t shared;
  cudaStream_t stream;
};
thread_local Configuration configuration;

cudaError_t launch(const void* function, dim3 groups, dim3 threads, void** arguments,
                   std::size_t shared, cudaStream_t handle) {
  if (shared != 0) return remember(cudaErrorNotSupported);
  return on_stream(handle, [&](Devices& all, Stream* stream) {
    const Grid grid = {{groups.x, groups.y, groups.z}, {threads.x, threads.y, threads.z}};
    return all.launch(function, grid, arguments, stream);
  });
}

}  // namespace

extern "C" {

// What nvcc's code calls at start-up.
void** __cudaRegisterFatBinary(void* fat_binary) {
  Devices& all = Devices::get();
  auto** handle = static_cast<void**>(std::malloc(sizeof(void*)));
  try {
    all.add_module(handle, fat_binary);
  } catch (const Error& problem) {  // said again, should one of its kernels start
    std::fprintf(stderr, "CUDA emulator: %s\n", problem.what());
  }
  return handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** module, const char* function, char*, const char* name, int,
                            void*, void*, void*, void*, int*) {
  Devices::get().add_function(module, function, name);
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int) {}
char __cudaInitModule(void**) { return 1; }
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 groups, dim3 threads, void** arguments,
                               std::size_t shared, cudaStream_t stream) {
  return launch(kernel, groups, threads, arguments, shared, stream);
}
unsigned __cudaPushCallConfiguration(dim3 groups, dim3 threads, std::size_t shared,
                                     cudaStream_t stream) {
  configuration = {groups, threads, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* groups, dim3* threads, std::size_t* shared,
                                       void* stream) {
  *groups = configuration.groups;
  *threads = configuration.threads;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 groups, dim3 threads, void** arguments,
                             std::size_t shared, cudaStream_t stream) {
  return launch(function, groups, threads, arguments, shared, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* with, const void* function,
                                void** arguments) {
  if (with->numAttrs != 0) return remember(cudaErrorNotSupported);
  return launch(function, with->gridDim, with->blockDim, arguments, with->dynamicSmemBytes,
                with->stream);
}
}
