// SPDX-License-Identifier: Apache-2.0
// How a call is cut into launches on a device. Host only; knows no device, so that host tests run
// the launches as loops.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu.h"
#include "device_loops.h"

namespace noisystore {

enum class DeviceKernel : std::uint8_t { kNone, kFlipBlocks, kStoreGroups, kStoreTiles };

inline constexpr unsigned kThreads = 128;                             // of a group
inline constexpr std::uint64_t kMostGroups = std::uint64_t{1} << 22;  // more go round again

// One launch: `groups` groups of kThreads threads, over the part of the tensor that starts at
// element `origin`.
struct Launch {
  DeviceKernel kernel;
  unsigned groups;
  std::uint64_t origin;
  std::uint64_t elements;  // of the part
  DeviceCall call;
};

inline DeviceKernel kernel_of(const Call& call) {
  if (call.storage.converts()) return DeviceKernel::kStoreTiles;
  switch (call.sampler.regime) {
    case Regime::kNone:
      return DeviceKernel::kNone;
    case Regime::kSparse:
      return DeviceKernel::kFlipBlocks;
    case Regime::kDense:
      return DeviceKernel::kStoreGroups;
  }
  return DeviceKernel::kNone;
}

// Calls run(launch) for each launch, until one gives false; gives what the last one gave.
template <class Run>
bool for_each_launch(const Call& call, Run&& run) {
  Launch launch;
  launch.kernel = kernel_of(call);
  DeviceCall& part = launch.call;
  part.sampler = call.sampler;
  part.quantization = call.storage.quantization;
  part.format = call.storage.format;
  part.listed = call.sample_index_is_list;
  part.elements = call.elements;
  part.blocks_per_sample = call.blocks_per_sample;
  part.size_log2 = static_cast<std::uint32_t>(__builtin_ctzll(block_elements(call.sampler)));
  part.tiles_per_sample = (call.elements + kTileElements - 1) / kTileElements;
  const std::uint64_t most = part.listed ? kListedSamples : call.samples;
  for (std::uint64_t row = 0; row < call.samples; row += part.samples) {
    part.samples = std::min(most, call.samples - row);
    part.first_sample = call.sample_id(row);
    for (std::uint64_t i = 0; part.listed && i < part.samples; ++i) {
      part.sample_of[i] = call.sample_id(row + i);
    }
    launch.origin = row * call.elements;
    launch.elements = part.samples * call.elements;
    const bool tiles = launch.kernel == DeviceKernel::kStoreTiles;
    const std::uint64_t work =
        part.samples * (tiles ? part.tiles_per_sample : part.blocks_per_sample);
    const std::uint64_t groups = tiles ? work : (work + kThreads - 1) / kThreads;
    launch.groups = static_cast<unsigned>(std::min(groups, kMostGroups));
    if (!run(static_cast<const Launch&>(launch))) return false;
  }
  return true;
}

}  // namespace noisystore
