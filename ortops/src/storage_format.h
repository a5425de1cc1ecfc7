// SPDX-License-Identifier: Apache-2.0
// Element types and storage formats: names, word widths and integer ranges.
#pragma once

#include <cstdint>
#include <cstring>

#include "noisystore.h"

namespace noisystore {

// How a word is read. The first four are also the element types whose values can be converted; all
// but the last are storage formats.
enum class Format : std::uint8_t {
  kFloat32,
  kFloat16,
  kBfloat16,
  kFloat64,
  kFloat8e4m3fn,
  kFloat8e5m2,
  kInt8,
  kUint8,
  kInt4,
  kUint4,
  kInt32
};
inline constexpr int kConvertedTypes = 4;
inline constexpr int kStorageFormats = 10;

struct FormatInfo {
  const char* name;
  std::uint8_t word_bits;
  std::uint8_t noisy_bits;       // the low bits of the word that can flip
  std::int32_t lowest, highest;  // of an integer, else 0
  bool is_integer() const { return lowest != highest; }
};

// In the order of Format.
inline constexpr FormatInfo kFormats[] = {{"float32", 32, 32, 0, 0},
                                          {"float16", 16, 16, 0, 0},
                                          {"bfloat16", 16, 16, 0, 0},
                                          {"float64", 64, 64, 0, 0},
                                          {"float8e4m3fn", 8, 8, 0, 0},
                                          {"float8e5m2", 8, 8, 0, 0},
                                          {"int8", 8, 8, -128, 127},
                                          {"uint8", 8, 8, 0, 255},
                                          {"int4", 8, 4, -8, 7},
                                          {"uint4", 8, 4, 0, 15},
                                          {"int32", 32, 32, INT32_MIN, INT32_MAX}};

inline const FormatInfo& info(Format format) { return kFormats[static_cast<int>(format)]; }

// Finds a storage format; false where no format has the name ("native" is not one).
inline bool find_format(const char* name, Format& format) {
  for (int i = 0; i < kStorageFormats; ++i) {
    if (std::strcmp(kFormats[i].name, name) == 0) {
      format = static_cast<Format>(i);
      return true;
    }
  }
  return false;
}

// Finds the format of an element type (enum noisystore_type); false for a type that is not taken.
inline bool find_type(std::int32_t type, Format& format) {
  switch (type) {
    case NOISYSTORE_FLOAT:
      format = Format::kFloat32;
      return true;
    case NOISYSTORE_FLOAT16:
      format = Format::kFloat16;
      return true;
    case NOISYSTORE_BFLOAT16:
      format = Format::kBfloat16;
      return true;
    case NOISYSTORE_DOUBLE:
      format = Format::kFloat64;
      return true;
    case NOISYSTORE_INT8:
      format = Format::kInt8;
      return true;
    case NOISYSTORE_UINT8:
      format = Format::kUint8;
      return true;
    case NOISYSTORE_INT32:
      format = Format::kInt32;
      return true;
    default:
      return false;
  }
}

}  // namespace noisystore
