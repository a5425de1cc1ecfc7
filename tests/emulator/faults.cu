// SPDX-License-Identifier: Apache-2.0
// What the emulator is for: kernels with a fault each, which a device might run as if nothing were.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int kThreads = 64;

__global__ void add_one(int* data, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) data[i] += 1;
}
__global__ void outside(int* data, int count) { data[count + threadIdx.x % 2] = 1; }
__global__ void shifted(char* data, int by) { *reinterpret_cast<int*>(data + by) = 1; }
__global__ void on_the_host(int* data) { data[threadIdx.x] = 1; }
__global__ void race(int* data) { data[threadIdx.x / 2] += 1; }
__global__ void race_of_groups(int* data) { data[threadIdx.x] += 1; }
__global__ void exchange(int* data, bool waits, bool some_wait) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = data[threadIdx.x];
  if (some_wait ? threadIdx.x % 2 == 0 : waits) __syncthreads();
  data[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}
__global__ void ends_early(int* data) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  data[threadIdx.x] = 2;
}
__global__ void two_barriers(int* data) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
    data[threadIdx.x] = 3;
  } else {
    __syncthreads();
    data[threadIdx.x] = 4;
  }
}
__global__ void __launch_bounds__(kThreads) at_most(int* data) { data[threadIdx.x] = 5; }
__global__ void half_filled(int* data) {
  __shared__ int shared[kThreads];
  if (threadIdx.x % 2 == 0) shared[threadIdx.x] = 1;
  __syncthreads();
  data[threadIdx.x] = shared[threadIdx.x];
}
__global__ void atomics(unsigned* data, bool plain) {
  if (plain && threadIdx.x == 5)
    *data = 1;
  else
    atomicXor(data, 1u << (threadIdx.x % 32));
}
__global__ void divide(int* data, int by) { data[threadIdx.x] = data[threadIdx.x] / by; }

int run(const char* name) {
  int* data = nullptr;
  std::vector<int> zeros(kThreads * 2);
  const std::size_t bytes = zeros.size() * sizeof(int);
  cudaMalloc(&data, bytes);
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (!is("unwritten")) cudaMemcpy(data, zeros.data(), bytes, cudaMemcpyHostToDevice);
  if (is("right")) {
    add_one<<<3, kThreads>>>(data, kThreads * 2);
    exchange<<<1, kThreads>>>(data, true, false);
    atomics<<<1, 33>>>(reinterpret_cast<unsigned*>(data), false);  // the first bit twice
  } else {
    if (is("unwritten")) add_one<<<1, kThreads>>>(data, kThreads);
    if (is("outside")) outside<<<1, 1>>>(data, kThreads * 2);
    if (is("misaligned")) shifted<<<1, 1>>>(reinterpret_cast<char*>(data), 2);
    if (is("host")) on_the_host<<<1, kThreads>>>(zeros.data());
    if (is("race")) race<<<1, kThreads>>>(data);
    if (is("groups")) race_of_groups<<<2, kThreads>>>(data);
    if (is("barrier")) exchange<<<1, kThreads>>>(data, false, false);
    if (is("divergent")) exchange<<<1, kThreads>>>(data, true, true);
    if (is("early")) ends_early<<<1, kThreads>>>(data);
    if (is("two")) two_barriers<<<1, kThreads>>>(data);
    if (is("threads")) at_most<<<1, 2 * kThreads>>>(data);
    if (is("grid")) add_one<<<dim3(1, 70000), 1>>>(data, 1);
    if (is("shared")) half_filled<<<1, kThreads>>>(data);
    if (is("atomics")) atomics<<<1, kThreads>>>(reinterpret_cast<unsigned*>(data), true);
    if (is("divide")) divide<<<1, kThreads>>>(data, 0);
    if (is("copied")) {
      int* unwritten = nullptr;
      cudaMalloc(&unwritten, bytes);
      cudaMemcpy(data, unwritten, bytes, cudaMemcpyDeviceToDevice);
      add_one<<<1, kThreads>>>(data, kThreads);
    }
    if (is("device")) {
      cudaSetDevice(1);
      add_one<<<1, kThreads>>>(data, kThreads);
    }
    if (is("freed")) {
      cudaFree(data);
      add_one<<<1, kThreads>>>(data, 1);
    }
  }
  std::vector<int> got(zeros.size());
  cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) {
    error = cudaMemcpy(got.data(), data, bytes, cudaMemcpyDeviceToHost);
    std::vector<int> expected(zeros.size(), 1);
    expected[0] = -1;
    if (is("right") && got != expected) std::printf("other numbers\n");
  }
  std::printf("%s: %s\n", name, cudaGetErrorString(error));
  return 0;
}

}  // namespace

// One case, of which CMakeLists.txt has the list: errors of kernels stay.
int main(int, char** arguments) { return run(arguments[1]); }
