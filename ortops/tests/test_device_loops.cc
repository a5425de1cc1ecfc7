// SPDX-License-Identifier: Apache-2.0
// What a device does, done by the host, against store_range.
#include <random>
#include <vector>

#include "check.h"
#include "checked_call.h"
#include "device_emulation.h"

using namespace noisystore;

// test_device_branches.cc
std::uint64_t run_call_in_device_branches(const Call& call, const unsigned char* x,
                                          unsigned char* y, std::mt19937_64& random);

namespace {

struct Setting {
  std::int32_t type;
  const char* format;
  double p01, p10;
  std::int64_t samples, elements;
  bool listed;
};

void check(const Setting& setting, std::mt19937_64& random) {
  const std::int64_t shape[2] = {setting.samples, setting.elements};
  std::vector<std::int64_t> index(setting.listed ? static_cast<std::size_t>(setting.samples) : 1);
  for (std::int64_t& id : index) id = static_cast<std::int64_t>(random() >> 30);
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
  in.sample_index = index.data();
  in.sample_index_count = index.size();
  Call call;
  Message message;
  CHECK(make_call(in, false, call, message), "%s", message.text);
  const std::size_t bytes = info(call.storage.type).word_bits / 8;
  std::vector<unsigned char> x(static_cast<std::size_t>(setting.samples * setting.elements) *
                               bytes);
  for (unsigned char& byte : x) byte = static_cast<unsigned char>(random());
  std::vector<unsigned char> expected(x.size());
  store_range(call, x.data(), expected.data(), 0, call.blocks());

  for (const auto run : {emulated::run_call, run_call_in_device_branches}) {
    // Anywhere that is aligned to an element; a sanitizer sees what lies beyond the end.
    const std::size_t shift = random() % 17 * bytes;
    std::vector<unsigned char> source(shift), target(shift + x.size(), 0xA5);
    source.insert(source.end(), x.begin(), x.end());
    const bool in_place = random() % 2;
    unsigned char* y = (in_place ? source : target).data() + shift;
    const std::uint64_t done = run(call, source.data() + shift, y, random);
    CHECK(done == static_cast<std::uint64_t>(setting.samples * setting.elements), "all is done");
    CHECK(std::equal(expected.begin(), expected.end(), y),
          "type %d as %s, %lld x %lld, p = %g, %g, listed %d, in place %d", setting.type,
          setting.format, static_cast<long long>(setting.samples),
          static_cast<long long>(setting.elements), setting.p01, setting.p10, setting.listed,
          in_place);
  }
}

}  // namespace

void test_device_loops() {
  std::mt19937_64 random(6);
  constexpr std::int32_t kTypes[] = {NOISYSTORE_FLOAT,  NOISYSTORE_FLOAT16, NOISYSTORE_BFLOAT16,
                                     NOISYSTORE_DOUBLE, NOISYSTORE_INT8,    NOISYSTORE_UINT8,
                                     NOISYSTORE_INT32};
  constexpr double kRates[] = {0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1.0 / 32, 0.1, 0.5, 1.0};
  constexpr std::int64_t kElements[] = {1, 7, 515, 1024, 20011};
  for (const std::int32_t type : kTypes) {
    for (int f = -1; f < kStorageFormats; ++f) {
      const bool integer = type <= NOISYSTORE_INT32 && type != NOISYSTORE_FLOAT;
      if (integer && f >= 0) continue;
      for (const std::int64_t elements : kElements) {
        for (const double p : kRates) {
          const char* format = f < 0 ? "native" : kFormats[f].name;
          Setting setting = {type, format, p, random() % 2 ? p : p * 0.3, 1, elements, false};
          setting.samples = static_cast<std::int64_t>(1 + random() % (elements > 600 ? 3 : 30));
          setting.listed = random() % 2;
          check(setting, random);
        }
      }
    }
  }
  // Ends of tensors inside the four bytes of an atomic.
  for (const std::int32_t type : {NOISYSTORE_INT8, NOISYSTORE_FLOAT16, NOISYSTORE_FLOAT}) {
    for (std::int64_t elements = 1; elements < 12; ++elements) {
      for (std::int64_t samples = 1; samples < 40; samples += 3) {
        check({type, "native", 0.03, 0.03, samples, elements, false}, random);
      }
    }
  }
  // More samples than one launch lists; blocks of 2^15 elements, over many tiles.
  for (const char* format : {"native", "bfloat16", "float64"}) {
    check({NOISYSTORE_FLOAT, format, 0.01, 0.01, 1100, 5, true}, random);
    check({NOISYSTORE_FLOAT, format, 0.2, 0.1, 1100, 5, true}, random);
    check({NOISYSTORE_FLOAT, format, 0.01, 0.01, 1100, 5, false}, random);
    check({NOISYSTORE_FLOAT, format, 4e-6, 4e-6, 20, 70001, true}, random);
    check({NOISYSTORE_FLOAT, format, 4e-6, 1e-6, 10, 100003, false}, random);
  }
  // A sanitizer sees a flip behind the last word of a tile.
  for (int i = 0; i < 20; ++i) {
    check({NOISYSTORE_FLOAT, "float64", 3e-5, 3e-5, 2, 70001, false}, random);
  }
}
