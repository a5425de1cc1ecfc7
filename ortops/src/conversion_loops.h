// SPDX-License-Identifier: Apache-2.0
// Storing and loading many values. Included by conversions.cc once per instruction set, inside a
// namespace and with TARGET, which the functions that loop are compiled for, and HAS_VALUES where
// there are vectors for hand-written conversions. No include guard on purpose.

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

#if HAS_VALUES

// By hand, for all but NaN: hardware quiets it, and the sum of Bfloat16 overflows.
template <class F>
TARGET void encode_sixteens(const Quantization& q, const unsigned char* x, unsigned char* words,
                            std::size_t count) {
  for (; count >= 16; count -= 16, x += 64, words += 32) {
    const Values a = read_values(x), b = read_values(x + 32);
    if (any_nan(a, b)) {
      encode_each<Float32, F>(q, x, words, 16);
    } else {
      write_words(words, Eight<F>::encode(a));
      write_words(words + 16, Eight<F>::encode(b));
    }
  }
  encode_each<Float32, F>(q, x, words, count);
}

template <class F>
TARGET void decode_sixteens(const Quantization& q, const unsigned char* words, unsigned char* y,
                            std::size_t count) {
  for (; count >= 16; count -= 16, y += 64, words += 32) {
    const Values a = Eight<F>::decode(read_words(words));
    const Values b = Eight<F>::decode(read_words(words + 16));
    if (any_nan(a, b)) {
      decode_each<Float32, F>(q, words, y, 16);
    } else {
      write_values(y, a);
      write_values(y + 32, b);
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
    const Values a = read_values(x), b = read_values(x + 32);
    if (any_nan(a, b)) {
      round_trip_each<F>(q, x, y, 16);
    } else {
      write_values(y, Eight<F>::round_trip(a));
      write_values(y + 32, Eight<F>::round_trip(b));
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
#if HAS_VALUES
    return {encode_sixteens<F>, decode_sixteens<F>, round_trip_sixteens<F>};
#else
    return {encode<X, F>, decode<X, F>};
#endif
  } else if constexpr (holds<F, X>()) {
    return {encode<X, F>, decode<X, F>, unchanged<sizeof(typename X::Word)>};
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
