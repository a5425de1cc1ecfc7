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

namespace noisystore {
namespace {

constexpr int kLanes = 16;
typedef std::uint32_t Vec __attribute__((vector_size(4 * kLanes)));

void flip_bit(unsigned char* words, std::uint64_t bit) {
  words[bit >> 3] ^= static_cast<unsigned char>(1u << (bit & 7));
}

// Applies flips to words in memory.
struct FlipSink {
  unsigned char* words;

  template <class Lanes>
  FORCE_INLINE void positions(const Sampler& s, const Lanes& lanes, const std::uint32_t* flips,
                              int flip_count) {
    constexpr std::uint32_t kPosition = (1u << 21) - 1;
    const std::uint64_t bits = s.word_bits;
    if (s.noisy_bits == s.word_bits) {
      for (int i = 0; i < flip_count; ++i) {
        const std::uint32_t l = flips[i] >> 21, position = flips[i] & kPosition;
        if (position < lanes.count[l] * bits) flip_bit(words, lanes.first[l] * bits + position);
      }
      return;
    }
    for (int i = 0; i < flip_count; ++i) {
      const std::uint32_t l = flips[i] >> 21, position = flips[i] & kPosition;
      const std::uint32_t element = element_of(s, position);
      if (element >= lanes.count[l]) continue;
      flip_bit(words,
               (lanes.first[l] + element) * bits + s.bit_of[position - element * s.noisy_bits]);
    }
  }

  template <class Lanes, class Words>
  void candidates(const Sampler& s, const Lanes& lanes, int l, const Words& block_words) {
    visit_candidates(s, block_words, [&](std::uint32_t element, unsigned bit, std::uint64_t a) {
      if (element >= lanes.count[l]) return;
      const std::uint64_t at = (lanes.first[l] + element) * s.word_bits + bit;
      if (stands(s, words[at >> 3] >> (at & 7) & 1, a)) flip_bit(words, at);
    });
  }

  template <class Lanes>
  FORCE_INLINE void load(const Sampler& s, const Lanes& lanes, Vec stored[4]) {
    for (int l = 0; l < kLanes; ++l) {
      std::uint32_t part[4] = {0, 0, 0, 0};
      if (lanes.count[l] > 0) {
        std::memcpy(part, words + lanes.first[l] * s.word_bits / 8,
                    lanes.count[l] * s.word_bits / 8);
      }
      for (int i = 0; i < 4; ++i) stored[i][l] = part[i];
    }
  }

  FORCE_INLINE void group(const Sampler& s, std::uint64_t, std::uint64_t first,
                          std::uint64_t count, const Vec flips[4], int l) {
    unsigned char* at = words + first * s.word_bits / 8;
    std::uint64_t low = flips[0][l] | std::uint64_t{flips[1][l]} << 32;
    std::uint64_t high = flips[2][l] | std::uint64_t{flips[3][l]} << 32;
    std::uint64_t part[2] = {0, 0};
    const std::uint64_t bytes = count * s.word_bits / 8;
    if (bytes == sizeof part) {
      std::memcpy(part, at, sizeof part);
      part[0] ^= low;
      part[1] ^= high;
      std::memcpy(at, part, sizeof part);
    } else {
      std::memcpy(part, at, bytes);
      part[0] ^= low;
      part[1] ^= high;
      std::memcpy(at, part, bytes);
    }
  }
};

// Counts the flips of every sample.
struct CountSink {
  std::int64_t* flips_of_row;

