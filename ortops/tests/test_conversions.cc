// SPDX-License-Identifier: Apache-2.0
// Conversions of every table against plain ones that work on values: the nearest of all values of a
// small format by search, the machine's own casts for the large ones.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "conversions.h"
#include "cpu.h"

using namespace noisystore;

namespace {

using Words = std::vector<std::uint64_t>;

struct Fields {
  int exponent, mantissa;
  bool saturates, one_nan;
};

constexpr Fields kFields[] = {{8, 23, false, false},  {5, 10, false, false}, {8, 7, false, false},
                              {11, 52, false, false}, {4, 3, true, true},    {5, 2, true, false}};

const Fields& fields(Format format) { return kFields[static_cast<int>(format)]; }

struct Parts {
  std::uint64_t sign, magnitude, mantissa, infinity;
};

Parts parts_of(Format format, std::uint64_t word) {
  const Fields& f = fields(format);
  const std::uint64_t top = std::uint64_t{1} << (f.exponent + f.mantissa);
  const std::uint64_t hidden = std::uint64_t{1} << f.mantissa;
  return {word / top, word % top, word % hidden, top - hidden};
}

bool is_nan(Format format, std::uint64_t word) {
  const Parts p = parts_of(format, word);
  return fields(format).one_nan ? p.magnitude == 0x7F : p.magnitude > p.infinity;
}

// The magnitude as if there were neither NaN nor infinity.
double magnitude_value(Format format, std::uint64_t magnitude) {
  const Fields& f = fields(format);
  const int field = static_cast<int>(magnitude >> f.mantissa);
  const double fraction = static_cast<double>(parts_of(format, magnitude).mantissa);
  const int bias = (1 << (f.exponent - 1)) - 1;
  const double hidden = field > 0 ? std::ldexp(1.0, f.mantissa) : 0;
  return std::ldexp(fraction + hidden, std::max(field, 1) - bias - f.mantissa);
}

template <class T, class U>
U word_of(T value) {
  U word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

template <class T, class U>
T value_of(U word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Nearest to a value that is not negative, infinity included; ties to the even word.
std::uint64_t nearest(Format to, double value) {
  const Fields& f = fields(to);
  const std::uint64_t infinity = parts_of(to, 0).infinity;
  const std::uint64_t past = f.one_nan ? 0x7F : infinity;  // the first that is no finite number
  std::uint64_t low = 0, high = past;
  while (high - low > 1) {
    const std::uint64_t middle = (low + high) / 2;
    (magnitude_value(to, middle) <= value ? low : high) = middle;
  }
  const double half = (magnitude_value(to, low) + magnitude_value(to, low + 1)) / 2;
  const bool up = value > half || (value == half && low % 2 == 1);
  const std::uint64_t found = low + up;
  if (found < past) return found;
  return f.saturates ? past - 1 : infinity;
}

std::uint64_t plain_convert(Format from, Format to, std::uint64_t word) {
  const Parts p = parts_of(from, word);
  const Fields &f = fields(from), &t = fields(to);
  const std::uint64_t sign = p.sign << (t.exponent + t.mantissa);
  if (is_nan(from, word)) {
    if (t.one_nan) return sign | 0x7F;
    const std::uint64_t payload =
        f.one_nan ? std::uint64_t{1} << 63 : p.mantissa << (64 - f.mantissa);
    const std::uint64_t kept = payload >> (64 - t.mantissa);
    return sign | parts_of(to, 0).infinity | (kept == 0 ? 1 : kept);
  }
  const double value = !f.one_nan && p.magnitude == p.infinity
                           ? std::numeric_limits<double>::infinity()
                           : magnitude_value(from, p.magnitude);
  if (to == Format::kFloat64) return sign | word_of<double, std::uint64_t>(value);
  if (to == Format::kFloat32) {
    return sign | word_of<float, std::uint32_t>(static_cast<float>(value));
  }
  return sign | nearest(to, value);
}

template <class Real>
std::uint64_t plain_quantize(Format format, Real value, const Quantization& q) {
  const FormatInfo& f = info(format);
  double number = q.zero_point;
  if (value == value) {
    const Real quotient = value / static_cast<Real>(q.scale);
    number += static_cast<double>(std::nearbyint(quotient));
  }
  number = std::min<double>(std::max<double>(number, f.lowest), f.highest);
  return static_cast<std::uint64_t>(static_cast<int>(number)) & ((1u << f.noisy_bits) - 1);
}

int integer_of(Format format, std::uint64_t word) {
  const FormatInfo& f = info(format);
  const int number = static_cast<int>(word % (1u << f.noisy_bits));
  return number > f.highest ? number - (1 << f.noisy_bits) : number;
}

std::uint64_t plain_store(Format type, Format format, std::uint64_t x, const Quantization& q) {
  if (!info(format).is_integer()) return plain_convert(type, format, x);
  if (type == Format::kFloat64) return plain_quantize(format, value_of<double>(x), q);
  const std::uint64_t wide =
      type == Format::kFloat32 ? x : plain_convert(type, Format::kFloat32, x);
  return plain_quantize(format, value_of<float>(static_cast<std::uint32_t>(wide)), q);
}

std::uint64_t plain_load(Format type, Format format, std::uint64_t word, const Quantization& q) {
  if (!info(format).is_integer()) return plain_convert(format, type, word);
  const int steps = integer_of(format, word) - q.zero_point;
  if (type == Format::kFloat64) {
    return word_of<double, std::uint64_t>(steps * static_cast<double>(q.scale));
  }
  const float value = static_cast<float>(steps) * q.scale;
  const std::uint64_t wide = word_of<float, std::uint32_t>(value);
  return type == Format::kFloat32 ? wide : plain_convert(Format::kFloat32, type, wide);
}

std::vector<unsigned char> packed(const Words& words, unsigned bits) {
  std::vector<unsigned char> bytes;
  for (const std::uint64_t word : words) {
    for (unsigned b = 0; b < bits; b += 8) bytes.push_back(static_cast<unsigned char>(word >> b));
  }
  return bytes;
}

std::uint64_t unpacked(const std::vector<unsigned char>& bytes, std::size_t i, unsigned bits) {
  std::uint64_t word = 0;
  for (unsigned b = 0; b < bits; b += 8) {
    word |= std::uint64_t{bytes[(i * bits + b) / 8]} << b;
  }
  return word;
}

// Every word of 8 or 16 bits. Else every sign, exponent and some mantissas, the values of the small
// formats with halfway points and their neighbours, and any words.
Words words_to_try(Format format, std::mt19937_64& random) {
  const unsigned bits = info(format).word_bits;
  Words words;
  if (bits <= 16) {
    for (std::uint64_t word = 0; word >> bits == 0; ++word) words.push_back(word);
    return words;
  }
  const int mantissa = fields(format).mantissa;
  const std::uint64_t ones = (std::uint64_t{1} << mantissa) - 1;
  for (std::uint64_t top = 0; top >> (bits - static_cast<unsigned>(mantissa)) == 0; ++top) {
    for (const std::uint64_t low :
         {std::uint64_t{0}, std::uint64_t{1}, ones, ones - 1, ones / 2, ones / 2 + 1,
          ones & random(), (ones & random()) >> random() % mantissa}) {
      words.push_back(top << mantissa | low);
    }
  }
  const auto with_neighbours = [&](double value) {
    const std::uint64_t word = format == Format::kFloat64
                                   ? word_of<double, std::uint64_t>(value)
                                   : word_of<float, std::uint32_t>(static_cast<float>(value));
    const std::uint64_t sign = random() % 2 << (bits - 1);
    for (const std::uint64_t near : {word - (word > 0), word, word + 1})
      words.push_back(sign | near);
  };
  for (const Format small : {Format::kFloat16, Format::kBfloat16, Format::kFloat8e4m3fn,
                             Format::kFloat8e5m2, Format::kFloat32}) {
    const std::uint64_t end = parts_of(small, 0).infinity + 2;
    const std::uint64_t step = end > 4096 ? end / 4096 + 1 : 1;
    for (std::uint64_t at = 0; at < end; at += 1 + random() % step) {
      if (small == format) break;
      const double low = magnitude_value(small, at), high = magnitude_value(small, at + 1);
      with_neighbours(low);
      with_neighbours((low + high) / 2);
    }
  }
  for (int i = 0; i < 5000; ++i) words.push_back(bits == 64 ? random() : random() >> 32);
  for (int i = 0; i < 5000; ++i) {  // where integers of a scale near 0.1 lie
    with_neighbours(
        std::ldexp(static_cast<double>(random() % 1000), -static_cast<int>(random() % 12)));
  }
  return words;
}

void check_pair(const char* table, const Conversion& conversion, Format type, Format format,
                const Quantization& q, const Words& values, const Words& words) {
  const unsigned x_bits = info(type).word_bits, w_bits = info(format).word_bits;
  const auto compare = [&](const char* what, const Words& given, const Words& expected,
                           const std::vector<unsigned char>& got, unsigned bits) {
    std::size_t wrong = 0, first = 0;
    for (std::size_t i = given.size(); i-- > 0;) {
      if (unpacked(got, i, bits) != expected[i]) ++wrong, first = i;
    }
    CHECK(wrong == 0,
          "%s %s as %s, %s, scale %g, zero point %d: %zu wrong, %llx gives %llx not %llx", table,
          info(type).name, info(format).name, what, static_cast<double>(q.scale), q.zero_point,
          wrong, static_cast<unsigned long long>(given[first]),
          static_cast<unsigned long long>(unpacked(got, first, bits)),
          static_cast<unsigned long long>(expected[first]));
    checks.passed += static_cast<int>(given.size() - 1);
  };
  const std::vector<unsigned char> x = packed(values, x_bits), stored = packed(words, w_bits);
  Words expected;
  for (const std::uint64_t value : values) expected.push_back(plain_store(type, format, value, q));
  std::vector<unsigned char> out(values.size() * w_bits / 8);
  conversion.encode(q, x.data(), out.data(), values.size());
  compare("stored", values, expected, out, w_bits);

  if (conversion.round_trip != nullptr) {
    for (std::uint64_t& word : expected) word = plain_load(type, format, word, q);
    out = x;
    conversion.round_trip(q, out.data(), out.data(), values.size());
    compare("stored and loaded", values, expected, out, x_bits);
  }
  expected.clear();
  for (const std::uint64_t word : words) expected.push_back(plain_load(type, format, word, q));
  out.assign(words.size() * x_bits / 8, 0);
  conversion.decode(q, stored.data(), out.data(), words.size());
  compare("loaded", words, expected, out, x_bits);
}

// Any length at any address, nothing written beyond.
void check_lengths(const char* table, const Conversion& conversion, Format type, Format format,
                   const Quantization& q, const Words& values) {
  const std::size_t x_bytes = info(type).word_bits / 8, w_bytes = info(format).word_bits / 8;
  const std::vector<unsigned char> x = packed(values, info(type).word_bits);
  const std::size_t most = 70;
  const unsigned char* from = x.data() + x.size() / 2 / x_bytes * x_bytes;
  std::vector<unsigned char> all(most * w_bytes), back(most * x_bytes);
  conversion.encode(q, from, all.data(), most);
  conversion.decode(q, all.data(), back.data(), most);
  for (std::size_t count = 0; count <= most; ++count) {
    const std::size_t offset = count % 5;
    std::vector<unsigned char> in(from, from + count * x_bytes),
        words(offset + count * w_bytes + 9, 7);
    in.insert(in.begin(), offset, 7);
    conversion.encode(q, in.data() + offset, words.data() + offset, count);
    std::vector<unsigned char> expected(words.size(), 7);
    std::copy_n(all.begin(), count * w_bytes, expected.begin() + static_cast<long>(offset));
    CHECK(words == expected, "%s %s as %s: %zu stored", table, info(type).name, info(format).name,
          count);
    std::vector<unsigned char> y(offset + count * x_bytes + 9, 7);
    conversion.decode(q, words.data() + offset, y.data() + offset, count);
    expected.assign(y.size(), 7);
    std::copy_n(back.begin(), count * x_bytes, expected.begin() + static_cast<long>(offset));
    CHECK(y == expected, "%s %s as %s: %zu loaded", table, info(type).name, info(format).name,
          count);
  }
}

}  // namespace

void test_conversions() {
  std::mt19937_64 random(3);
  Words tried[kStorageFormats];
  for (int f = 0; f < kStorageFormats; ++f) {
    tried[f] = words_to_try(static_cast<Format>(f), random);
  }
  for (const Kernels* const* kernels = available_kernels(); *kernels != nullptr; ++kernels) {
    for (int t = 0; t < kConvertedTypes; ++t) {
      for (int f = 0; f < kStorageFormats; ++f) {
        if (t == f) continue;
        const Format type = static_cast<Format>(t), format = static_cast<Format>(f);
        const Conversion& conversion = (*kernels)->conversions()[t][f];
        const FormatInfo& limits = info(format);
        std::vector<Quantization> settings = {{1, 0, limits.lowest, limits.highest}};
        if (limits.is_integer()) {
          for (const float scale : {0.1f, 0.25f, 3e-5f, 700.0f, 1e-38f, 1e-44f, 3e38f}) {
            settings.push_back({scale, limits.lowest, limits.lowest, limits.highest});
            settings.push_back({scale, limits.highest, limits.lowest, limits.highest});
            settings.push_back({scale, 3, limits.lowest, limits.highest});
          }
        }
        for (const Quantization& q : settings) {
          check_pair((*kernels)->name, conversion, type, format, q, tried[t], tried[f]);
        }
        check_lengths((*kernels)->name, conversion, type, format, settings.back(), tried[t]);
      }
    }
  }
}
