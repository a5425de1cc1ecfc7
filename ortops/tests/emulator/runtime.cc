// SPDX-License-Identifier: Apache-2.0
// CUDA's runtime interface over emulated devices: what NoisyStore calls, and what ONNX Runtime's
// CUDA provider and PyTorch call around it. What they need besides is made by stubs.py, and
// answers that it is not supported.
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "device.h"

using namespace emulator;

namespace {

constexpr int kVersion = CUDART_VERSION;
thread_local cudaError_t last_error = cudaSuccess;

// Of the launch that a thread begins.
struct Configuration {
  dim3 groups, threads;
  std::size_t shared;
  cudaStream_t stream;
};
thread_local Configuration configuration;

cudaError_t remember(cudaError_t error) {
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

cudaError_t allocate_on_device(void** at, std::size_t size) {
  return with_devices([&](Devices& all) {
    const std::uint64_t address = size == 0 ? 0 : memory().allocate(size, all.current());
    *at = reinterpret_cast<void*>(address);
    return address == 0 && size != 0 ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t allocate_on_host(void** at, std::size_t size) {
  return with_devices([&](Devices& all) {
    *at = std::malloc(size);
    all.pinned[reinterpret_cast<std::uint64_t>(*at)] = size;
    return cudaSuccess;
  });
}

cudaError_t release(void* at) {
  return with_devices([&](Devices& all) {
    all.finish_all();
    const bool known = at == nullptr || memory().release(reinterpret_cast<std::uint64_t>(at));
    return known ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t launch(const void* function, dim3 groups, dim3 threads, void** arguments,
                   std::size_t shared, cudaStream_t handle) {
  if (shared != 0) return remember(cudaErrorNotSupported);
  return on_stream(handle, [&](Devices& all, Stream* stream) {
    const Grid grid = {{groups.x, groups.y, groups.z}, {threads.x, threads.y, threads.z}};
    return all.launch(function, grid, arguments, stream);
  });
}

Event* event_of(cudaEvent_t event) { return reinterpret_cast<Event*>(event); }

}  // namespace

extern "C" {

// What nvcc's code calls at start-up.
void** __cudaRegisterFatBinary(void* fat_binary) {
  Devices& all = Devices::get();
  auto** handle = static_cast<void**>(std::malloc(sizeof(void*)));
  all.add_module(handle, fat_binary);
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
  return configuration = {groups, threads, shared, stream}, 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* groups, dim3* threads, std::size_t* shared,
                                       void* stream) {
  *groups = configuration.groups;
  *threads = configuration.threads;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    default:
      return "cudaErrorNotSupported";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = kVersion, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = kVersion, cudaSuccess; }

// The driver's functions that are not there answer so when they are called.
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  *function = dlsym(RTLD_DEFAULT, name);
  int (*const unsupported)() = [] { return static_cast<int>(cudaErrorNotSupported); };
  if (*function == nullptr) *function = reinterpret_cast<void*>(unsupported);
  if (status != nullptr) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = Devices::get().count;
  return remember(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}
cudaError_t cudaGetDevice(int* device) {
  return with_devices([&](Devices& all) { return *device = all.current(), cudaSuccess; });
}
cudaError_t cudaSetDevice(int device) {
  return with_devices([&](Devices& all) {
    if (device < 0 || device >= all.count) return cudaErrorInvalidDevice;
    return all.set_current(device), cudaSuccess;
  });
}
cudaError_t cudaDeviceSynchronize() {
  return with_devices([](Devices& all) { return all.finish_all(), cudaSuccess; });
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return with_devices([&](Devices& all) {
    if (device < 0 || device >= all.count) return cudaErrorInvalidDevice;
    std::memset(properties, 0, sizeof *properties);
    std::snprintf(properties->name, sizeof properties->name, "emulated device %d", device);
    properties->major = all.capability / 10;
    properties->minor = all.capability % 10;
    properties->totalGlobalMem = DeviceMemory::kCapacity;
    properties->sharedMemPerBlock = properties->sharedMemPerMultiprocessor = 48 << 10;
    properties->warpSize = 32;
    properties->multiProcessorCount = 1;
    properties->maxThreadsPerBlock = properties->maxThreadsPerMultiProcessor = 1024;
    for (int axis = 0; axis < 3; ++axis) {
      properties->maxThreadsDim[axis] = axis == 2 ? 64 : 1024;
      properties->maxGridSize[axis] = axis == 0 ? 0x7FFFFFFF : 65535;
    }
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  *value = 0;
  if (attribute == cudaDevAttrComputeCapabilityMajor) *value = properties.major;
  if (attribute == cudaDevAttrComputeCapabilityMinor) *value = properties.minor;
  if (attribute == cudaDevAttrMaxThreadsPerBlock) *value = properties.maxThreadsPerBlock;
  if (attribute == cudaDevAttrMultiProcessorCount) *value = properties.multiProcessorCount;
  if (attribute == cudaDevAttrWarpSize) *value = properties.warpSize;
  return error;
}

cudaError_t cudaMalloc(void** at, std::size_t size) { return allocate_on_device(at, size); }
cudaError_t cudaMallocAsync(void** at, std::size_t size, cudaStream_t) {
  return allocate_on_device(at, size);
}
cudaError_t cudaFree(void* at) { return release(at); }
cudaError_t cudaFreeAsync(void* at, cudaStream_t stream) {
  return on_stream(stream, [&](Devices& all, Stream* on) {
    all.queue(on, [at] {
      if (!memory().release(reinterpret_cast<std::uint64_t>(at))) throw Error("not allocated");
    });
    return cudaSuccess;
  });
}
cudaError_t cudaHostAlloc(void** at, std::size_t size, unsigned) {
  return allocate_on_host(at, size);
}
cudaError_t cudaMallocHost(void** at, std::size_t size) { return allocate_on_host(at, size); }
cudaError_t cudaFreeHost(void* at) {
  return with_devices([&](Devices& all) {
    all.finish_all();
    all.pinned.erase(reinterpret_cast<std::uint64_t>(at));
    return std::free(at), cudaSuccess;
  });
}
cudaError_t cudaMemGetInfo(std::size_t* available, std::size_t* total) {
  return with_devices([&](Devices&) {
    *total = DeviceMemory::kCapacity;
    *available = *total - memory().allocated();
    return cudaSuccess;
  });
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
  return with_devices([&](Devices& all) {
    *attributes = {};
    std::size_t inside = 0;
    const auto address = reinterpret_cast<std::uint64_t>(at);
    if (const Block* block = memory().find(address, inside)) {
      attributes->type = cudaMemoryTypeDevice;
      attributes->device = block->device();
      attributes->devicePointer = const_cast<void*>(at);
    } else if (all.pinned.count(address) != 0) {
      attributes->type = cudaMemoryTypeHost;
      attributes->hostPointer = const_cast<void*>(at);
    }
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t size, cudaMemcpyKind) {
  return on_stream(nullptr,
                   [&](Devices& all, Stream* on) { return all.copy(to, from, size, on, true); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind,
                            cudaStream_t stream) {
  return on_stream(stream,
                   [&](Devices& all, Stream* on) { return all.copy(to, from, size, on, false); });
}
cudaError_t cudaMemset(void* to, int value, std::size_t size) {
  return on_stream(nullptr,
                   [&](Devices& all, Stream* on) { return all.fill(to, value, size, on, true); });
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size, cudaStream_t stream) {
  return on_stream(stream,
                   [&](Devices& all, Stream* on) { return all.fill(to, value, size, on, false); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return with_devices([&](Devices& all) {
    *stream = reinterpret_cast<cudaStream_t>(all.make_stream(flags != cudaStreamNonBlocking));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = *greatest = 0, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return on_stream(handle, [](Devices& all, Stream* on) { return all.destroy(on), cudaSuccess; });
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return on_stream(handle, [](Devices& all, Stream* on) { return all.finish(on), cudaSuccess; });
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return on_stream(handle, [](Devices&, Stream* on) {
    return on->work.empty() ? cudaSuccess : cudaErrorNotReady;
  });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status,
                                     unsigned long long*, cudaGraph_t*, const cudaGraphNode_t**,
                                     const cudaGraphEdgeData**, std::size_t*) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
#endif
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  return on_stream(handle, [&](Devices& all, Stream* on) {
    const Event until = *event_of(event);
    if (!all.is_alive(until.stream)) return cudaSuccess;  // destroyed streams have ended
    all.queue(on, [&all, until] {
      if (all.is_alive(until.stream)) all.finish(until.stream, until.after);
    });
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = reinterpret_cast<cudaEvent_t>(new Event), cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event_of(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return on_stream(handle, [&](Devices& all, Stream* on) {
    Event& made = *event_of(event);
    made.stream = on;
    all.queue(on, [seconds = made.seconds] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      *seconds = std::chrono::duration<double>(now).count();
    });
    made.after = on->queued;
    return cudaSuccess;
  });
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned) {
  return cudaEventRecord(event, handle);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const double seconds = *event_of(to)->seconds - *event_of(from)->seconds;
  return *milliseconds = static_cast<float>(seconds * 1e3), cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return with_devices([&](Devices& all) {
    const Event& at = *event_of(event);
    return !all.is_alive(at.stream) || at.stream->done >= at.after ? cudaSuccess
                                                                   : cudaErrorNotReady;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return with_devices([&](Devices& all) {
    const Event& at = *event_of(event);
    if (all.is_alive(at.stream)) all.finish(at.stream, at.after);
    return cudaSuccess;
  });
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
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return on_stream(handle, [&](Devices& all, Stream* on) {
    return all.queue(on, [=] { function(data); }), cudaSuccess;
  });
}
}