  FORCE_INLINE void group(const Sampler&, std::uint64_t row, std::uint64_t, std::uint64_t,
                          const Vec flips[4], int l) {
    int flips_here = 0;
    for (int i = 0; i < 4; ++i) flips_here += __builtin_popcount(flips[i][l]);
    flips_of_row[row] += flips_here;
  }
};

namespace portable {

// Plain loops over the lanes: the compiler turns them into SSE2 or NEON.
FORCE_INLINE void philox_tile(const Sampler& s, std::uint32_t draw, const Vec& block,
                              const Vec& sample, Vec out[4]) {
  for (int l = 0; l < kLanes; ++l) {
    std::uint32_t c0 = draw, c1 = block[l], c2 = s.site, c3 = sample[l];
    std::uint32_t key0 = s.key0, key1 = s.key1;
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const std::uint64_t a = std::uint64_t{kPhiloxM0} * c0;
      const std::uint64_t b = std::uint64_t{kPhiloxM1} * c2;
      c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ key0;
      c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ key1;
      c1 = static_cast<std::uint32_t>(b);
      c3 = static_cast<std::uint32_t>(a);
      key0 += kPhiloxW0;
      key1 += kPhiloxW1;
    }
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

// Appends the values of the lanes that are all ones in `where`; may write kLanes words.
FORCE_INLINE int append_where(const Vec& where, const Vec& values, std::uint32_t* out) {
  int count = 0;
  for (int l = 0; l < kLanes; ++l) {
    out[count] = values[l];
    count += static_cast<int>(where[l] & 1);
  }
  return count;
}

#include "tiles.h"

}  // namespace portable

#if defined(__x86_64__)

// The 64-bit products of the even lanes and of the odd lanes are kept apart: multiplication takes
// the low half of each 64-bit lane, so the upper halves may hold anything.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace avx2 {

FORCE_INLINE __m256i join(__m256i even, __m256i odd) {
  return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

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

using portable::append_where;

#include "tiles.h"

}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
namespace avx512 {

FORCE_INLINE Vec join(__m512i even, __m512i odd) {
  return reinterpret_cast<Vec>(
      _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, static_cast<_MM_PERM_ENUM>(0xA0)));
}

FORCE_INLINE void philox_tile(const Sampler& s, std::uint32_t draw, const Vec& block,
                              const Vec& sample, Vec out[4]) {
  const __m512i m0 = _mm512_set1_epi64(kPhiloxM0), m1 = _mm512_set1_epi64(kPhiloxM1);
  std::uint32_t key0 = s.key0, key1 = s.key1;
  __m512i e0 = _mm512_set1_epi64(draw), e2 = _mm512_set1_epi64(s.site), o0 = e0, o2 = e2;
  __m512i e1 = reinterpret_cast<__m512i>(block), e3 = reinterpret_cast<__m512i>(sample);
  __m512i o1 = _mm512_srli_epi64(e1, 32), o3 = _mm512_srli_epi64(e3, 32);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const __m512i k0 = _mm512_set1_epi64(key0), k1 = _mm512_set1_epi64(key1);
    const __m512i ea = _mm512_mul_epu32(e0, m0), eb = _mm512_mul_epu32(e2, m1);
    const __m512i oa = _mm512_mul_epu32(o0, m0), ob = _mm512_mul_epu32(o2, m1);
    constexpr int kXor3 = 0x96;
    e0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(eb, 32), e1, k0, kXor3);
    e2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(ea, 32), e3, k1, kXor3);
    e1 = eb;
    e3 = ea;
    o0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(ob, 32), o1, k0, kXor3);
    o2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(oa, 32), o3, k1, kXor3);
    o1 = ob;
    o3 = oa;
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  out[0] = join(e0, o0);
  out[1] = join(e1, o1);
  out[2] = join(e2, o2);
  out[3] = join(e3, o3);
}

FORCE_INLINE void scale_tile(const Vec& words, std::uint32_t n, Vec& high, Vec& low) {
  const __m512i w = reinterpret_cast<__m512i>(words), by = _mm512_set1_epi64(n);
  const __m512i even = _mm512_mul_epu32(w, by);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(w, 32), by);
  high = reinterpret_cast<Vec>(
      _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd));
  low = join(even, odd);
}

// Compressing in a register and storing all of it: the compressing store is slow on AMD.
FORCE_INLINE int append_where(const Vec& where, const Vec& values, std::uint32_t* out) {
  const __mmask16 lanes = _mm512_movepi32_mask(reinterpret_cast<__m512i>(where));
  _mm512_storeu_si512(out,
                      _mm512_maskz_compress_epi32(lanes, reinterpret_cast<__m512i>(values)));
  return __builtin_popcount(lanes);
}

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
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      list[used++] = &kAvx512;
    }
    if (__builtin_cpu_supports("avx2")) list[used++] = &kAvx2;
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
