// SPDX-License-Identifier: Apache-2.0
// Eight float32 values as x86 vectors, with F16C. Included by conversions.cc inside a namespace,
// with TARGET, before conversion_loops.h. No include guard on purpose.

using Values = __m256;
using Words = __m128i;

TARGET inline Values read_values(const unsigned char* x) {
  return _mm256_loadu_ps(reinterpret_cast<const float*>(x));
}
TARGET inline void write_values(unsigned char* y, Values values) {
  _mm256_storeu_ps(reinterpret_cast<float*>(y), values);
}
TARGET inline Words read_words(const unsigned char* words) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(words));
}
TARGET inline void write_words(unsigned char* words, Words eight) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words), eight);
}

TARGET inline bool any_nan(Values a, Values b) {  // also where one is an ordinary number
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
}

// To and from words of 16 bits.
template <class F>
struct Eight;

template <>
struct Eight<Float16> {
  TARGET static Words encode(Values x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  TARGET static Values decode(Words words) { return _mm256_cvtph_ps(words); }
  TARGET static Values round_trip(Values x) { return decode(encode(x)); }
};

template <>
struct Eight<Bfloat16> {
  TARGET static __m256i rounded(Values x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  }
  TARGET static Words encode(Values x) {
    const __m256i words = _mm256_srli_epi32(rounded(x), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  TARGET static Values decode(Words words) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
  }
  TARGET static Values round_trip(Values x) {
    const __m256i kept = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    return _mm256_castsi256_ps(_mm256_and_si256(rounded(x), kept));
  }
};
