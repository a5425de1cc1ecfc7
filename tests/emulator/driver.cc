// SPDX-License-Identifier: Apache-2.0
// The little of CUDA's driver interface that benchmarks/cuda_driver.py calls.
#include <cstdio>

#include "device.h"

namespace {

void* context_of(int device) {
  return reinterpret_cast<void*>(std::uintptr_t{1} + static_cast<unsigned>(device));
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return emulator::Devices::get().count == 0 ? 100 : 0; }
int cuDriverGetVersion(int* version) { return cudaDriverGetVersion(version); }
int cuDeviceGetCount(int* count) {
  *count = emulator::Devices::get().count;
  return 0;
}
int cuDeviceGet(int* device, int number) {
  const bool known = number >= 0 && number < emulator::Devices::get().count;
  return *device = number, known ? 0 : cudaErrorInvalidDevice;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = context_of(device);
  return 0;
}
int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}
int cuCtxSetCurrent(void* context) {
  return cudaSetDevice(static_cast<int>(reinterpret_cast<std::uintptr_t>(context) - 1));
}
int cuCtxGetCurrent(void** context) {
  *context = context_of(emulator::Devices::get().current());
  return 0;
}
int cuCtxSynchronize() { return cudaDeviceSynchronize(); }
int cuDeviceGetName(char* name, int size, int device) {
  std::snprintf(name, static_cast<std::size_t>(size), "emulated device %d", device);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  return cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), device);
}
int cuStreamCreate(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithFlags(stream, flags);
}
int cuStreamSynchronize(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
int cuEventCreate(cudaEvent_t* event, unsigned flags) {
  return cudaEventCreateWithFlags(event, flags);
}
int cuEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecord(event, stream); }
int cuEventSynchronize(cudaEvent_t event) { return cudaEventSynchronize(event); }
int cuEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return cudaEventElapsedTime(milliseconds, from, to);
}
int cuGetErrorString(int error, const char** text) {
  *text = cudaGetErrorString(static_cast<cudaError_t>(error));
  return 0;
}
int cuMemAlloc_v2(void** at, std::size_t size) { return cudaMalloc(at, size); }
int cuMemFree_v2(void* at) { return cudaFree(at); }
int cuMemcpyHtoD_v2(void* to, const void* from, std::size_t size) {
  return cudaMemcpy(to, from, size, cudaMemcpyHostToDevice);
}
int cuMemcpyDtoH_v2(void* to, const void* from, std::size_t size) {
  return cudaMemcpy(to, from, size, cudaMemcpyDeviceToHost);
}
int cuMemcpyDtoHAsync_v2(void* to, const void* from, std::size_t size, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, stream);
}
int cuMemcpyDtoDAsync_v2(void* to, const void* from, std::size_t size, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream);
}
}
