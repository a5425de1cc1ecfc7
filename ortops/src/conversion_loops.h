// SPDX-License-Identifier: Apache-2.0
// Storing and loading many values. Included by conversions.cc once per instruction set, inside a
// namespace and with TARGET, which the functions that loop are compiled for. No include guard on
// purpose.

template <class X, class F>
inline __attribute__((always_inline)) void encode_each(const Quantization& q,
                                                       const unsigned char* x, unsigned char* words,
                                                       std::size_t count) {
  const Quantization quantization = q;  // a copy: writes through `words` cannot change it
  for (std::size_t i = 0; i < count; ++i) {
    typename X::Word value;
    std::memcpy(&value, x + i * sizeof value, sizeof value);
    const typename F::Word word = store<X, F>(value, quantization);
    std::memcpy(words + i * sizeof word, &word, sizeof word);
  }
}

template <class X, class F>
inline __attribute__((always_inline)) void decode_each(const Quantization& q,
                                                       const unsigned char* words, unsigned char* y,
                                                       std::size_t count) {
  const Quantization quantization = q;
  for (std::size_t i = 0; i < count; ++i) {
    typename F::Word word;
    std::memcpy(&word, words + i * sizeof word, sizeof word);
    const typename X::Word value = load<X, F>(word, quantization);
    std::memcpy(y + i * sizeof value, &value, sizeof value);
  }
}

template <class X, class F>
TARGET void encode(const Quantization& q, const unsigned char* x, unsigned char* words,
                   std::size_t count) {
  encode_each<X, F>(q, x, words, count);
}

template <class X, class F>
TARGET void decode(const Quantization& q, const unsigned char* words, unsigned char* y,
                   std::size_t count) {
  decode_each<X, F>(q, words, y, count);
}

#if defined(USE_F16C)

// Eight values by hand, for all but NaN: hardware quiets it, and the sum of Bfloat16 overflows.
template <class F>
struct Eight;

template <>
struct Eight<Float16> {
  TARGET static __m128i encode(__m256 x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  TARGET static __m256 decode(__m128i words) { return _mm256_cvtph_ps(words); }
  TARGET static __m256 round_trip(__m256 x) { return decode(encode(x)); }
};

template <>
struct Eight<Bfloat16> {
  TARGET static __m256i rounded(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  }
  TARGET static __m128i encode(__m256 x) {
    const __m256i words = _mm256_srli_epi32(rounded(x), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  TARGET static __m256 decode(__m128i words) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
  }
  TARGET static __m256 round_trip(__m256 x) {
    const __m256i kept = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    return _mm256_castsi256_ps(_mm256_and_si256(rounded(x), kept));
  }
};

TARGET inline __m256 read_eight(const unsigned char* x) {
  return _mm256_loadu_ps(reinterpret_cast<const float*>(x));
}

TARGET inline bool any_nan(__m256 a, __m256 b) {  // also where one is an ordinary number
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
}

template <class F>
TARGET void encode_sixteens(const Quantization& q, const unsigned char* x, unsigned char* words,
                            std::size_t count) {
  for (; count >= 16; count -= 16, x += 64, words += 32) {
    const __m256 a = read_eight(x), b = read_eight(x + 32);
    if (any_nan(a, b)) {
      encode_each<Float32, F>(q, x, words, 16);
    } else {
      auto* out = reinterpret_cast<__m128i*>(words);
      _mm_storeu_si128(out, Eight<F>::encode(a));
      _mm_storeu_si128(out + 1, Eight<F>::encode(b));
    }
  }
  encode_each<Float32, F>(q, x, words, count);
}

template <class F>
TARGET void decode_sixteens(const Quantization& q, const unsigned char* words, unsigned char* y,
                            std::size_t count) {
  for (; count >= 16; count -= 16, y += 64, words += 32) {
    const auto* in = reinterpret_cast<const __m128i*>(words);
    const __m256 a = Eight<F>::decode(_mm_loadu_si128(in));
    const __m256 b = Eight<F>::decode(_mm_loadu_si128(in + 1));
    if (any_nan(a, b)) {
      decode_each<Float32, F>(q, words, y, 16);
    } else {
      auto* out = reinterpret_cast<float*>(y);
      _mm256_storeu_ps(out, a);
      _mm256_storeu_ps(out + 8, b);
    }
  }
  decode_each<Float32, F>(q, words, y, count);
}

template <class F>
inline __attribute__((always_inline)) void round_trip_each(const Quantization& q,
                                                           const unsigned char* x, unsigned char* y,
                                                           std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    Float32::Word value;
    std::memcpy(&value, x + i * sizeof value, sizeof value);
    value = load<Float32, F>(store<Float32, F>(value, q), q);
    std::memcpy(y + i * sizeof value, &value, sizeof value);
  }
}

template <class F>
TARGET void round_trip_sixteens(const Quantization& q, const unsigned char* x, unsigned char* y,
                                std::size_t count) {
  for (; count >= 16; count -= 16, x += 64, y += 64) {
    const __m256 a = read_eight(x), b = read_eight(x + 32);
    if (any_nan(a, b)) {
      round_trip_each<F>(q, x, y, 16);
    } else {
      auto* out = reinterpret_cast<float*>(y);
      _mm256_storeu_ps(out, Eight<F>::round_trip(a));
      _mm256_storeu_ps(out + 8, Eight<F>::round_trip(b));
    }
  }
  round_trip_each<F>(q, x, y, count);
}

#endif

template <class X, class F>
constexpr Conversion conversion_of() {
  if constexpr (Same<X, F>::value) {
    return {};
  } else if constexpr (Same<X, Float32>::value &&
                       (Same<F, Float16>::value || Same<F, Bfloat16>::value)) {
#if defined(USE_F16C)
    return {encode_sixteens<F>, decode_sixteens<F>, round_trip_sixteens<F>};
#else
    return {encode<X, F>, decode<X, F>};
#endif
  } else {
    return {encode<X, F>, decode<X, F>};
  }
}

template <class X>
struct ConversionsOf {
  static constexpr Conversion kList[kStorageFormats] = {
      conversion_of<X, Float32>(), conversion_of<X, Float16>(),      conversion_of<X, Bfloat16>(),
      conversion_of<X, Float64>(), conversion_of<X, Float8e4m3fn>(), conversion_of<X, Float8e5m2>(),
      conversion_of<X, Int8>(),    conversion_of<X, Uint8>(),        conversion_of<X, Int4>(),
      conversion_of<X, Uint4>()};
};

// In the order of Format.
constexpr const Conversion* kConversions[kConvertedTypes] = {
    ConversionsOf<Float32>::kList, ConversionsOf<Float16>::kList, ConversionsOf<Bfloat16>::kList,
    ConversionsOf<Float64>::kList};
