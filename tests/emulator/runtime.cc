// SPDX-License-Identifier: Apache-2.0
// Errors, versions, devices and memory.
#include "runtime.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

using namespace emulator;

namespace {

constexpr int kVersion = CUDART_VERSION;

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

}  // namespace

extern "C" {

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
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

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
  return with_devices([&](Devices& all) {
    *device = all.current();
    return cudaSuccess;
  });
}
cudaError_t cudaSetDevice(int device) {
  return with_devices([&](Devices& all) {
    if (device < 0 || device >= all.count) return cudaErrorInvalidDevice;
    all.set_current(device);
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceSynchronize() {
  return with_devices([](Devices& all) {
    all.finish_all();
    return cudaSuccess;
  });
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
    std::free(at);
    return cudaSuccess;
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
}
