// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in one AVX-512 vector. Included by cpu.cc inside a namespace and a target region.
// No include guard on purpose. Products are kept as in lanes_avx2.h.

typedef Vec Native;

FORCE_INLINE Vec join(__m512i even, __m512i odd) {
  return reinterpret_cast<Vec>(
      _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, static_cast<_MM_PERM_ENUM>(0xA0)));
}

// The state of the ten rounds: even and odd lanes of the four counter words.
struct State {
  __m512i e0, e1, e2, e3, o0, o1, o2, o3;
};

FORCE_INLINE __m512i xor3(__m512i a, __m512i b, __m512i c) {
  return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

FORCE_INLINE __m512i all_lanes(std::uint32_t value) {
  return _mm512_set1_epi64(static_cast<long long>(value));
}

// Rounds 1 to 3 where all lanes share draw, site and sample: half of their products are the same
// in every lane and are taken once, in scalar registers.
FORCE_INLINE void first_rounds(const Sampler& s, std::uint32_t draw, __m512i block,
                               std::uint32_t sample, State& x) {
  const __m512i m0 = all_lanes(kPhiloxM0), m1 = all_lanes(kPhiloxM1);
  const auto high = [](std::uint64_t product) { return static_cast<std::uint32_t>(product >> 32); };
  const auto low = [](std::uint64_t product) { return static_cast<std::uint32_t>(product); };
  const std::uint64_t a1 = std::uint64_t{kPhiloxM0} * draw;
  const std::uint64_t b1 = std::uint64_t{kPhiloxM1} * s.site;
  const __m512i e0 = block ^ all_lanes(high(b1) ^ s.key0);
  const __m512i o0 = _mm512_srli_epi64(block, 32) ^ all_lanes(high(b1) ^ s.key0);
  const std::uint64_t b2 = std::uint64_t{kPhiloxM1} * (high(a1) ^ sample ^ s.key1);
  const __m512i ea = _mm512_mul_epu32(e0, m0), oa = _mm512_mul_epu32(o0, m0);
  const std::uint32_t c0 = high(b2) ^ low(b1) ^ (s.key0 + kPhiloxW0);
  const __m512i c3_key = all_lanes(low(a1) ^ (s.key1 + kPhiloxW1));
  const __m512i e2 = _mm512_srli_epi64(ea, 32) ^ c3_key, o2 = _mm512_srli_epi64(oa, 32) ^ c3_key;
  const std::uint64_t a3 = std::uint64_t{kPhiloxM0} * c0;
  const __m512i eb = _mm512_mul_epu32(e2, m1), ob = _mm512_mul_epu32(o2, m1);
  const __m512i c1_key = all_lanes(low(b2) ^ (s.key0 + 2 * kPhiloxW0));
  const __m512i a3_key = all_lanes(high(a3) ^ (s.key1 + 2 * kPhiloxW1));
  x.e0 = _mm512_srli_epi64(eb, 32) ^ c1_key;
  x.o0 = _mm512_srli_epi64(ob, 32) ^ c1_key;
  x.e2 = ea ^ a3_key;
  x.o2 = oa ^ a3_key;
  x.e1 = eb;
  x.o1 = ob;
  x.e3 = x.o3 = all_lanes(low(a3));
}

template <bool kOneSample>
FORCE_INLINE void philox_tile(const Sampler& s, std::uint32_t draw, const Vec& block,
                              const Vec& sample, Vec out[4]) {
  const __m512i m0 = all_lanes(kPhiloxM0), m1 = all_lanes(kPhiloxM1);
  constexpr int kDone = kOneSample ? 3 : 0;
  State x;
  if constexpr (kOneSample) {
    first_rounds(s, draw, reinterpret_cast<__m512i>(block), sample[0], x);
  } else {
    x.e0 = x.o0 = all_lanes(draw);
    x.e2 = x.o2 = all_lanes(s.site);
    x.e1 = reinterpret_cast<__m512i>(block);
    x.e3 = reinterpret_cast<__m512i>(sample);
    x.o1 = _mm512_srli_epi64(x.e1, 32);
    x.o3 = _mm512_srli_epi64(x.e3, 32);
  }
  std::uint32_t key0 = s.key0 + kDone * kPhiloxW0, key1 = s.key1 + kDone * kPhiloxW1;
#pragma GCC unroll 10
  for (int round = kDone; round < kPhiloxRounds; ++round) {
    const __m512i k0 = all_lanes(key0), k1 = all_lanes(key1);
    const __m512i ea = _mm512_mul_epu32(x.e0, m0), eb = _mm512_mul_epu32(x.e2, m1);
    const __m512i oa = _mm512_mul_epu32(x.o0, m0), ob = _mm512_mul_epu32(x.o2, m1);
    x.e0 = xor3(_mm512_srli_epi64(eb, 32), x.e1, k0);
    x.e2 = xor3(_mm512_srli_epi64(ea, 32), x.e3, k1);
    x.o0 = xor3(_mm512_srli_epi64(ob, 32), x.o1, k0);
    x.o2 = xor3(_mm512_srli_epi64(oa, 32), x.o3, k1);
    x.e1 = eb;
    x.e3 = ea;
    x.o1 = ob;
    x.o3 = oa;
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  out[0] = join(x.e0, x.o0);
  out[1] = join(x.e1, x.o1);
  out[2] = join(x.e2, x.o2);
  out[3] = join(x.e3, x.o3);
}

FORCE_INLINE void scale_tile(const Vec& words, std::uint32_t n, Vec& high, Vec& low) {
  const __m512i w = reinterpret_cast<__m512i>(words), by = _mm512_set1_epi64(n);
  const __m512i even = _mm512_mul_epu32(w, by);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(w, 32), by);
  high = reinterpret_cast<Vec>(_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd));
  low = join(even, odd);
}

FORCE_INLINE bool any(const Vec& v) {
  const __m512i bits = reinterpret_cast<__m512i>(v);
  return _mm512_test_epi32_mask(bits, bits) != 0;
}

// Compressing in a register and storing all of it: the compressing store is slow on AMD.
FORCE_INLINE int append_where(const Vec& where, const Vec& values, std::uint32_t* out) {
  const __mmask16 lanes = _mm512_movepi32_mask(reinterpret_cast<__m512i>(where));
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(lanes, reinterpret_cast<__m512i>(values)));
  return __builtin_popcount(lanes);
}

FORCE_INLINE void xor_groups(unsigned char* at, const Vec flips[4]) {
  const auto part = [&](int i) { return reinterpret_cast<__m512i>(flips[i]); };
  const __m512i low01 = _mm512_unpacklo_epi32(part(0), part(1));
  const __m512i high01 = _mm512_unpackhi_epi32(part(0), part(1));
  const __m512i low23 = _mm512_unpacklo_epi32(part(2), part(3));
  const __m512i high23 = _mm512_unpackhi_epi32(part(2), part(3));
  const __m512i groups[4] = {
      _mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
      _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
  for (int k = 0; k < 4; ++k) {
    unsigned char* to = at + 64 * k;
    _mm512_storeu_si512(to, _mm512_loadu_si512(to) ^ groups[k]);
  }
}
