// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in two AVX2 halves. Included by cpu.cc inside a namespace and a target region.
// No include guard on purpose.
//
// The 64-bit products of the even lanes and of the odd lanes are kept apart: multiplication takes
// the low half of each 64-bit lane, so the upper halves may hold anything.

typedef std::uint32_t Native __attribute__((vector_size(32)));

// order[mask]: the set bits' numbers, ascending, for compressing eight lanes.
struct CompressOrder {
  std::uint8_t order[256][8] = {};
  constexpr CompressOrder() {
    for (int mask = 0; mask < 256; ++mask) {
      int used = 0;
      for (int bit = 0; bit < 8; ++bit) {
        if (mask >> bit & 1) order[mask][used++] = static_cast<std::uint8_t>(bit);
      }
    }
  }
};
constexpr CompressOrder kCompress;

FORCE_INLINE __m256i join(__m256i even, __m256i odd) {
  return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

template <bool kOneSample>
FORCE_INLINE void philox_tile(const Sampler& s, std::uint32_t draw, const Vec& block,
                              const Vec& sample, Vec out[4]) {
  const __m256i m0 = _mm256_set1_epi64x(kPhiloxM0), m1 = _mm256_set1_epi64x(kPhiloxM1);
  for (int half = 0; half < 2; ++half) {
    std::uint32_t key0 = s.key0, key1 = s.key1;
    __m256i e0 = _mm256_set1_epi64x(draw), e2 = _mm256_set1_epi64x(s.site), o0 = e0, o2 = e2;
    __m256i e1, e3;
    std::memcpy(&e1, reinterpret_cast<const char*>(&block) + 32 * half, 32);
    std::memcpy(&e3, reinterpret_cast<const char*>(&sample) + 32 * half, 32);
    __m256i o1 = _mm256_srli_epi64(e1, 32), o3 = _mm256_srli_epi64(e3, 32);
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const __m256i k0 = _mm256_set1_epi64x(key0), k1 = _mm256_set1_epi64x(key1);
      const __m256i ea = _mm256_mul_epu32(e0, m0), eb = _mm256_mul_epu32(e2, m1);
      const __m256i oa = _mm256_mul_epu32(o0, m0), ob = _mm256_mul_epu32(o2, m1);
      e0 = _mm256_srli_epi64(eb, 32) ^ e1 ^ k0;
      e2 = _mm256_srli_epi64(ea, 32) ^ e3 ^ k1;
      e1 = eb;
      e3 = ea;
      o0 = _mm256_srli_epi64(ob, 32) ^ o1 ^ k0;
      o2 = _mm256_srli_epi64(oa, 32) ^ o3 ^ k1;
      o1 = ob;
      o3 = oa;
      key0 += kPhiloxW0;
      key1 += kPhiloxW1;
    }
    const __m256i words[4] = {join(e0, o0), join(e1, o1), join(e2, o2), join(e3, o3)};
    for (int i = 0; i < 4; ++i) {
      std::memcpy(reinterpret_cast<char*>(&out[i]) + 32 * half, &words[i], 32);
    }
  }
}

FORCE_INLINE void scale_tile(const Vec& words, std::uint32_t n, Vec& high, Vec& low) {
  for (int half = 0; half < 2; ++half) {
    __m256i w;
    std::memcpy(&w, reinterpret_cast<const char*>(&words) + 32 * half, 32);
    const __m256i even = _mm256_mul_epu32(w, _mm256_set1_epi64x(n));
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(w, 32), _mm256_set1_epi64x(n));
    const __m256i h = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    const __m256i l = join(even, odd);
    std::memcpy(reinterpret_cast<char*>(&high) + 32 * half, &h, 32);
    std::memcpy(reinterpret_cast<char*>(&low) + 32 * half, &l, 32);
  }
}

FORCE_INLINE bool any(const Vec& v) {
  __m256i half[2];
  std::memcpy(half, &v, sizeof half);
  const __m256i all = half[0] | half[1];
  return !_mm256_testz_si256(all, all);
}

FORCE_INLINE int append_where(const Vec& where, const Vec& values, std::uint32_t* out) {
  int count = 0;
  for (int half = 0; half < 2; ++half) {
    __m256i w, v;
    std::memcpy(&w, reinterpret_cast<const char*>(&where) + 32 * half, 32);
    std::memcpy(&v, reinterpret_cast<const char*>(&values) + 32 * half, 32);
    const auto lanes = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(w)));
    const __m256i order = _mm256_cvtepu8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kCompress.order[lanes])));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + count),
                        _mm256_permutevar8x32_epi32(v, order));
    count += __builtin_popcount(lanes);
  }
  return count;
}

FORCE_INLINE void xor_groups(unsigned char* at, const Vec flips[4]) {
  for (int half = 0; half < 2; ++half) {
    __m256i part[4];
    for (int i = 0; i < 4; ++i) {
      std::memcpy(&part[i], reinterpret_cast<const char*>(&flips[i]) + 32 * half, 32);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(part[0], part[1]);
    const __m256i high01 = _mm256_unpackhi_epi32(part[0], part[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(part[2], part[3]);
    const __m256i high23 = _mm256_unpackhi_epi32(part[2], part[3]);
    const __m256i groups[4] = {
        _mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (int k = 0; k < 4; ++k) {
      auto* to = reinterpret_cast<__m256i*>(at + 64 * k + 32 * half);
      _mm256_storeu_si256(to, _mm256_loadu_si256(to) ^ groups[k]);
    }
  }
}
