// SPDX-License-Identifier: Apache-2.0
// The loops over a tensor on the CPU: a range of blocks of one call, for any thread to take.
#pragma once

#include <cstdint>

#include "flips.h"

namespace noisystore {

// One call on one tensor of `samples` x `elements` words, row-major and contiguous.
struct Call {
  Sampler sampler;
  std::uint64_t samples;
  std::uint64_t elements;           // of one sample
  std::uint64_t blocks_per_sample;  // blocks (sparse) or groups (dense); 1 where nothing flips
  const std::int64_t* sample_index;
  bool sample_index_is_list;  // else the samples follow sample_index[0]

  std::uint64_t blocks() const { return samples * blocks_per_sample; }
  std::uint32_t sample_id(std::uint64_t row) const {
    const std::uint64_t id = sample_index_is_list
                                 ? static_cast<std::uint64_t>(sample_index[row])
                                 : static_cast<std::uint64_t>(sample_index[0]) + row;
    return static_cast<std::uint32_t>(id);
  }
};

// Blocks are numbered sample by sample. Ranges of blocks write disjoint memory.
struct Kernels {
  const char* name;
  // words: the stored words of the whole tensor, flipped in place.
  void (*flip)(const Call& call, unsigned char* words, std::uint64_t first, std::uint64_t last);
  // flips[row] += flips of the range's blocks. Where p01 != p10 candidates count (an upper bound).
  void (*count)(const Call& call, std::int64_t* flips, std::uint64_t first, std::uint64_t last);
};

// Instruction sets that this processor has, the fastest first; null-terminated.
const Kernels* const* available_kernels();

// Copies the range's words from x to y unless they are the same, then flips them.
void store_range(const Call& call, const void* x, void* y, std::uint64_t first, std::uint64_t last);

// Estimated nanoseconds of store_range over the whole call; only for choosing how to split it.
double estimate_ns(const Call& call, bool in_place);

}  // namespace noisystore
