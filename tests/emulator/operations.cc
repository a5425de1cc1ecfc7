// SPDX-License-Identifier: Apache-2.0
// What the instructions do. Rounding is the host's: to the nearest, ties to even. A NaN that
// arithmetic makes has a payload of its own each time, so that no result may depend on it.
#include <cmath>
#include <limits>
#include <type_traits>

#include "arithmetic.h"
#include "thread.h"

namespace emulator {
namespace {

using Access = Block::Access;

template <class T>
T any_nan(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    static u32 payload = 0;
    if (std::isnan(value)) {
      payload = payload * 1664525 + 1013904223;
      using Word = std::conditional_t<sizeof(T) == 4, u32, u64>;
      constexpr int mantissa = std::numeric_limits<T>::digits - 1;
      Word bits = ~Word{0} << (mantissa - 1);  // quiet, negative
      bits &= ~Word{0} >> (payload >> 31);     // or not
      bits |= static_cast<Word>(payload >> 8) & ((Word{1} << (mantissa - 1)) - 1);
      std::memcpy(&value, &bits, sizeof value);
    }
  }
  return value;
}

template <class T>
struct Type {
  using Value = T;
};

// Calls f with the type of a suffix; gives what f gives.
template <class F>
Run with_type(const std::string& name, F f) {
  if (name == "u8" || name == "b8") return f(Type<u8>{});
  if (name == "s8") return f(Type<s8>{});
  if (name == "u16" || name == "b16") return f(Type<u16>{});
  if (name == "s16") return f(Type<s16>{});
  if (name == "u32" || name == "b32") return f(Type<u32>{});
  if (name == "s32") return f(Type<s32>{});
  if (name == "u64" || name == "b64") return f(Type<u64>{});
  if (name == "s64") return f(Type<s64>{});
  if (name == "f32") return f(Type<float>{});
  if (name == "f64") return f(Type<double>{});
  if (name == "pred") return f(Type<bool>{});
  return nullptr;
}

template <class T, class F>
void unary(Thread& t, const Instruction& i) {
  set<T>(t, i.to[0], any_nan(static_cast<T>(F{}(get<T>(t, i.from[0])))));
}
template <class T, class F>
void binary(Thread& t, const Instruction& i) {
  set<T>(t, i.to[0], any_nan(static_cast<T>(F{}(get<T>(t, i.from[0]), get<T>(t, i.from[1])))));
}
template <class T, class F>
void ternary(Thread& t, const Instruction& i) {
  set<T>(t, i.to[0],
         any_nan(static_cast<T>(
             F{}(get<T>(t, i.from[0]), get<T>(t, i.from[1]), get<T>(t, i.from[2])))));
}
template <class T, class F>
void compare(Thread& t, const Instruction& i) {
  set<bool>(t, i.to[0], F{}(get<T>(t, i.from[0]), get<T>(t, i.from[1])));
}
// The shift is an unsigned word of 32 bits; beyond the width, nothing or signs are left.
template <class T, bool kLeft>
void shift(Thread& t, const Instruction& i) {
  const T value = get<T>(t, i.from[0]);
  const u32 by = get<u32>(t, i.from[1]);
  constexpr u32 width = sizeof(T) * 8;
  if constexpr (kLeft) {
    set<T>(t, i.to[0], by >= width ? T{0} : static_cast<T>(Unsigned<T>(value) << by));
  } else {
    set<T>(t, i.to[0],
           by >= width ? static_cast<T>(value < 0 ? -1 : 0) : static_cast<T>(value >> by));
  }
}
template <class T>
void move(Thread& t, const Instruction& i) {
  set<T>(t, i.to[0], get<T>(t, i.from[0]));
}
template <class T>
void select(Thread& t, const Instruction& i) {
  set<T>(t, i.to[0], get<T>(t, i.from[get<bool>(t, i.from[2]) ? 0 : 1]));
}
template <class T, class Wide>
void multiply_wide(Thread& t, const Instruction& i) {
  set<Wide>(t, i.to[0], static_cast<Wide>(Wide{get<T>(t, i.from[0])} * Wide{get<T>(t, i.from[1])}));
}
template <class To, class From>
void convert(Thread& t, const Instruction& i) {
  set<To>(t, i.to[0], any_nan(static_cast<To>(get<From>(t, i.from[0]))));
}
// bfi d, a, b, c, d: bits of a into b.
template <class T>
void insert_bits(Thread& t, const Instruction& i) {
  const u32 at = get<u32>(t, i.from[2]) & 0xFF, length = get<u32>(t, i.from[3]) & 0xFF;
  constexpr u32 width = sizeof(T) * 8;
  T mask = length >= width ? ~T{0} : static_cast<T>((T{1} << length) - 1);
  mask = at >= width ? T{0} : static_cast<T>(mask << at);
  const T moved = at >= width ? T{0} : static_cast<T>(get<T>(t, i.from[0]) << at);
  set<T>(t, i.to[0], static_cast<T>((moved & mask) | (get<T>(t, i.from[1]) & ~mask)));
}
// bfe d, a, b, c: c bits of a from bit b on.
template <class T>
void extract_bits(Thread& t, const Instruction& i) {
  const u32 at = get<u32>(t, i.from[1]) & 0xFF, length = get<u32>(t, i.from[2]) & 0xFF;
  constexpr u32 width = sizeof(T) * 8;
  const T mask = length >= width ? ~T{0} : static_cast<T>((T{1} << length) - 1);
  set<T>(t, i.to[0], at >= width ? T{0} : static_cast<T>(get<T>(t, i.from[0]) >> at & mask));
}
template <class Half, class T>
void unpack(Thread& t, const Instruction& i) {
  const T value = get<T>(t, i.from[0]);
  set<Half>(t, i.to[0], static_cast<Half>(value));
  set<Half>(t, i.to[1], static_cast<Half>(value >> (8 * sizeof(Half))));
}
template <class Half, class T>
void pack(Thread& t, const Instruction& i) {
  const T high = get<Half>(t, i.from[1]);
  set<T>(t, i.to[0], high << (8 * sizeof(Half)) | get<Half>(t, i.from[0]));
}
// prmt d, a, b, c: each nibble of c picks a byte of b and a, or its sign in all bits.
void permute(Thread& t, const Instruction& i) {
  const u64 bytes = u64{get<u32>(t, i.from[1])} << 32 | get<u32>(t, i.from[0]);
  const u32 picks = get<u32>(t, i.from[2]);
  u32 made = 0;
  for (u32 k = 0; k < 4; ++k) {
    const u32 pick = picks >> (4 * k) & 0xF;
    u32 byte = static_cast<u32>(bytes >> (8 * (pick & 7))) & 0xFF;
    if (pick & 8) byte = byte & 0x80 ? 0xFF : 0;
    made |= byte << (8 * k);
  }
  set<u32>(t, i.to[0], made);
}
template <class T>
void load(Thread& t, const Instruction& i) {
  const auto* from = reach(t, i, i.from[0], sizeof(T) * i.vector, Access::kRead);
  for (u32 k = 0; k < i.vector; ++k) {
    T value;
    std::memcpy(&value, from + k * sizeof(T), sizeof value);
    set<T>(t, i.to[k], value);
  }
}
template <class T>
void store(Thread& t, const Instruction& i) {
  unsigned char* to = reach(t, i, i.from[0], sizeof(T) * i.vector, Access::kWrite);
  for (u32 k = 0; k < i.vector; ++k) {
    const T value = get<T>(t, i.from[1 + k]);
    std::memcpy(to + k * sizeof(T), &value, sizeof value);
  }
}
template <class T>
void reduce_xor(Thread& t, const Instruction& i) {
  unsigned char* at = reach(t, i, i.from[0], sizeof(T), Access::kAtomic);
  T value;
  std::memcpy(&value, at, sizeof value);
  value ^= get<T>(t, i.from[1]);
  std::memcpy(at, &value, sizeof value);
}
template <class T>
void atomic_xor(Thread& t, const Instruction& i) {
  T value;
  std::memcpy(&value, reach(t, i, i.from[0], sizeof(T), Access::kAtomic), sizeof value);
  reduce_xor<T>(t, i);
  set<T>(t, i.to[0], value);
}

void branch(Thread& t, const Instruction& i) { t.at = i.target; }
void wait(Thread& t, const Instruction&) { t.state = State::kWaits; }
void end(Thread& t, const Instruction&) { t.state = State::kEnded; }
template <bool kIn>
void change_space(Thread& t, const Instruction& i) {
  const u64 address = get<u64>(t, i.from[0]);
  const u64 inside = address & (tagged(Space::kGlobal, 0) - 1);
  // The device's memory has the same addresses in its space and outside.
  const bool same = i.space == Space::kGlobal;
  const auto tag = static_cast<Space>(address >> kSpaceShift);
  if (tag != (kIn && !same ? i.space : Space::kGeneric)) throw Error("an address of another space");
  set<u64>(t, i.to[0], same ? address : kIn ? inside : tagged(i.space, inside));
}

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts(1);
  for (const char c : name) {
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

// Takes a part from behind the name, if it is there.
bool take(std::vector<std::string>& parts, const char* wanted) {
  if (parts.size() < 2 || parts[1] != wanted) return false;
  parts.erase(parts.begin() + 1);
  return true;
}

Space take_space(std::vector<std::string>& parts) {
  if (take(parts, "global")) return Space::kGlobal;
  if (take(parts, "shared")) return Space::kShared;
  if (take(parts, "local")) return Space::kLocal;
  if (take(parts, "param")) return Space::kParam;
  return Space::kGeneric;
}

template <class F>
Run on_integers(const std::string& type, const F&) {
  return with_type(type, [](auto t) -> Run {
    using T = typename decltype(t)::Value;
    if constexpr (kIsInteger<T> && kHasRegister<T>) return binary<T, F>;
    return nullptr;
  });
}
template <class F>
Run on_numbers(const std::string& type, const F&) {
  return with_type(type, [](auto t) -> Run {
    using T = typename decltype(t)::Value;
    if constexpr (!std::is_same_v<T, bool> && kHasRegister<T>) return binary<T, F>;
    return nullptr;
  });
}
template <class F>
Run on_bits(const std::string& type, const F&) {
  return with_type(type, [](auto t) -> Run {
    using T = typename decltype(t)::Value;
    if constexpr (std::is_unsigned_v<T>) return binary<T, F>;
    return nullptr;
  });
}
template <class F>
Run on_any(const std::string& type, const F&) {
  return with_type(type, [](auto t) -> Run { return compare<typename decltype(t)::Value, F>; });
}

Run find_compare(const std::string& how, const std::string& type) {
  if (how == "lt" || how == "lo") return on_any(type, Less{});
  if (how == "le" || how == "ls") return on_any(type, LessOrEqual{});
  if (how == "gt" || how == "hi") return on_any(type, Greater{});
  if (how == "ge" || how == "hs") return on_any(type, GreaterOrEqual{});
  if (how == "eq") return on_any(type, Equal{});
  if (how == "ne") return on_any(type, Unequal{});
  if (how == "neu") return on_any(type, UnequalOrUnordered{});
  if (how == "num") return on_any(type, Ordered{});
  if (how == "nan") return on_any(type, Unordered{});
  return nullptr;
}

Run find_convert(const std::string& to, const std::string& from, bool rounds) {
  return with_type(to, [&](auto t) -> Run {
    using To = typename decltype(t)::Value;
    return with_type(from, [&](auto f) -> Run {
      using From = typename decltype(f)::Value;
      if constexpr (std::is_same_v<To, bool> || std::is_same_v<From, bool>)
        return nullptr;
      else {
        // Integers of floats would have to clamp; no kernel makes them.
        constexpr bool integer = std::is_floating_point_v<From> && std::is_integral_v<To>;
        constexpr bool exact =
            std::is_integral_v<To> || (sizeof(To) > sizeof(From) && std::is_floating_point_v<From>);
        if (integer || exact == rounds) return nullptr;
        return convert<To, From>;
      }
    });
  });
}

Run find(std::vector<std::string>& parts, Instruction& instruction) {
  const std::string op = parts[0];
  if (op == "ret" || op == "exit") return end;
  if (op == "bra") {
    take(parts, "uni");
    return branch;
  }
  if (op == "bar" || op == "barrier") {
    take(parts, "cta");
    return take(parts, "sync") ? wait : nullptr;
  }
  if (op == "cvta") {
    const bool in = take(parts, "to");
    instruction.space = take_space(parts);
    if (instruction.space == Space::kGeneric || !take(parts, "u64")) return nullptr;
    return in ? change_space<true> : change_space<false>;
  }
  const bool atomic = op == "atom" || op == "red";
  if (op == "ld" || op == "st" || atomic) {
    instruction.space = take_space(parts);
    if (atomic && !take(parts, "xor")) return nullptr;
    if (take(parts, "v2")) instruction.vector = 2;
    if (take(parts, "v4")) instruction.vector = 4;
    if (parts.size() != 2) return nullptr;
    return with_type(parts[1], [&](auto t) -> Run {
      using T = typename decltype(t)::Value;
      if constexpr (std::is_same_v<T, bool>)
        return nullptr;
      else {
        if (op == "ld") return load<T>;
        if (op == "st") return store<T>;
        if constexpr (kIsInteger<T> && sizeof(T) >= 4)
          return op == "red" ? reduce_xor<T> : atomic_xor<T>;
        return nullptr;
      }
    });
  }
  if (op == "setp") return parts.size() == 3 ? find_compare(parts[1], parts[2]) : nullptr;
  const bool low = take(parts, "lo"), high = take(parts, "hi"), wide = take(parts, "wide");
  const bool rounds = take(parts, "rn");
  if (op == "cvt") return parts.size() == 3 ? find_convert(parts[1], parts[2], rounds) : nullptr;
  if (parts.size() != 2) return nullptr;
  const std::string& type = parts[1];
  if (op == "mul" && wide) {
    if (type == "u16") return multiply_wide<u16, u32>;
    if (type == "s16") return multiply_wide<s16, s32>;
    if (type == "u32") return multiply_wide<u32, u64>;
    if (type == "s32") return multiply_wide<s32, s64>;
    return nullptr;
  }
  if (high) return op == "mul" ? on_integers(type, MultiplyHigh{}) : nullptr;
  if (low && op == "mad") {
    return with_type(type, [](auto t) -> Run {
      using T = typename decltype(t)::Value;
      if constexpr (kIsInteger<T> && kHasRegister<T>) return ternary<T, MultiplyAdd>;
      return nullptr;
    });
  }
  // Floats without a rounding may be fused to one operation, by the assembler.
  const bool real = type[0] == 'f';
  if (op == "mul") return low != real && rounds == real ? on_numbers(type, Multiply{}) : nullptr;
  if (op == "add") return rounds == real ? on_numbers(type, Add{}) : nullptr;
  if (op == "sub") return rounds == real ? on_numbers(type, Subtract{}) : nullptr;
  if (op == "div") return rounds == real ? on_numbers(type, Divide{}) : nullptr;
  if (op == "unpack" || op == "pack") {
    if (type == "b64") return op == "pack" ? pack<u32, u64> : unpack<u32, u64>;
    if (type == "b32") return op == "pack" ? pack<u16, u32> : unpack<u16, u32>;
    return nullptr;
  }
  if (op == "bfe") {
    if (type == "u32") return extract_bits<u32>;
    return type == "u64" ? extract_bits<u64> : nullptr;
  }
  if (op == "prmt") return type == "b32" ? permute : nullptr;
  if (op == "rem") return on_integers(type, Remainder{});
  if (op == "min") return on_integers(type, Smaller{});
  if (op == "max") return on_integers(type, Larger{});
  if (op == "and") return on_bits(type, And{});
  if (op == "or") return on_bits(type, Or{});
  if (op == "xor") return on_bits(type, Xor{});
  return with_type(type, [&](auto t) -> Run {
    using T = typename decltype(t)::Value;
    if (op == "mov") return move<T>;
    if constexpr (!std::is_floating_point_v<T>) {
      if (op == "not") return unary<T, Not>;
    }
    if constexpr (!std::is_same_v<T, bool>) {
      if (op == "selp") return select<T>;
      if (op == "neg") return unary<T, Negate>;
      if constexpr (kIsInteger<T>) {
        if (op == "shl") return shift<T, true>;
        if (op == "shr") return shift<T, false>;
        if (op == "bfi" && std::is_unsigned_v<T>) return insert_bits<Unsigned<T>>;
      }
    }
    return nullptr;
  });
}

}  // namespace

Run find_operation(const std::string& name, Instruction& instruction) {
  std::vector<std::string> parts = parts_of(name);
  const Run found = find(parts, instruction);
  if (found == nullptr) throw Error("no operation " + name);
  return found;
}

}  // namespace emulator
