// SPDX-License-Identifier: Apache-2.0
// Every instruction set and every split of the work against the plain loop.
#include <algorithm>
#include <random>
#include <vector>

#include "check.h"
#include "checked_call.h"
#include "plain.h"

using namespace noisystore;

namespace {

struct Setting {
  std::int32_t type;
  unsigned bits;
  double p01, p10;
  std::uint64_t mask;
  std::int64_t samples, elements;
};

void check(const Setting& setting, std::mt19937_64& random) {
  const std::int64_t shape[2] = {setting.samples, setting.elements};
  std::vector<std::int64_t> index(static_cast<std::size_t>(setting.samples));
  for (std::int64_t& i : index)
    i = static_cast<std::int64_t>(random() % 5 ? random() % 9 : random());
  noisystore_call in{};
  in.struct_size = sizeof in;
  in.type = setting.type;
  in.shape = shape;
  in.rank = 2;
  in.rows_per_sample = 1;
  in.p01 = setting.p01;
  in.p10 = setting.p10;
  in.bit_mask = setting.mask;
  in.seed = static_cast<std::int64_t>(random());
  in.site = static_cast<std::uint32_t>(random());
  in.sample_index = index.data();
  in.sample_index_count = random() % 2 ? index.size() : 1;
  Call call;
  Message message;
  CHECK(make_call(in, false, call, message), "%s", message.text);
  if (call.sampler.regime == Regime::kNone) return;

  std::vector<unsigned char> input(static_cast<std::size_t>(setting.samples * setting.elements) *
                                   setting.bits / 8);
  for (unsigned char& byte : input) byte = static_cast<unsigned char>(random());
  std::vector<unsigned char> expected = input;
  plain_flip(call, expected.data());

  std::vector<std::int64_t> flips_of_row(index.size());
  for (std::size_t i = 0; i < input.size(); ++i) {
    flips_of_row[i / (input.size() / index.size())] += __builtin_popcount(input[i] ^ expected[i]);
  }
  for (const Kernels* const* kernels = available_kernels(); *kernels != nullptr; ++kernels) {
    std::vector<unsigned char> words = input;
    for (std::uint64_t at = 0; at < call.blocks();) {
      const std::uint64_t to = std::min(call.blocks(), at + 1 + random() % 70);
      (*kernels)->flip(call, words.data(), 0, at, to);
      at = to;
    }
    CHECK(words == expected, "%s: %lld x %lld of %u bits, p = %g, %g, mask %llx", (*kernels)->name,
          static_cast<long long>(setting.samples), static_cast<long long>(setting.elements),
          setting.bits, setting.p01, setting.p10, static_cast<unsigned long long>(setting.mask));

    Call counting;
    CHECK(make_call(in, true, counting, message), "%s", message.text);
    std::vector<std::int64_t> count(index.size());
    (*kernels)->count(counting, count.data(), 0, counting.blocks());
    for (std::size_t row = 0; row < count.size(); ++row) {
      CHECK(setting.p01 == setting.p10 ? count[row] == flips_of_row[row]
                                       : count[row] >= flips_of_row[row],
            "%s: %lld flips counted, %lld made", (*kernels)->name,
            static_cast<long long>(count[row]), static_cast<long long>(flips_of_row[row]));
    }
  }
  std::vector<unsigned char> copy(input.size(), 0xA5);
  const std::uint64_t half = call.blocks() / 2;
  store_range(call, input.data(), copy.data(), half, call.blocks());
  store_range(call, input.data(), copy.data(), 0, half);
  CHECK(copy == expected, "out of place, second half first");
}

}  // namespace

void test_agreement() {
  std::mt19937_64 random(1);
  constexpr double kRates[] = {1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.031, 1.0 / 32, 0.1, 0.3, 0.5, 1.0};
  constexpr std::int64_t kElements[] = {1, 3, 129, 151, 4096, 20011};
  constexpr Setting kTypes[] = {{NOISYSTORE_UINT8, 8, 0, 0, 0, 0, 0},
                                {NOISYSTORE_FLOAT16, 16, 0, 0, 0, 0, 0},
                                {NOISYSTORE_FLOAT, 32, 0, 0, 0, 0, 0},
                                {NOISYSTORE_DOUBLE, 64, 0, 0, 0, 0, 0}};
  for (const Setting& type : kTypes) {
    for (const std::int64_t elements : kElements) {
      for (const double p : kRates) {
        for (int kind = 0; kind < 4; ++kind) {
          Setting setting = type;
          setting.p01 = p;
          setting.p10 = kind == 1 ? p * 0.25 : kind == 2 ? 0.0 : p;
          if (kind == 2 && random() % 2) std::swap(setting.p01, setting.p10);
          setting.mask = kind == 3 ? random() & random() : ~0ull;
          setting.samples = elements > 4000 ? 3 : static_cast<std::int64_t>(1 + random() % 40);
          setting.elements = elements;
          check(setting, random);
        }
      }
    }
  }
}
