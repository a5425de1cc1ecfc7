// SPDX-License-Identifier: Apache-2.0
// The operator on a device: what one thread, or one group of threads that share memory, does to a
// tensor. Host and device, so that host tests run the same loops (tests/test_device_loops.cc).
// Blocks and groups write disjoint bytes, so that threads need no order.
#pragma once

#include <cstdint>
#include <cstring>

#include "convert.h"
#include "flips.h"
#include "storage_format.h"

namespace noisystore {

// Sample ids that one launch takes by value: nothing has to be copied to the device, or kept.
inline constexpr std::uint32_t kListedSamples = 512;

// Part of a call for one launch; passed by value (kernels take at most 4 KiB).
struct DeviceCall {
  Sampler sampler;
  Quantization quantization;
  Format format;  // of the words
  bool listed;
  std::uint64_t samples;
  std::uint64_t elements;           // of one sample
  std::uint64_t blocks_per_sample;  // blocks (sparse) or groups (dense)
  std::uint64_t tiles_per_sample;
  std::uint32_t size_log2;  // of a block or group, in elements
  std::uint32_t first_sample;
  std::uint32_t sample_of[kListedSamples];  // where they are listed

  NOISYSTORE_HD std::uint32_t sample_id(std::uint64_t row) const {
    return listed ? sample_of[row] : first_sample + static_cast<std::uint32_t>(row);
  }
};
static_assert(sizeof(DeviceCall) <= 3584, "kernel parameters");

// A word of memory that is aligned to it.
template <class W>
NOISYSTORE_HD W word_at(const unsigned char* at) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const W*>(at);
#else
  W word;
  std::memcpy(&word, at, sizeof word);
  return word;
#endif
}

template <class W>
NOISYSTORE_HD void set_word(unsigned char* at, W word) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<W*>(at) = word;
#else
  std::memcpy(at, &word, sizeof word);
#endif
}

// Which of a launch's threads this is.
struct Lane {
  std::uint64_t index, count;
};

struct RowAndPart {
  std::uint64_t row, part;
};

// Divisions of 64 bits are slow on devices, and seldom needed.
NOISYSTORE_HD RowAndPart split(std::uint64_t number, std::uint64_t parts) {
  if ((number | parts) >> 32 == 0) {
    const auto n = static_cast<std::uint32_t>(number), p = static_cast<std::uint32_t>(parts);
    return {n / p, n % p};
  }
  return {number / parts, number % parts};
}

// Flips a bit of words in memory, counted from `words`; `bytes` of them are the tensor's. On a
// device without waiting for what is there.
NOISYSTORE_HD void flip_unread(unsigned char* words, std::uint64_t bytes, std::uint64_t bit) {
#if defined(__CUDA_ARCH__)
  unsigned char* byte = words + (bit >> 3);
  const auto past = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(byte) & 3);
  // By pointer arithmetic, so that the compiler knows it for global memory: RED, not ATOM.
  unsigned char* part = byte - past;
  if (part >= words && part + 4 <= words + bytes) {
    atomicXor(reinterpret_cast<unsigned*>(part), 1u << (past * 8 + (bit & 7)));
    return;
  }
#else
  (void)bytes;
#endif
  flip_bit(words, bit);
}

// Sparse, words that are the tensor's elements: a lane takes whole blocks.
NOISYSTORE_HD void flip_blocks(const DeviceCall& call, unsigned char* words, Lane lane) {
  const Sampler& s = call.sampler;
  const std::uint64_t bytes = call.samples * call.elements * s.word_bits / 8;
  for (std::uint64_t i = lane.index; i < call.samples * call.blocks_per_sample; i += lane.count) {
    const RowAndPart at = split(i, call.blocks_per_sample);
    const std::uint64_t inside = at.part << s.block_log2;
    const std::uint64_t first = at.row * call.elements + inside;
    const BlockWords random(s, static_cast<std::uint32_t>(at.part), call.sample_id(at.row));
    visit_candidates(s, random, [&](std::uint32_t element, unsigned bit, std::uint64_t a) {
      if (element >= call.elements - inside) return;
      const std::uint64_t place = (first + element) * s.word_bits + bit;
      if (s.symmetric) {
        flip_unread(words, bytes, place);
      } else if (stands(s, words[place >> 3] >> (place & 7) & 1, a)) {
        flip_bit(words, place);
      }
    });
  }
}

