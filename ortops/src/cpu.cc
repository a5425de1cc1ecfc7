// SPDX-License-Identifier: Apache-2.0
// The tile loops for each instruction set, and the choice among them at run time.
#include "cpu.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
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

constexpr Kernels kPortable = {"portable", portable::flip, portable::count, portable_conversions};
#if defined(__x86_64__)
constexpr Kernels kAvx2 = {"avx2", avx2::flip, avx2::count, avx2_conversions};
constexpr Kernels kAvx512 = {"avx512", avx512::flip, avx512::count, avx512_conversions};
#endif

struct Available {
  const Kernels* list[4] = {};
  Available() {
    int used = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned a, b, c = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    const bool common = __builtin_cpu_supports("avx2") && (c & bit_F16C) != 0 &&
                        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                        __builtin_cpu_supports("popcnt");
    if (common && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      list[used++] = &kAvx512;
    }
    if (common) list[used++] = &kAvx2;
#endif
    list[used] = &kPortable;
  }
};

}  // namespace

const Kernels* const* available_kernels() {
  static const Available available;
  return available.list;
}

}  // namespace noisystore
