// SPDX-License-Identifier: Apache-2.0
// Storing and loading many values on the CPU.
#pragma once

#include <cstddef>

#include "convert.h"
#include "storage_format.h"

namespace noisystore {

// From values to stored words and back; null where words are the values. Any alignment; x and
// words, and words and y, do not overlap.
struct Conversion {
  void (*encode)(const Quantization& q, const unsigned char* x, unsigned char* words,
                 std::size_t count) = nullptr;
  void (*decode)(const Quantization& q, const unsigned char* words, unsigned char* y,
                 std::size_t count) = nullptr;
  // Both, faster than one after the other; null where there is no such thing. y may be x.
  void (*round_trip)(const Quantization& q, const unsigned char* x, unsigned char* y,
                     std::size_t count) = nullptr;
};

// The tables' keys are [type][format], of types that convert.
const Conversion* const* portable_conversions();
#if defined(__x86_64__)
// For a processor with AVX2 and F16C.
const Conversion* const* avx2_conversions();
// For one with AVX-512 F, BW, DQ and VL.
const Conversion* const* avx512_conversions();
#endif

}  // namespace noisystore
