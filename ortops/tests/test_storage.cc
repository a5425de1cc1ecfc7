// SPDX-License-Identifier: Apache-2.0
// store_range with a storage format: every instruction set, every split, in place, in any
// floating-point mode, against the whole tensor stored, flipped by the plain loop and loaded.
#include <algorithm>
#include <cfenv>
#include <random>
#include <vector>

#include "check.h"
#include "checked_call.h"
#include "plain.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace noisystore;

namespace {

constexpr std::int32_t kTypes[] = {NOISYSTORE_FLOAT, NOISYSTORE_FLOAT16, NOISYSTORE_BFLOAT16,
                                   NOISYSTORE_DOUBLE};

struct Setting {
  std::int32_t type;
  const char* format;
  double p01, p10;
  std::int64_t samples, elements;
};

// Ordinary numbers with some of any bits among them.
std::vector<unsigned char> tensor(Format type, std::size_t count, std::mt19937_64& random) {
  const unsigned bits = info(type).word_bits;
  std::vector<unsigned char> x(count * bits / 8);
  const Conversion* from_double = portable_conversions()[static_cast<int>(Format::kFloat64)];
  for (std::size_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(static_cast<std::int64_t>(random() >> 32)) * 1e-9 - 2;
    unsigned char word[8];
    std::memcpy(word, &value, 8);
    if (type != Format::kFloat64) {
      unsigned char wide[8];
      std::memcpy(wide, word, 8);
      from_double[static_cast<int>(type)].encode({}, wide, word, 1);
    }
    if (random() % 8 == 0) {
      const std::uint64_t any = random();
      std::memcpy(word, &any, 8);
    }
    std::memcpy(&x[i * bits / 8], word, bits / 8);
  }
  return x;
}

void check(const Setting& setting, std::mt19937_64& random) {
  const std::int64_t shape[2] = {setting.samples, setting.elements}, sample = 5;
  noisystore_call in{};
  in.struct_size = sizeof in;
  in.type = setting.type;
  in.storage_format = setting.format;
  in.scale = 0.03f;
  in.zero_point = 4;
  in.shape = shape;
  in.rank = 2;
  in.rows_per_sample = 1;
  in.p01 = setting.p01;
  in.p10 = setting.p10;
  in.bit_mask = random() % 3 ? ~0ull : random() | 1;
  in.seed = static_cast<std::int64_t>(random());
  in.site = 3;
  in.sample_index = &sample;
  in.sample_index_count = 1;
  Call call;
  Message message;
  CHECK(make_call(in, false, call, message), "%s", message.text);
  const Storage& storage = call.storage;
  if (!storage.converts()) return;

  const auto count = static_cast<std::size_t>(setting.samples * setting.elements);
  const std::vector<unsigned char> x = tensor(storage.type, count, random);
  const Conversion& conversion =
      portable_conversions()[static_cast<int>(storage.type)][static_cast<int>(storage.format)];
  std::vector<unsigned char> words(count * info(storage.format).word_bits / 8);
  conversion.encode(storage.quantization, x.data(), words.data(), count);
  plain_flip(call, words.data());
  std::vector<unsigned char> expected(x.size());
  conversion.decode(storage.quantization, words.data(), expected.data(), count);

  const auto what = [&](const char* name, const char* how) {
    static char text[200];
    std::snprintf(text, sizeof text, "%s, %s: type %d as %s, %lld x %lld, p = %g, %g", name, how,
                  setting.type, setting.format, static_cast<long long>(setting.samples),
                  static_cast<long long>(setting.elements), setting.p01, setting.p10);
    return text;
  };
  for (const Kernels* const* kernels = available_kernels(); *kernels != nullptr; ++kernels) {
    std::vector<unsigned char> y(x.size(), 0xA5);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (std::uint64_t at = 0; at < call.blocks();) {
      const std::uint64_t to =
          std::min(call.blocks(), at + 1 + random() % (random() % 2 ? 5 : 900));
      ranges.emplace_back(at, to);
      at = to;
    }
    std::shuffle(ranges.begin(), ranges.end(), random);
    for (const auto& [from, to] : ranges) {
      store_range(call, x.data(), y.data(), from, to, **kernels);
    }
    CHECK(y == expected, "%s", what((*kernels)->name, "in parts"));
    y = x;
    store_range(call, y.data(), y.data(), 0, call.blocks(), **kernels);
    CHECK(y == expected, "%s", what((*kernels)->name, "in place"));
  }
  std::vector<unsigned char> y(x.size());
  std::fesetround(FE_UPWARD);
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);  // flush results, take subnormal inputs for zero
  const unsigned mode = _mm_getcsr();
#endif
  store_range(call, x.data(), y.data(), 0, call.blocks());
  CHECK(std::fegetround() == FE_UPWARD, "the rounding mode is restored");
#if defined(__x86_64__)
  CHECK(_mm_getcsr() == mode, "MXCSR is restored");
  _mm_setcsr(mode & ~0x8040u);
#endif
  std::fesetround(FE_TONEAREST);
  CHECK(y == expected, "%s", what("fastest", "rounding upward"));
}

}  // namespace

void test_storage() {
  std::mt19937_64 random(4);
  constexpr double kRates[] = {0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0};
  constexpr std::int64_t kElements[] = {1, 7, 515, 20011};
  for (const std::int32_t type : kTypes) {
    for (int f = 0; f < kStorageFormats; ++f) {
      for (const std::int64_t elements : kElements) {
        for (const double p : kRates) {
          Setting setting = {type, kFormats[f].name, p, p, 1, elements};
          if (random() % 2) setting.p10 = p * 0.3;
          setting.samples = static_cast<std::int64_t>(1 + random() % (elements > 600 ? 3 : 30));
          check(setting, random);
        }
      }
    }
  }
  // Blocks of 2^15 elements, which fill several windows.
  for (const char* format : {"float16", "float64", "int8"}) {
    for (const double p : {1e-7, 4e-6}) {
      check({NOISYSTORE_FLOAT, format, p, p, 2, 70001}, random);
      check({NOISYSTORE_FLOAT, format, p, p / 2, 1, 100003}, random);
    }
  }
}