// A group of 128 bits, or what the sample has of it, as four 32-bit parts.
struct Group {
  std::uint32_t part[4];
};

NOISYSTORE_HD Group read_group(const unsigned char* at, std::uint64_t bytes) {
  Group group = {};
#if defined(__CUDA_ARCH__)
  if (bytes == 16 && (reinterpret_cast<std::uintptr_t>(at) & 15) == 0) {
    const uint4 whole = *reinterpret_cast<const uint4*>(at);
    return {{whole.x, whole.y, whole.z, whole.w}};
  }
  if (bytes == 16 && (reinterpret_cast<std::uintptr_t>(at) & 3) == 0) {
    for (int i = 0; i < 4; ++i) group.part[i] = word_at<std::uint32_t>(at + i * 4);
    return group;
  }
  for (int i = 0; i < 16; ++i) {
    if (static_cast<std::uint64_t>(i) < bytes) {
      group.part[i / 4] |= std::uint32_t{at[i]} << (i % 4 * 8);
    }
  }
#else
  std::memcpy(group.part, at, bytes);
#endif
  return group;
}

NOISYSTORE_HD void write_group(unsigned char* at, std::uint64_t bytes, const Group& group) {
#if defined(__CUDA_ARCH__)
  if (bytes == 16 && (reinterpret_cast<std::uintptr_t>(at) & 15) == 0) {
    *reinterpret_cast<uint4*>(at) =
        make_uint4(group.part[0], group.part[1], group.part[2], group.part[3]);
    return;
  }
  if (bytes == 16 && (reinterpret_cast<std::uintptr_t>(at) & 3) == 0) {
    for (int i = 0; i < 4; ++i) set_word(at + i * 4, group.part[i]);
    return;
  }
  for (int i = 0; i < 16; ++i) {
    if (static_cast<std::uint64_t>(i) < bytes) {
      at[i] = static_cast<unsigned char>(group.part[i / 4] >> (i % 4 * 8));
    }
  }
#else
  std::memcpy(at, group.part, bytes);
#endif
}

// Dense: reads group `part` of a sample at `x`, flips it and writes it at `y`.
NOISYSTORE_HD void store_group(const Sampler& s, const unsigned char* x, unsigned char* y,
                               std::uint64_t bytes, std::uint32_t part, std::uint32_t sample) {
  Group group = read_group(x, bytes);
  std::uint32_t noisy[4], flips[4];
  for (int i = 0; i < 4; ++i) noisy[i] = noisy_lanes(s, i);
  sample_group(s, part, sample, group.part, noisy, flips);
  for (int i = 0; i < 4; ++i) group.part[i] ^= flips[i];
  write_group(y, bytes, group);
}

// Dense, words that are the tensor's elements: a lane takes whole groups. y may be x.
NOISYSTORE_HD void store_groups(const DeviceCall& call, const unsigned char* x, unsigned char* y,
                                Lane lane) {
  const Sampler& s = call.sampler;
  const std::uint64_t sample_bytes = call.elements * s.word_bits / 8;
  for (std::uint64_t i = lane.index; i < call.samples * call.blocks_per_sample; i += lane.count) {
    const RowAndPart at = split(i, call.blocks_per_sample);
    const std::uint64_t inside = at.part * (kGroupBits / 8);
    const std::uint64_t rest = sample_bytes - inside;
    const std::uint64_t first = at.row * sample_bytes + inside;
    store_group(s, x + first, y + first, rest < 16 ? rest : 16, static_cast<std::uint32_t>(at.part),
                call.sample_id(at.row));
  }
}

// Words of another format than the tensor's: made, flipped and read back in memory that a group of
// threads shares, a tile of one sample at a time. A tile is whole groups, and whole blocks or a
// part of one.
inline constexpr std::uint32_t kTileElements = 1024;
inline constexpr std::uint32_t kTileBytes = kTileElements * 8;

struct Tile {
  std::uint64_t row;
  std::uint64_t inside;  // first element, counted from the sample's
  std::uint32_t count;   // elements
};

