// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace emulator {
namespace {

thread_local int current_device = 0;

int number_of(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

// For kernels whose groups go round until all is done: NOISYSTORE_EMULATED_GROUPS has them do so.
Grid with_fewer_groups(Grid grid) {
  static const int most = number_of("NOISYSTORE_EMULATED_GROUPS", 0);
  if (most > 0) grid.groups[0] = std::min(grid.groups[0], static_cast<std::uint32_t>(most));
  return grid;
}

int devices_wanted() { return std::clamp(number_of("NOISYSTORE_EMULATED_DEVICES", 1), 0, 8); }

// What has run is added to the file NOISYSTORE_EMULATOR_REPORT when the process ends.
void report() {
  const char* path = std::getenv("NOISYSTORE_EMULATOR_REPORT");
  std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "a");
  if (file == nullptr) return;
  for (const auto& [what, launches] : Devices::get().launches) {
    std::fprintf(file, "%llu launches on device %d of %s\n",
                 static_cast<unsigned long long>(launches), what.first, what.second.c_str());
  }
  std::fclose(file);
}

}  // namespace

Devices::Devices(int devices) : count(devices) {
  std::atexit(report);
  for (int device = 0; device < devices; ++device) defaults_[device] = Stream{device, false};
}

Devices& Devices::get() {
  static Devices* all = new Devices(devices_wanted());  // lives as long as the process
  return *all;
}

int Devices::current() const { return current_device; }
void Devices::set_current(int device) { current_device = device; }

Stream* Devices::stream(void* handle) {
  // 1 and 2 are CUDA's names of the default stream, and of a thread's own.
  if (reinterpret_cast<std::uintptr_t>(handle) <= 2) return default_of(current_device);
  auto* stream = static_cast<Stream*>(handle);
  return streams_.count(stream) == 0 ? nullptr : stream;
}

Stream* Devices::make_stream(bool blocking) {
  return *streams_.insert(new Stream{current_device, blocking}).first;
}

void Devices::destroy(Stream* stream) {
  finish(stream);
  streams_.erase(stream);
  delete stream;
}

void Devices::run_one(Stream* stream) {
  const auto work = std::move(stream->work.front());
  stream->work.pop_front();
  ++stream->done;
  if (error != cudaSuccess) return;
  try {
    work();
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "CUDA emulator: %s\n", problem.what());
    error = cudaErrorIllegalAddress;
  }
}

void Devices::finish(Stream* stream, std::uint64_t until) {
  while (!stream->work.empty() && stream->done < until) run_one(stream);
}

void Devices::finish_all() {
  for (auto& [device, stream] : defaults_) finish(&stream);
  for (Stream* stream : streams_) finish(stream);
}

void Devices::queue(Stream* stream, std::function<void()> work) {
  // The default stream and those that are ordered with it wait for each other.
  Stream* first = default_of(stream->device);
  if (stream == first) {
    for (Stream* other : streams_) {
      if (other->blocking && other->device == stream->device) finish(other);
    }
  } else if (stream->blocking) {
    finish(first);
  }
  stream->work.push_back(std::move(work));
  ++stream->queued;
}

bool Devices::is_pinned(const void* at) const {
  const auto address = reinterpret_cast<std::uint64_t>(at);
  auto found = pinned.upper_bound(address);
  return found != pinned.begin() && address < (--found)->first + found->second;
}

void Devices::move(unsigned char* to, const unsigned char* from, std::size_t size) {
  if (size == 0) return;
  const auto block_of = [&](const void* at, std::size_t& inside) -> Block* {
    const auto address = reinterpret_cast<std::uint64_t>(at);
    if (!memory().is_device(address)) return nullptr;
    Block* block = memory().find(address, inside);
    if (block == nullptr || size > block->size() - inside) {
      throw Error("a copy leaves what is allocated");
    }
    return block;
  };
  std::size_t source_at = 0, target_at = 0;
  const Block* source = block_of(from, source_at);
  Block* target = block_of(to, target_at);
  if (target != nullptr && source != nullptr) {
    target->mark_as(target_at, size, *source, source_at);
  } else if (target != nullptr) {
    target->mark_written(target_at, size);
  }
  std::memmove(target == nullptr ? to : target->data() + target_at,
               source == nullptr ? from : source->data() + source_at, size);
}

cudaError_t Devices::copy(void* to, const void* from, std::size_t size, Stream* stream,
                          bool waits) {
  const auto on_device = [](const void* at) {
    return memory().is_device(reinterpret_cast<std::uint64_t>(at));
  };
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
  if (!on_device(from) && !is_pinned(from)) {
    auto staged = std::make_shared<std::vector<unsigned char>>(source, source + size);
    queue(stream, [=] { move(target, staged->data(), size); });
  } else {
    queue(stream, [=] { move(target, source, size); });
  }
  if (waits || (!on_device(to) && !is_pinned(to))) finish(stream);
  return error;
}

cudaError_t Devices::fill(void* to, int value, std::size_t size, Stream* stream, bool waits) {
  auto bytes =
      std::make_shared<std::vector<unsigned char>>(size, static_cast<unsigned char>(value));
  queue(stream, [=] { move(static_cast<unsigned char*>(to), bytes->data(), size); });
  if (waits) finish(stream);
  return error;
}

bool Devices::is_alive(Stream* stream) const {
  return streams_.count(stream) != 0 ||
         std::any_of(defaults_.begin(), defaults_.end(),
                     [&](const auto& entry) { return &entry.second == stream; });
}

void Devices::add_module(void* handle, const void* fat_binary) {
  modules_[handle] = Module{fat_binary};
  const std::string text = ptx_of(fat_binary);
  const std::string_view mark = ".target sm_";
  const auto target = text.find(mark);
  if (target != std::string::npos) capability = std::atoi(text.c_str() + target + mark.size());
}

void Devices::add_function(void* handle, const void* function, const char* name) {
  functions_[function] = {handle, name};
}

cudaError_t Devices::launch(const void* function, const Grid& asked, void** arguments,
                            Stream* stream) {
  const auto found = functions_.find(function);
  if (found == functions_.end()) return cudaErrorInvalidDeviceFunction;
  Module& module = modules_[found->second.first];
  if (!module.parsed) {
    module.parsed = true;
    try {
      module.kernels = parse(ptx_of(module.fat_binary));
    } catch (const std::exception& problem) {
      std::fprintf(stderr, "CUDA emulator: PTX: %s\n", problem.what());
      return cudaErrorInvalidPtx;
    }
  }
  const auto kernel = module.kernels.find(found->second.second);
  if (kernel == module.kernels.end()) {
    std::fprintf(stderr, "CUDA emulator: no PTX of %s\n", found->second.second.c_str());
    return cudaErrorNoKernelImageForDevice;
  }
  if (error != cudaSuccess) return error;
  const Kernel& code = kernel->second;
  const Grid grid = with_fewer_groups(asked);
  if (stream->device != current_device) return cudaErrorInvalidResourceHandle;
  std::vector<unsigned char> parameters(code.parameter_bytes);
  for (std::size_t i = 0; i < code.parameter_offset.size(); ++i) {
    std::memcpy(parameters.data() + code.parameter_offset[i], arguments[i], code.parameter_size[i]);
  }
  const int device = stream->device;
  queue(stream, [&code, grid, parameters, device] {
    ++Devices::get().launches[{device, code.name}];
    try {
      run_grid(code, grid, parameters, device);
    } catch (const Error& problem) {
      throw Error(code.name + ": " + problem.what());
    }
  });
  return cudaSuccess;
}

}  // namespace emulator
