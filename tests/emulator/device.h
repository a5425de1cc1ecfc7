// SPDX-License-Identifier: Apache-2.0
// Emulated devices: their streams, kernels and errors, below CUDA's runtime and driver interfaces.
// Work that is queued runs as late as it may: when somebody waits for it. So code that forgets to
// wait, or queues on a wrong stream, reads memory that nobody has written yet.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "memory.h"
#include "ptx.h"

namespace emulator {

struct Stream {
  int device;
  bool blocking;  // ordered with the default stream
  std::uint64_t queued = 0, done = 0;
  std::deque<std::function<void()>> work = {};
};

struct Event {
  Stream* stream = nullptr;
  std::uint64_t after = 0;                                        // that many of the stream's works
  std::shared_ptr<double> seconds = std::make_shared<double>(0);  // of the host's clock, then
};

class Devices {
 public:
  static Devices& get();
  std::recursive_mutex mutex;
  const int count;
  int capability = 90;  // 10 x major + minor: that of the PTX which is there

  int current() const;
  void set_current(int device);
  // The default stream is that of the current device.
  Stream* stream(void* handle);
  Stream* make_stream(bool blocking);
  void destroy(Stream* stream);
  void queue(Stream* stream, std::function<void()> work);
  bool is_alive(Stream* stream) const;
  void finish(Stream* stream, std::uint64_t until = ~std::uint64_t{0});
  void finish_all();

  // Queues a copy as CUDA orders it: pageable memory of the host is read at once, and is written
  // before the call returns.
  cudaError_t copy(void* to, const void* from, std::size_t size, Stream* stream, bool waits);
  cudaError_t fill(void* to, int value, std::size_t size, Stream* stream, bool waits);
  cudaError_t launch(const void* function, const Grid& asked, void** arguments, Stream* stream);

  void add_module(void* handle, const void* fat_binary);
  void add_function(void* handle, const void* function, const char* name);

  std::map<std::uint64_t, std::size_t> pinned;  // memory of the host, by its address

  std::map<std::pair<int, std::string>, std::uint64_t> launches;  // by device and kernel
  cudaError_t error = cudaSuccess;                                // of a kernel or copy: stays

 private:
  explicit Devices(int devices);
  Stream* default_of(int device) { return &defaults_[device]; }
  void run_one(Stream* stream);
  bool is_pinned(const void* at) const;
  void move(unsigned char* to, const unsigned char* from, std::size_t size);

  struct Module {
    const void* fat_binary;
    bool parsed = false;
    std::map<std::string, Kernel> kernels = {};
  };
  std::map<void*, Module> modules_;
  std::map<const void*, std::pair<void*, std::string>> functions_;
  std::map<int, Stream> defaults_;
  std::set<Stream*> streams_;
};

// Gives the PTX that a fat binary holds, uncompressed; empty where it holds none. Raises Error
// where it holds several: which one runs would be left to chance.
std::string ptx_of(const void* fat_binary);

}  // namespace emulator
