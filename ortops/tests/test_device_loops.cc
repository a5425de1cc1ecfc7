// SPDX-License-Identifier: Apache-2.0
// What a device does, done by the host: every launch of a call, its groups and threads in any order
// and of any number, against store_range.
#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "checked_call.h"
#include "device_launch.h"

using namespace noisystore;

namespace {

template <class X>
void run_tiles(const Launch& launch, const unsigned char* x, unsigned char* y,
               std::mt19937_64& random) {
  const DeviceCall& call = launch.call;
  const std::uint64_t tiles = call.samples * call.tiles_per_sample;
  alignas(16) static unsigned char words[kTileBytes];
  for (std::uint64_t group = 0; group < launch.groups; ++group) {
    for (std::uint64_t t = group; t < tiles; t += launch.groups) {
      const Tile tile = tile_of(call, t);
      std::memset(words, 0xA5, sizeof words);
      const std::uint64_t threads = random() % 4 == 0 ? 1 + random() % 40 : kThreads;
      const auto each_thread = [&](const auto& phase) {
        for (std::uint64_t i = threads; i-- > 0;) phase(Lane{i, threads});
      };
      with_format<X>(call.format, [&](auto format) {
        each_thread(
            [&](Lane lane) { encode_tile<X, decltype(format)>(call, tile, x, words, lane); });
      });
      if (call.sampler.regime != Regime::kNone) {
        each_thread([&](Lane lane) { flip_tile(call, tile, words, lane); });
      }
      with_format<X>(call.format, [&](auto format) {
        each_thread(
            [&](Lane lane) { decode_tile<X, decltype(format)>(call, tile, words, y, lane); });
      });
    }
  }
}

void run_launch(Launch launch, Format type, const unsigned char* x, unsigned char* y,
                std::mt19937_64& random) {
  if (random() % 2) launch.groups = 1 + static_cast<unsigned>(random() % launch.groups);
  if (launch.kernel == DeviceKernel::kStoreTiles) {
    switch (type) {
      case Format::kFloat32:
        return run_tiles<Float32>(launch, x, y, random);
      case Format::kFloat16:
        return run_tiles<Float16>(launch, x, y, random);
      case Format::kBfloat16:
        return run_tiles<Bfloat16>(launch, x, y, random);
      default:
        return run_tiles<Float64>(launch, x, y, random);
    }
  }
  const std::uint64_t threads = std::uint64_t{launch.groups} * kThreads;
  std::vector<std::uint64_t> order(threads);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (const std::uint64_t i : order) {
    if (launch.kernel == DeviceKernel::kFlipBlocks) flip_blocks(launch.call, y, {i, threads});
    if (launch.kernel == DeviceKernel::kStoreGroups) store_groups(launch.call, x, y, {i, threads});
  }
}

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
  std::vector<unsigned char> expected(x.size()), y(x.size(), 0xA5);
  store_range(call, x.data(), expected.data(), 0, call.blocks());

  const DeviceKernel kernel = kernel_of(call);
  const bool in_place = random() % 2;
  if (in_place || kernel == DeviceKernel::kNone || kernel == DeviceKernel::kFlipBlocks) y = x;
  std::uint64_t done = 0;
  for_each_launch(call, [&](const Launch& launch) {
    CHECK(launch.origin == done, "launches follow each other");
    done += launch.elements;
    const unsigned char* from = (in_place ? y.data() : x.data()) + launch.origin * bytes;
    if (kernel != DeviceKernel::kNone) {
      run_launch(launch, call.storage.type, from, y.data() + launch.origin * bytes, random);
    }
    return true;
  });
  CHECK(done == static_cast<std::uint64_t>(setting.samples * setting.elements), "all is done");
  CHECK(y == expected, "type %d as %s, %lld x %lld, p = %g, %g, listed %d, in place %d",
        setting.type, setting.format, static_cast<long long>(setting.samples),
        static_cast<long long>(setting.elements), setting.p01, setting.p10, setting.listed,
        in_place);
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
  // More samples than one launch lists; blocks of 2^15 elements, over many tiles.
  for (const char* format : {"native", "bfloat16"}) {
    check({NOISYSTORE_FLOAT, format, 0.01, 0.01, 1100, 5, true}, random);
    check({NOISYSTORE_FLOAT, format, 0.2, 0.1, 1100, 5, true}, random);
    check({NOISYSTORE_FLOAT, format, 0.01, 0.01, 1100, 5, false}, random);
    check({NOISYSTORE_FLOAT, format, 4e-6, 4e-6, 2, 70001, true}, random);
    check({NOISYSTORE_FLOAT, format, 4e-6, 1e-6, 1, 100003, false}, random);
  }
}
