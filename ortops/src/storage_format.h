// SPDX-License-Identifier: Apache-2.0
// Element types and storage formats: names and word widths.
#pragma once

#include <cstdint>
#include <cstring>

#include "noisystore.h"

namespace noisystore {

struct TypeName {
  std::int32_t type;
  const char* name;
  unsigned word_bits;
};

inline constexpr TypeName kTypes[] = {
    {NOISYSTORE_FLOAT, "float32", 32},    {NOISYSTORE_UINT8, "uint8", 8},
    {NOISYSTORE_INT8, "int8", 8},         {NOISYSTORE_INT32, "int32", 32},
    {NOISYSTORE_FLOAT16, "float16", 16},  {NOISYSTORE_DOUBLE, "float64", 64},
    {NOISYSTORE_BFLOAT16, "bfloat16", 16}};

inline constexpr const char* kFormats[] = {"native",  "float16",      "bfloat16",   "float32",
                                           "float64", "float8e4m3fn", "float8e5m2", "int8",
                                           "uint8",   "int4",         "uint4"};

inline const TypeName* find_type(std::int32_t type) {
  for (const TypeName& known : kTypes) {
    if (known.type == type) return &known;
  }
  return nullptr;
}

inline bool is_format(const char* name) {
  for (const char* known : kFormats) {
    if (std::strcmp(known, name) == 0) return true;
  }
  return false;
}

}  // namespace noisystore
