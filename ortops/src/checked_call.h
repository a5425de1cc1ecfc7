// SPDX-License-Identifier: Apache-2.0
// From a caller's description of a tensor and its noise to a Call, or to one line of what is wrong.
#pragma once

#include <cstddef>

#include "cpu.h"
#include "noisystore.h"

namespace noisystore {

// A fixed buffer for one line; no allocation, so that it can be filled anywhere.
struct Message {
  char text[320] = "";
  bool set(const char* format, ...) __attribute__((format(printf, 2, 3)));  // returns false
};

// How a tensor of a type (enum noisystore_type) is stored; a null format name is "native".
bool find_storage(std::int32_t type, const char* storage_format, float scale,
                  std::int32_t zero_point, Storage& storage, Message& message);

// What a site fixes, for any tensor type; checked once, when a kernel is made.
bool check_site(const char* storage_format, float scale, std::int32_t zero_point,
                std::int64_t rows_per_sample, Message& message);

// Fills `call`; false with a message where the description is bad.
// `count_only`: no words will be read, so unequal dense rates are replaced by the larger one.
bool make_call(const noisystore_call& in, bool count_only, Call& call, Message& message);

}  // namespace noisystore