NOISYSTORE_HD Tile tile_of(const DeviceCall& call, std::uint64_t number) {
  const RowAndPart at = split(number, call.tiles_per_sample);
  const std::uint64_t inside = at.part * kTileElements;
  const std::uint64_t rest = call.elements - inside;
  const auto count = static_cast<std::uint32_t>(rest < kTileElements ? rest : kTileElements);
  return {at.row, inside, count};
}

// The three phases of a tile. Before and after the flips the threads of the group wait for each
// other; the first and the last phase give a thread the same words.
template <class X, class F>
NOISYSTORE_HD void encode_tile(const DeviceCall& call, const Tile& tile, const unsigned char* x,
                               unsigned char* words, Lane lane) {
  using Value = typename X::Word;
  using Word = typename F::Word;
  const unsigned char* from = x + (tile.row * call.elements + tile.inside) * sizeof(Value);
  for (std::uint64_t i = lane.index; i < tile.count; i += lane.count) {
    const Value value = word_at<Value>(from + i * sizeof(Value));
    set_word<Word>(words + i * sizeof(Word), store<X, F>(value, call.quantization));
  }
}

template <class X, class F>
NOISYSTORE_HD void decode_tile(const DeviceCall& call, const Tile& tile, const unsigned char* words,
                               unsigned char* y, Lane lane) {
  using Value = typename X::Word;
  using Word = typename F::Word;
  unsigned char* to = y + (tile.row * call.elements + tile.inside) * sizeof(Value);
  for (std::uint64_t i = lane.index; i < tile.count; i += lane.count) {
    const Word word = word_at<Word>(words + i * sizeof(Word));
    set_word<Value>(to + i * sizeof(Value), load<X, F>(word, call.quantization));
  }
}

NOISYSTORE_HD void flip_tile(const DeviceCall& call, const Tile& tile, unsigned char* words,
                             Lane lane) {
  const Sampler& s = call.sampler;
  const std::uint32_t sample = call.sample_id(tile.row);
  const std::uint64_t first = tile.inside >> call.size_log2;
  const std::uint64_t last = (tile.inside + tile.count - 1) >> call.size_log2;
  const std::uint64_t blocks = last - first + 1;
  for (std::uint64_t b = lane.index; b < blocks; b += lane.count) {
    const auto block = static_cast<std::uint32_t>(first + b);
    if (s.regime == Regime::kDense) {
      const std::uint64_t rest = std::uint64_t{tile.count} * s.word_bits / 8 - b * 16;
      unsigned char* at = words + b * 16;
      store_group(s, at, at, rest < 16 ? rest : 16, block, sample);
      continue;
    }
    const std::uint64_t start = std::uint64_t{block} << s.block_log2;
    visit_candidates(s, BlockWords(s, block, sample),
                     [&](std::uint32_t element, unsigned bit, std::uint64_t a) {
                       const std::uint64_t at = start + element - tile.inside;  // wraps in front
                       if (at >= tile.count) return;
                       const std::uint64_t place = at * s.word_bits + bit;
                       if (stands(s, words[place >> 3] >> (place & 7) & 1, a)) {
                         flip_bit(words, place);
                       }
                     });
  }
}

// Calls visit with the format that holds values of X.
template <class X, class Visit>
NOISYSTORE_HD void with_format(Format format, Visit&& visit) {
  switch (format) {
    case Format::kFloat32:
      if constexpr (!Same<X, Float32>::value) visit(Float32{});
      break;
    case Format::kFloat16:
      if constexpr (!Same<X, Float16>::value) visit(Float16{});
      break;
    case Format::kBfloat16:
      if constexpr (!Same<X, Bfloat16>::value) visit(Bfloat16{});
      break;
    case Format::kFloat64:
      if constexpr (!Same<X, Float64>::value) visit(Float64{});
      break;
    case Format::kFloat8e4m3fn:
      visit(Float8e4m3fn{});
      break;
    case Format::kFloat8e5m2:
      visit(Float8e5m2{});
      break;
    case Format::kInt8:
      visit(Int8{});
      break;
    case Format::kUint8:
      visit(Uint8{});
      break;
    case Format::kInt4:
      visit(Int4{});
      break;
    case Format::kUint4:
      visit(Uint4{});
      break;
    case Format::kInt32:
      break;
  }
}

}  // namespace noisystore
