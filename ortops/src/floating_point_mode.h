// SPDX-License-Identifier: Apache-2.0
// The IEEE default of floating-point arithmetic, for as long as an object lives.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <cstdint>
#endif

namespace noisystore {

// A host may have set a thread to flush subnormal numbers (ONNX Runtime's set_denormal_as_zero) or
// to round otherwise. Restores what it found, exception flags included.
class FloatingPointMode {
 public:
#if defined(__x86_64__)
  FloatingPointMode() : found_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~FloatingPointMode() { _mm_setcsr(found_); }
#elif defined(__aarch64__)
  FloatingPointMode() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(found_));
    __asm__ volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
  }
  ~FloatingPointMode() { __asm__ volatile("msr fpcr, %0" : : "r"(found_)); }
#else
  FloatingPointMode() = default;
#endif
  FloatingPointMode(const FloatingPointMode&) = delete;
  FloatingPointMode& operator=(const FloatingPointMode&) = delete;

 private:
#if defined(__x86_64__)
  unsigned found_;
#elif defined(__aarch64__)
  std::uint64_t found_;
#endif
};

}  // namespace noisystore
