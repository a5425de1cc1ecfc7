// SPDX-License-Identifier: Apache-2.0
// The C face: results, messages for bad calls, and that a bad call writes nothing.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "noisystore.h"

namespace {

struct Example {
  std::int64_t shape[2] = {4, 100};
  std::int64_t sample = 0;
  noisystore_call call{};
  Example() {
    call.struct_size = sizeof call;
    call.type = NOISYSTORE_FLOAT;
    call.shape = shape;
    call.rank = 2;
    call.rows_per_sample = 1;
    call.sample_index = &sample;
    call.sample_index_count = 1;
    call.p01 = call.p10 = 0.5;
    call.bit_mask = ~0ull;
  }
};

void refused(const noisystore_call& call, const char* expected) {
  std::vector<float> x(400, 1.0f), y(400, 2.0f);
  char message[200] = "";
  CHECK(noisystore_apply(&call, x.data(), y.data(), message, sizeof message) == 1, "%s", expected);
  CHECK(std::strstr(message, expected) != nullptr, "'%s' lacks '%s'", message, expected);
  for (const float value : y) CHECK(value == 2.0f, "written in spite of: %s", expected);
  char cut[8];
  CHECK(noisystore_apply(&call, x.data(), y.data(), cut, sizeof cut) == 1, "%s", expected);
  CHECK(std::strlen(cut) == sizeof cut - 1, "cut to the buffer");
  CHECK(noisystore_apply(&call, x.data(), y.data(), nullptr, 0) == 1, "%s", expected);
}

}  // namespace

void test_c_api() {
  {
    Example good;
    std::vector<float> x(400, 1.0f), y(400);
    char message[200] = "";
    CHECK(noisystore_apply(&good.call, x.data(), y.data(), message, sizeof message) == 0, "%s",
          message);
    CHECK(std::memcmp(x.data(), y.data(), sizeof(float) * 400) != 0, "nothing flipped");
    CHECK(noisystore_apply(&good.call, x.data(), x.data(), message, sizeof message) == 0, "%s",
          message);
    CHECK(std::memcmp(x.data(), y.data(), sizeof(float) * 400) == 0, "in place differs");
    std::int64_t flips[4];
    CHECK(noisystore_count_flips(&good.call, flips, message, sizeof message) == 0, "%s", message);
    CHECK(noisystore_samples(&good.call) == 4, "samples");
    for (const std::int64_t n : flips) CHECK(n > 1400 && n < 1800, "flips of a sample");
  }
  {
    Example stored;
    stored.call.storage_format = "int4";
    stored.call.scale = 0.5f;
    stored.call.p10 = 0.0;
    stored.call.p01 = 1.0;
    std::vector<float> x(400, 1.2f), y(400);
    char message[200] = "";
    CHECK(noisystore_apply(&stored.call, x.data(), y.data(), message, sizeof message) == 0, "%s",
          message);
    for (const float value : y) CHECK(value == -0.5f, "1111 is -1: %g", static_cast<double>(value));
    std::int64_t flips[4];
    CHECK(noisystore_count_flips(&stored.call, flips, message, sizeof message) == 0, "%s", message);
    for (const std::int64_t n : flips) CHECK(n == 400, "four noisy bits an element");
  }
  CHECK(noisystore_noise_model() == 1, "noise model");
  CHECK(std::strcmp(noisystore_version(), NOISYSTORE_VERSION) == 0, "version");
  Example e;
  e.call.struct_size = 8;
  refused(e.call, "struct_size");
  e = Example();
  e.call.shape = e.shape;
  e.call.sample_index = &e.sample;
  for (const double bad : {-0.1, 1.5, std::nan(""), std::numeric_limits<double>::infinity()}) {
    e.call.p01 = bad;
    refused(e.call, "bit_error_rate: expected p01 and p10 in [0, 1]");
  }
  e.call.p01 = 0.5;
  e.call.type = 9;
  refused(e.call, "element type 9");
  e.call.type = NOISYSTORE_FLOAT;
  e.call.storage_format = "float12";
  refused(e.call, "unknown format 'float12'");
  e.call.storage_format = "int8";
  e.call.scale = 1.0f;
  for (const int bad : {-129, 128}) {
    e.call.zero_point = bad;
    refused(e.call, "zero_point: expected an integer from -128 to 127 for int8, got");
  }
  e.call.zero_point = 0;
  for (const double bad : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    e.call.scale = static_cast<float>(bad);
    refused(e.call, "scale: expected a finite number above 0 for int8");
  }
  e.call.storage_format = "uint4";
  e.call.scale = 0.5f;
  e.call.zero_point = 16;
  refused(e.call, "zero_point: expected an integer from 0 to 15 for uint4, got 16");
  e.call.storage_format = "float16";
  e.call.type = NOISYSTORE_INT32;
  refused(e.call, "a tensor of int32 is stored as it is; expected native, got 'float16'");
  e.call.type = NOISYSTORE_INT8;
  refused(e.call, "a tensor of int8 is stored as it is; expected native or int8, got 'float16'");
  e.call.type = NOISYSTORE_FLOAT;
  e.call.storage_format = nullptr;
  e.call.rows_per_sample = 3;
  refused(e.call, "no multiple of rows_per_sample");
  e.call.rows_per_sample = -2;
  refused(e.call, "rows_per_sample: expected");
  e.call.rows_per_sample = 1;
  e.call.sample_index_count = 3;
  refused(e.call, "sample_index: expected 1 value or 4");
  e.call.sample_index_count = 0;
  refused(e.call, "sample_index: expected");
  e.shape[0] = 0;  // no samples need no indices
  CHECK(noisystore_apply(&e.call, nullptr, nullptr, nullptr, 0) == 0, "a batch of no samples");
  e.call.rows_per_sample = -1;
  refused(e.call, "sample_index: expected");
  e.call.rows_per_sample = 1;
  e.shape[0] = 4;
  e.call.sample_index_count = 1;
  e.shape[1] = -1;
  refused(e.call, "is negative");
  e.shape[0] = e.shape[1] = std::int64_t{1} << 40;
  refused(e.call, "exceeds 64 bits");
  e.shape[0] = 1;
  e.shape[1] = std::int64_t{1} << 36;
  refused(e.call, "more than 2^32 blocks");
}
