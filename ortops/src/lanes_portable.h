// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in plain loops and 128-bit vectors: SSE2 or NEON, and a reference for the others.
// Included by cpu.cc inside a namespace. No include guard on purpose.

typedef std::uint32_t Native __attribute__((vector_size(16)));

// Plain loops over the lanes: the compiler turns them into SSE2 or NEON.
template <bool kOneSample>
FORCE_INLINE void philox_tile(const Sampler& s, std::uint32_t draw, const Vec& block,
                              const Vec& sample, Vec out[4]) {
  for (int l = 0; l < kLanes; ++l) {
    std::uint32_t c0 = draw, c1 = block[l], c2 = s.site, c3 = sample[l];
    std::uint32_t key0 = s.key0, key1 = s.key1;
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) philox_round(c0, c1, c2, c3, key0, key1);
    out[0][l] = c0;
    out[1][l] = c1;
    out[2][l] = c2;
    out[3][l] = c3;
  }
}

FORCE_INLINE void scale_tile(const Vec& words, std::uint32_t n, Vec& high, Vec& low) {
  for (int l = 0; l < kLanes; ++l) {
    const std::uint64_t product = std::uint64_t{words[l]} * n;
    high[l] = static_cast<std::uint32_t>(product >> 32);
    low[l] = static_cast<std::uint32_t>(product);
  }
}

FORCE_INLINE bool any(const Vec& v) {
  std::uint64_t part[kLanes / 2];
  std::memcpy(part, &v, sizeof part);
  std::uint64_t all = 0;
  for (const std::uint64_t two : part) all |= two;
  return all != 0;
}

// Appends the values of the lanes that are all ones in `where`; may write kLanes words.
FORCE_INLINE int append_where(const Vec& where, const Vec& values, std::uint32_t* out) {
  int count = 0;
  for (int l = 0; l < kLanes; ++l) {
    out[count] = values[l];
    count += static_cast<int>(where[l] & 1);
  }
  return count;
}

FORCE_INLINE void xor_groups(unsigned char* at, const Vec flips[4]) {
  for (int l = 0; l < kLanes; ++l) flip_group(at + 16 * kBlockOfLane[l], 16, GroupFlips(flips, l));
}
