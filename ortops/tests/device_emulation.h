// SPDX-License-Identifier: Apache-2.0
// What a device does, done by the host: every launch of a call, its groups and threads in any order
// and of any number. Included by test_device_loops.cc and, with the branches of a device compiled
// in, by test_device_branches.cc.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "device_launch.h"

namespace noisystore {
namespace emulated {

template <class X>
void run_tiles(const Launch& launch, const unsigned char* x, unsigned char* y,
               std::mt19937_64& random) {
  const DeviceCall& call = launch.call;
  const std::uint64_t tiles = call.samples * call.tiles_per_sample;
  alignas(16) static unsigned char words[kTileBytes];
  for (std::uint64_t group = 0; group < launch.groups; ++group) {
    for (std::uint64_t t = group; t < tiles; t += launch.groups) {
      const Tile tile = tile_of(call, t);
      std::memset(words, 0xA5, sizeof words);
      const std::uint64_t threads = random() % 4 == 0 ? 1 + random() % 40 : kThreads;
      const auto each_thread = [&](const auto& phase) {
        for (std::uint64_t i = threads; i-- > 0;) phase(Lane{i, threads});
      };
      with_format<X>(call.format, [&](auto format) {
        each_thread(
            [&](Lane lane) { encode_tile<X, decltype(format)>(call, tile, x, words, lane); });
      });
      if (call.sampler.regime != Regime::kNone) {
        each_thread([&](Lane lane) { flip_tile(call, tile, words, lane); });
      }
      with_format<X>(call.format, [&](auto format) {
        each_thread(
            [&](Lane lane) { decode_tile<X, decltype(format)>(call, tile, words, y, lane); });
      });
    }
  }
}

inline void run_launch(Launch launch, Format type, const unsigned char* x, unsigned char* y,
                       std::mt19937_64& random) {
  if (random() % 2) launch.groups = 1 + static_cast<unsigned>(random() % launch.groups);
  if (launch.kernel == DeviceKernel::kStoreTiles) {
    switch (type) {
      case Format::kFloat32:
        return run_tiles<Float32>(launch, x, y, random);
      case Format::kFloat16:
        return run_tiles<Float16>(launch, x, y, random);
      case Format::kBfloat16:
        return run_tiles<Bfloat16>(launch, x, y, random);
      default:
        return run_tiles<Float64>(launch, x, y, random);
    }
  }
  const std::uint64_t threads = std::uint64_t{launch.groups} * kThreads;
  std::vector<std::uint64_t> order(threads);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (const std::uint64_t i : order) {
    if (launch.kernel == DeviceKernel::kFlipBlocks) flip_blocks(launch.call, y, {i, threads});
    if (launch.kernel == DeviceKernel::kStoreGroups) store_groups(launch.call, x, y, {i, threads});
  }
}

// The whole call; gives the number of elements that its launches covered. y may be x.
inline std::uint64_t run_call(const Call& call, const unsigned char* x, unsigned char* y,
                              std::mt19937_64& random) {
  const std::size_t bytes = info(call.storage.type).word_bits / 8;
  const DeviceKernel kernel = kernel_of(call);
  const bool copies = kernel == DeviceKernel::kNone || kernel == DeviceKernel::kFlipBlocks;
  if (copies && x != y) std::memcpy(y, x, call.samples * call.elements * bytes);
  std::uint64_t done = 0;
  for_each_launch(call, [&](const Launch& launch) {
    if (launch.origin != done) return false;
    done += launch.elements;
    const std::uint64_t at = launch.origin * bytes;
    if (kernel != DeviceKernel::kNone) {
      run_launch(launch, call.storage.type, x + at, y + at, random);
    }
    return true;
  });
  return done;
}

}  // namespace emulated
}  // namespace noisystore
