// SPDX-License-Identifier: Apache-2.0
// The tile loops for each instruction set, and the choice among them at run time.
#include "cpu.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "NoisyStore stores words little-endian; this target is big-endian"
#endif

#define FORCE_INLINE inline __attribute__((always_inline))
#define FORCE_INLINE_LAMBDA __attribute__((always_inline))

namespace noisystore {
namespace {

constexpr int kLanes = 16;
typedef std::uint32_t Vec __attribute__((vector_size(4 * kLanes)));

// In a tile of whole blocks lane 4q + k takes block 4k + q: exchanging 32-bit and then 64-bit
// halves of neighbouring vectors then leaves the groups of a tile in memory order.
constexpr Vec kBlockOfLane = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
constexpr Vec kLaneNumber = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr int kPositionBits = 21;  // a position in a block is below 2^15 * 64

// The flips of one group as two 64-bit halves.
struct GroupFlips {
  std::uint64_t low, high;
  GroupFlips(const Vec flips[4], int l)
      : low(flips[0][l] | std::uint64_t{flips[1][l]} << 32),
        high(flips[2][l] | std::uint64_t{flips[3][l]} << 32) {}
};

void flip_group(unsigned char* at, std::uint64_t bytes, const GroupFlips& flips) {
  std::uint64_t part[2] = {0, 0};
  if (bytes == sizeof part) {
    std::memcpy(part, at, sizeof part);
    part[0] ^= flips.low;
    part[1] ^= flips.high;
    std::memcpy(at, part, sizeof part);
  } else {
    std::memcpy(part, at, bytes);
    part[0] ^= flips.low;
    part[1] ^= flips.high;
    std::memcpy(at, part, bytes);
  }
}

void flip_bit(unsigned char* words, std::uint64_t bit) {
  words[bit >> 3] ^= static_cast<unsigned char>(1u << (bit & 7));
}

namespace portable {

#include "lanes_portable.h"
#include "sinks.h"
#include "tiles.h"

}  // namespace portable

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
namespace avx2 {

#include "lanes_avx2.h"
#include "sinks.h"
#include "tiles.h"

}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                      \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2,popcnt"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2,popcnt,prefer-vector-width=512")
#endif
namespace avx512 {

#include "lanes_avx512.h"
#include "sinks.h"
#include "tiles.h"

}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__

constexpr Kernels kPortable = {"portable", portable::flip, portable::count};
#if defined(__x86_64__)
constexpr Kernels kAvx2 = {"avx2", avx2::flip, avx2::count};
constexpr Kernels kAvx512 = {"avx512", avx512::flip, avx512::count};
#endif

struct Available {
  const Kernels* list[4] = {};
  Available() {
    int used = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool bmi = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                     __builtin_cpu_supports("popcnt");
    if (bmi && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      list[used++] = &kAvx512;
    }
    if (bmi && __builtin_cpu_supports("avx2")) list[used++] = &kAvx2;
#endif
    list[used] = &kPortable;
  }
};

}  // namespace

const Kernels* const* available_kernels() {
  static const Available available;
  return available.list;
}

void store_range(const Call& call, const void* x, void* y, std::uint64_t first,
                 std::uint64_t last) {
  const Sampler& s = call.sampler;
  if (x != y) {
    const std::uint64_t size = s.regime == Regime::kNone ? call.elements : block_elements(s);
    const auto start_of = [&](std::uint64_t block) {
      const std::uint64_t row = block / call.blocks_per_sample;
      const std::uint64_t inside = block % call.blocks_per_sample * size;
      return (row * call.elements + inside) * s.word_bits / 8;
    };
    const std::uint64_t from = start_of(first), to = start_of(last);
    std::memcpy(static_cast<char*>(y) + from, static_cast<const char*>(x) + from, to - from);
  }
  if (s.regime != Regime::kNone) {
    available_kernels()[0]->flip(call, static_cast<unsigned char*>(y), first, last);
  }
}

double estimate_ns(const Call& call, bool in_place) {
  const Sampler& s = call.sampler;
  const double blocks = static_cast<double>(call.blocks());
  const double words = static_cast<double>(call.samples) * static_cast<double>(call.elements);
  double ns = in_place ? 0 : words * s.word_bits / 8 * 0.05;
  if (s.regime == Regime::kSparse) ns += blocks * (2 + 4 * s.mean_flips);
  if (s.regime == Regime::kDense) ns += blocks * 16;
  return ns;
}

}  // namespace noisystore
