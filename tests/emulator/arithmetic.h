// SPDX-License-Identifier: Apache-2.0
// Arithmetic of PTX's instructions on values.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ptx.h"

namespace emulator {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

template <class T>
using Unsigned = std::conditional_t<
    sizeof(T) == 1, u8,
    std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>>;

#define OPERATION(name, expression)   \
  struct name {                       \
    template <class T>                \
    auto operator()(T a, T b) const { \
      return expression;              \
    }                                 \
  };
OPERATION(Less, a < b)
OPERATION(LessOrEqual, a <= b)
OPERATION(Greater, a > b)
OPERATION(GreaterOrEqual, a >= b)
OPERATION(Equal, a == b)
OPERATION(Unequal, a<b || a> b)
OPERATION(UnequalOrUnordered, a != b)
OPERATION(Ordered, a == a && b == b)
OPERATION(Unordered, a != a || b != b)
OPERATION(Smaller, a < b ? a : b)
OPERATION(Larger, a > b ? a : b)
OPERATION(And, static_cast<T>(a& b))
OPERATION(Or, static_cast<T>(a | b))
OPERATION(Xor, static_cast<T>(a ^ b))
#undef OPERATION

template <class T>
constexpr bool kIsInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;
// Arithmetic is in registers of 16 bits and more.
template <class T>
constexpr bool kHasRegister = sizeof(T) >= 2;

// Integers wrap; unsigned arithmetic gives the same bits.
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a + b;
    else
      return static_cast<T>(Unsigned<T>(a) + Unsigned<T>(b));
  }
};
struct Subtract {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a - b;
    else
      return static_cast<T>(Unsigned<T>(a) - Unsigned<T>(b));
  }
};
struct Multiply {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a * b;
    else
      return static_cast<T>(u64{Unsigned<T>(a)} * Unsigned<T>(b));
  }
};
struct MultiplyAdd {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(Multiply{}(a, b), c);
  }
};
struct MultiplyHigh {
  template <class T>
  T operator()(T a, T b) const {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> (8 * sizeof(T)));
  }
};
struct Divide {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      return a / b;
    } else {
      if (b == 0) throw Error("divides by zero");
      return static_cast<T>(a / b);
    }
  }
};
struct Remainder {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) throw Error("divides by zero");
    return static_cast<T>(a % b);
  }
};
struct Negate {
  template <class T>
  T operator()(T a) const {
    if constexpr (std::is_floating_point_v<T>)
      return -a;
    else
      return static_cast<T>(Unsigned<T>{0} - Unsigned<T>(a));
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    if constexpr (std::is_same_v<T, bool>)
      return !a;
    else
      return static_cast<T>(~a);
  }
};

}  // namespace emulator
