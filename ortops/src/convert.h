// SPDX-License-Identifier: Apache-2.0
// Storing and loading one value (noise-model version 1), as bits of the element type and of the
// storage format. Host and device.
//
// No branch, so that loops over it become vector code. NaN never passes through arithmetic, whose
// results differ between processors. What arithmetic there is, is IEEE arithmetic rounded to
// nearest even, without flushing of subnormal numbers; the caller sees to that.
#pragma once

#include <cstdint>
#include <cstring>

#include "philox.h"

#if defined(__CUDACC__)
#define NOISYSTORE_HD_INLINE __host__ __device__ __forceinline__
#else
#define NOISYSTORE_HD_INLINE inline __attribute__((always_inline))
#endif

namespace noisystore {

// A float's word is sign, exponent and mantissa from the top bit down. kSaturates: what overflows
// is the largest finite value. kOneNan: all ones is the only NaN, and there is no infinity.
template <class W, int kE, int kM, bool kSaturates = false, bool kOneNan = false>
struct FloatFormat {
  using Word = W;
  static constexpr bool kIsInteger = false;
  static constexpr int kExponentBits = kE, kMantissaBits = kM;
  static constexpr int kBias = (1 << (kE - 1)) - 1;
  static constexpr bool kHasOneNan = kOneNan;
  static constexpr W kMagnitude = static_cast<W>((W{1} << (kE + kM)) - 1);
  static constexpr W kHidden = static_cast<W>(W{1} << kM);
  static constexpr W kExponent = static_cast<W>(kMagnitude - (kHidden - 1));
  static constexpr W kOverflow = kOneNan      ? static_cast<W>(kMagnitude - 1)
                                 : kSaturates ? static_cast<W>(kExponent - 1)
                                              : kExponent;
};

// An integer of the low kBits of a word.
template <int kB, bool kS>
struct IntegerFormat {
  using Word = std::uint8_t;
  static constexpr bool kIsInteger = true;
  static constexpr int kBits = kB;
  static constexpr bool kSigned = kS;
};

struct Float32 : FloatFormat<std::uint32_t, 8, 23> {
  using Real = float;
  using Signed = std::int32_t;
  static constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23: sums with it are whole numbers
};
using Float16 = FloatFormat<std::uint16_t, 5, 10>;
using Bfloat16 = FloatFormat<std::uint16_t, 8, 7>;
struct Float64 : FloatFormat<std::uint64_t, 11, 52> {
  using Real = double;
  using Signed = std::int64_t;
  static constexpr double kWhole = 6755399441055744.0;  // 1.5 * 2^52
};
using Float8e4m3fn = FloatFormat<std::uint8_t, 4, 3, true, true>;
using Float8e5m2 = FloatFormat<std::uint8_t, 5, 2, true>;
using Int8 = IntegerFormat<8, true>;
using Uint8 = IntegerFormat<8, false>;
using Int4 = IntegerFormat<4, true>;
using Uint4 = IntegerFormat<4, false>;

// Of a float that is stored as an integer.
struct Quantization {
  float scale;
  std::int32_t zero_point;
  std::int32_t lowest, highest;  // of the storage format
};

template <class To, class From>
NOISYSTORE_HD_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T, class S>
struct Same {
  static constexpr bool value = false;
};
template <class T>
struct Same<T, T> {
  static constexpr bool value = true;
};

// From Float32 or Float64 to a format of fewer mantissa bits and no larger exponents.
template <class From, class To>
NOISYSTORE_HD_INLINE typename To::Word narrow(typename From::Word bits) {
  using U = typename From::Word;
  using S = typename From::Signed;  // of a magnitude, signed comparisons are faster
  constexpr int kM = From::kMantissaBits;
  constexpr int kDrop = kM - To::kMantissaBits;
  constexpr U kRebias = static_cast<U>(From::kBias - To::kBias);
  const U magnitude = bits & From::kMagnitude;
  const U fraction = magnitude & (From::kHidden - 1);
  // A carry out of the mantissa adds one to the exponent, as it should.
  const U rebiased = magnitude - (kRebias << kM);
  U result = (rebiased + ((U{1} << (kDrop - 1)) - 1) + (rebiased >> kDrop & 1)) >> kDrop;
  if constexpr (kRebias != 0) {
    // Below To's normal numbers: in a sum with this power of two the last place is To's smallest
    // number, so that the sum is rounded as To rounds.
    using Real = typename From::Real;
    constexpr U kPower = (kRebias + 1 + kDrop) << kM;
    const Real sum = bits_as<Real>(magnitude) + bits_as<Real>(kPower);
    constexpr S kNormal = (kRebias + 1) << kM;
    result = static_cast<S>(magnitude) < kNormal ? bits_as<U>(sum) - kPower : result;
    result = static_cast<S>(result) > S{To::kOverflow} ? U{To::kOverflow} : result;
  }
  const bool is_nan = static_cast<S>(magnitude) > S{From::kExponent};
  if constexpr (To::kHasOneNan) {
    result += is_nan;  // one above the largest number, which it has become
  } else {
    const U payload = fraction >> kDrop;
    result = is_nan ? To::kExponent | (payload == 0 ? U{1} : payload) : result;
  }
  constexpr int kSignShift = 8 * static_cast<int>(sizeof(U) - sizeof(typename To::Word));
  return static_cast<typename To::Word>((bits ^ magnitude) >> kSignShift | result);
}

// The magnitude of a number that is subnormal before it is widened to To: as the mantissa of a
// normal number, less that number's leading bit. Exact.
template <class To>
NOISYSTORE_HD_INLINE typename To::Word subnormal(typename To::Word mantissa,
                                                 typename To::Word rebias) {
  using U = typename To::Word;
  const U leading = rebias + To::kHidden;
  using Real = typename To::Real;
  return bits_as<U>(bits_as<Real>(mantissa + leading) - bits_as<Real>(leading));
}

// From a format of fewer exponent or mantissa bits; exact.
template <class From>
NOISYSTORE_HD_INLINE std::uint32_t widen_to_32(typename From::Word bits) {
  constexpr int kM = From::kMantissaBits;
  constexpr std::uint32_t kRebias = static_cast<std::uint32_t>(Float32::kBias - From::kBias) << 23;
  const std::uint32_t magnitude = bits & From::kMagnitude;
  const std::uint32_t sign = (bits ^ magnitude) << (32 - 8 * sizeof bits);
  if constexpr (kRebias == 0) return sign | magnitude << (23 - kM);
  std::uint32_t result = (magnitude << (23 - kM)) + kRebias;
  if constexpr (From::kHasOneNan) {
    result = magnitude == From::kMagnitude ? 0x7FC00000u : result;
  } else {
    result = magnitude >= From::kExponent ? result + kRebias : result;
  }
  result = magnitude < From::kHidden ? subnormal<Float32>(magnitude << (23 - kM), kRebias) : result;
  return sign | result;
}

NOISYSTORE_HD_INLINE std::uint64_t widen_to_64(std::uint32_t bits) {
  constexpr std::uint64_t kRebias = static_cast<std::uint64_t>(Float64::kBias - Float32::kBias)
                                    << 52;
  const std::int64_t magnitude = bits & Float32::kMagnitude;
  const std::uint64_t sign = std::uint64_t{bits & ~Float32::kMagnitude} << 32;
  const std::uint64_t shifted = static_cast<std::uint64_t>(magnitude) << 29;
  std::uint64_t result = shifted + kRebias;
  result = magnitude >= std::int64_t{Float32::kExponent} ? result + kRebias : result;
  result =
      magnitude < std::int64_t{Float32::kHidden} ? subnormal<Float64>(shifted, kRebias) : result;
  return sign | result;
}

// From one float format to another, rounded once: all that is narrower passes through Float32,
// which holds it exactly.
template <class From, class To>
NOISYSTORE_HD_INLINE typename To::Word convert(typename From::Word bits) {
  if constexpr (Same<From, To>::value) {
    return bits;
  } else if constexpr (Same<From, Float64>::value) {
    return narrow<Float64, To>(bits);
  } else if constexpr (!Same<From, Float32>::value) {
    return convert<Float32, To>(widen_to_32<From>(bits));
  } else if constexpr (Same<To, Float64>::value) {
    return widen_to_64(bits);
  } else {
    return narrow<Float32, To>(bits);
  }
}

// What integer storage of a tensor of X computes in.
template <class X>
struct Arithmetic {
  using Format = Float32;
};
template <>
struct Arithmetic<Float64> {
  using Format = Float64;
};

template <class X, class F>
NOISYSTORE_HD_INLINE typename F::Word store(typename X::Word x, const Quantization& q) {
  if constexpr (!F::kIsInteger) {
    return convert<X, F>(x);
  } else {
    using A = typename Arithmetic<X>::Format;
    using Real = typename A::Real;
    const Real value = bits_as<Real>(convert<X, A>(x));
    const Real lowest = static_cast<Real>(q.lowest - q.zero_point);
    const Real highest = static_cast<Real>(q.highest - q.zero_point);
    Real steps = value / static_cast<Real>(q.scale);
    // Between whole numbers clamping first gives what rounding first would.
    steps = steps < lowest ? lowest : steps;
    steps = steps > highest ? highest : steps;
    using W = typename A::Word;
    const W rounded = bits_as<W>(steps + A::kWhole) - bits_as<W>(A::kWhole);
    const W kept = value == value ? rounded : W{0};
    const std::uint32_t word =
        static_cast<std::uint32_t>(kept) + static_cast<std::uint32_t>(q.zero_point);
    return static_cast<std::uint8_t>(word & ((1u << F::kBits) - 1));
  }
}

template <class X, class F>
NOISYSTORE_HD_INLINE typename X::Word load(typename F::Word word, const Quantization& q) {
  if constexpr (!F::kIsInteger) {
    return convert<F, X>(word);
  } else {
    using A = typename Arithmetic<X>::Format;
    using Real = typename A::Real;
    constexpr std::int32_t kSign = F::kSigned ? 1 << (F::kBits - 1) : 0;
    const std::int32_t number = ((word & ((1 << F::kBits) - 1)) ^ kSign) - kSign;
    const Real value = static_cast<Real>(number - q.zero_point) * static_cast<Real>(q.scale);
    return convert<A, X>(bits_as<typename A::Word>(value));
  }
}

}  // namespace noisystore
