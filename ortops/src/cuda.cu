// SPDX-License-Identifier: Apache-2.0
// Kernels and launches of the operator on a CUDA device; the loops are those of device_loops.h.
#include <cuda_runtime_api.h>

#include "cuda.h"
#include "device_launch.h"

namespace noisystore {
namespace {

__device__ Lane lane_of_launch() {
  return {std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x,
          std::uint64_t{gridDim.x} * blockDim.x};
}

__global__ void __launch_bounds__(kThreads)
    flip_blocks_kernel(const __grid_constant__ DeviceCall call, unsigned char* y) {
  flip_blocks(call, y, lane_of_launch());
}

__global__ void __launch_bounds__(kThreads)
    store_groups_kernel(const __grid_constant__ DeviceCall call, const unsigned char* x,
                        unsigned char* y) {
  store_groups(call, x, y, lane_of_launch());
}

template <class X>
__global__ void __launch_bounds__(kThreads)
    store_tiles_kernel(const __grid_constant__ DeviceCall call, const unsigned char* x,
                       unsigned char* y) {
  __shared__ alignas(16) unsigned char words[kTileBytes];
  const Lane lane{threadIdx.x, blockDim.x};
  const std::uint64_t tiles = call.samples * call.tiles_per_sample;
  for (std::uint64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const Tile tile = tile_of(call, t);
    with_format<X>(call.format, [&](auto format) {
      encode_tile<X, decltype(format)>(call, tile, x, words, lane);
    });
    // Each thread makes, and reads in the end, words of its own; only flips need those of others.
    if (call.sampler.regime != Regime::kNone) {
      __syncthreads();
      flip_tile(call, tile, words, lane);
      __syncthreads();
    }
    with_format<X>(call.format, [&](auto format) {
      decode_tile<X, decltype(format)>(call, tile, words, y, lane);
    });
  }
}

const void* tiles_kernel(Format type) {
  switch (type) {
    case Format::kFloat32:
      return reinterpret_cast<const void*>(store_tiles_kernel<Float32>);
    case Format::kFloat16:
      return reinterpret_cast<const void*>(store_tiles_kernel<Float16>);
    case Format::kBfloat16:
      return reinterpret_cast<const void*>(store_tiles_kernel<Bfloat16>);
    default:
      return reinterpret_cast<const void*>(store_tiles_kernel<Float64>);
  }
}

bool succeeded(cudaError_t error, const char* what, Message& message) {
  if (error == cudaSuccess) return true;
  return message.set("CUDA: %s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

// Says where memory lies. A kernel that meets memory of the host which the device does not reach
// would spoil the context for the whole process.
bool locate(const void* memory, const char* name, int device, cudaPointerAttributes& at,
            Message& message) {
  if (!succeeded(cudaPointerGetAttributes(&at, memory), "x or y is no address", message)) {
    return false;
  }
  if (at.type != cudaMemoryTypeUnregistered) return true;
  int reached = 0;
  return succeeded(cudaDeviceGetAttribute(&reached, cudaDevAttrPageableMemoryAccess, device),
                   "the device has no attributes", message) &&
         (reached != 0 || message.set("CUDA: %s is memory of the host, which the device does not "
                                      "reach: expected memory of the device",
                                      name));
}

// Makes the device that y lies on current, as long as an object lives: a host's threads may have
// another one.
class OnDeviceOf {
 public:
  OnDeviceOf(const void* x, const void* y, Message& message) {
    cudaPointerAttributes at{};
    int current = 0;
    good_ = succeeded(cudaGetDevice(&current), "there is no current device", message) &&
            locate(x, "x", current, at, message) && locate(y, "y", current, at, message);
    if (good_ && at.type == cudaMemoryTypeDevice && at.device != current) {
      before_ = current;
      good_ = succeeded(cudaSetDevice(at.device), "the device does not become current", message);
    }
  }
  ~OnDeviceOf() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  OnDeviceOf(const OnDeviceOf&) = delete;
  explicit operator bool() const { return good_; }

 private:
  int before_ = -1;
  bool good_ = false;
};

bool launch_kernel(const Launch& launch, Format type, const unsigned char* x, unsigned char* y,
                   cudaStream_t stream, Message& message) {
  auto* call = const_cast<DeviceCall*>(&launch.call);
  void* in_place[] = {call, &y};
  void* both[] = {call, &x, &y};
  const void* kernel = nullptr;
  void** arguments = both;
  switch (launch.kernel) {
    case DeviceKernel::kNone:
      return true;
    case DeviceKernel::kFlipBlocks:
      kernel = reinterpret_cast<const void*>(flip_blocks_kernel);
      arguments = in_place;
      break;
    case DeviceKernel::kStoreGroups:
      kernel = reinterpret_cast<const void*>(store_groups_kernel);
      break;
    case DeviceKernel::kStoreTiles:
      kernel = tiles_kernel(type);
      break;
  }
  return succeeded(
      cudaLaunchKernel(kernel, dim3(launch.groups), dim3(kThreads), arguments, 0, stream),
      "the kernel does not start", message);
}

}  // namespace

bool store_on_cuda(const Call& call, const void* x, void* y, void* stream, Message& message) {
  if (call.samples == 0 || call.elements == 0) return true;
  const auto* from = static_cast<const unsigned char*>(x);
  auto* to = static_cast<unsigned char*>(y);
  const auto on = static_cast<cudaStream_t>(stream);
  const std::uint64_t bytes = info(call.storage.type).word_bits / 8;
  const auto misplaced =
      (reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y)) & (bytes - 1);
  if (misplaced != 0) {
    return message.set("CUDA: x and y must be aligned to their elements of %d bytes",
                       static_cast<int>(bytes));
  }
  const DeviceKernel kernel = kernel_of(call);
  if (kernel == DeviceKernel::kNone && x == y) return true;
  const OnDeviceOf device(x, y, message);
  if (!device) return false;
  const bool in_place = kernel == DeviceKernel::kNone || kernel == DeviceKernel::kFlipBlocks;
  if (in_place && x != y &&
      !succeeded(cudaMemcpyAsync(to, from, call.samples * call.elements * bytes,
                                 cudaMemcpyDeviceToDevice, on),
                 "the copy does not start", message)) {
    return false;
  }
  if (kernel == DeviceKernel::kNone) return true;
  return for_each_launch(call, [&](const Launch& launch) {
    const std::uint64_t at = launch.origin * bytes;
    return launch_kernel(launch, call.storage.type, from + at, to + at, on, message);
  });
}

}  // namespace noisystore
