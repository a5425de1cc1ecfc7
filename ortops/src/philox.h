// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, SC 2011), host and device.
#pragma once

#include <cstdint>

#if defined(__FAST_MATH__)
#error "NoisyStore promises equal bits everywhere: do not compile it with -ffast-math"
#endif

#if defined(__CUDACC__)
#define NOISYSTORE_HD __host__ __device__ inline
#else
#define NOISYSTORE_HD inline
#endif

namespace noisystore {

inline constexpr std::uint32_t kPhiloxM0 = 0xD2511F53u;
inline constexpr std::uint32_t kPhiloxM1 = 0xCD9E8D57u;
inline constexpr std::uint32_t kPhiloxW0 = 0x9E3779B9u;
inline constexpr std::uint32_t kPhiloxW1 = 0xBB67AE85u;
inline constexpr int kPhiloxRounds = 10;

// One round; the key goes on to the next.
NOISYSTORE_HD void philox_round(std::uint32_t& c0, std::uint32_t& c1, std::uint32_t& c2,
                                std::uint32_t& c3, std::uint32_t& key0, std::uint32_t& key1) {
  const std::uint64_t a = std::uint64_t{kPhiloxM0} * c0;
  const std::uint64_t b = std::uint64_t{kPhiloxM1} * c2;
  c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ key0;
  c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ key1;
  c1 = static_cast<std::uint32_t>(b);
  c3 = static_cast<std::uint32_t>(a);
  key0 += kPhiloxW0;
  key1 += kPhiloxW1;
}

NOISYSTORE_HD void philox4x32(const std::uint32_t counter[4], std::uint32_t key0,
                              std::uint32_t key1, std::uint32_t out[4]) {
  std::uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  for (int round = 0; round < kPhiloxRounds; ++round) philox_round(c0, c1, c2, c3, key0, key1);
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

}  // namespace noisystore
