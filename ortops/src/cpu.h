// SPDX-License-Identifier: Apache-2.0
// The loops over a tensor on the CPU: a range of blocks of one call, for any thread to take.
#pragma once

#include <cstdint>

#include "conversions.h"
#include "flips.h"

namespace noisystore {

// How the values of a tensor are held as words.
struct Storage {
  Format type;                // of the tensor's elements
  Format format;              // of the words; `type` itself where words are the elements
  Quantization quantization;  // where `format` is an integer and `type` is not

  bool converts() const { return type != format; }
};

// One call on one tensor of `samples` x `elements` words, row-major and contiguous.
struct Call {
  Sampler sampler;
  Storage storage;
  std::uint64_t samples;
  std::uint64_t elements;           // of one sample
  std::uint64_t blocks_per_sample;  // blocks (sparse, or nothing flips) or groups (dense)
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
  // words: stored words, flipped in place, the first of them that of the tensor's element `origin`;
  // the range's are among them.
  void (*flip)(const Call& call, unsigned char* words, std::uint64_t origin, std::uint64_t first,
               std::uint64_t last);
  // flips[row] += flips of the range's blocks. Where p01 != p10 candidates count (an upper bound).
  void (*count)(const Call& call, std::int64_t* flips, std::uint64_t first, std::uint64_t last);
  const Conversion* const* (*conversions)();
};

// Instruction sets that this processor has, the fastest first; null-terminated.
const Kernels* const* available_kernels();

// y = load(flip(store(x))) for the elements of the range's blocks; y may be x.
void store_range(const Call& call, const void* x, void* y, std::uint64_t first, std::uint64_t last,
                 const Kernels& kernels = *available_kernels()[0]);

// Estimated nanoseconds of store_range over the whole call; only for choosing how to split it.
double estimate_ns(const Call& call, bool in_place);

}  // namespace noisystore
