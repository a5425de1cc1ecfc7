// SPDX-License-Identifier: Apache-2.0
// The loops of storing and loading for each instruction set.
#include "conversions.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace noisystore {
namespace {

// Whether every float of X, a NaN's payload included, is one of F.
template <class F, class X>
constexpr bool holds() {
  if constexpr (F::kIsInteger || X::kIsInteger) {
    return false;
  } else {
    return F::kMantissaBits >= X::kMantissaBits && F::kExponentBits >= X::kExponentBits &&
           !F::kHasOneNan;
  }
}

// Storing and loading what the format holds.
template <std::size_t kBytes>
void unchanged(const Quantization&, const unsigned char* x, unsigned char* y, std::size_t count) {
  if (x != y) std::memcpy(y, x, count * kBytes);
}

#define TARGET
namespace portable {

#if defined(__aarch64__)
#define HAS_VALUES 1
#include "values_neon.h"
#else
#define HAS_VALUES 0
#endif
#include "conversion_loops.h"

}  // namespace portable
#undef TARGET
#undef HAS_VALUES

#if defined(__x86_64__)
#define HAS_VALUES 1
#define TARGET __attribute__((target("avx2,f16c")))
namespace avx2 {

#include "values_x86.h"

#include "conversion_loops.h"

}  // namespace avx2
#undef TARGET
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,f16c"
#if defined(__clang__)
#define TARGET __attribute__((target(AVX512)))
#else
#define TARGET __attribute__((target(AVX512 ",prefer-vector-width=512")))
#endif
namespace avx512 {

#include "values_x86.h"

#include "conversion_loops.h"

}  // namespace avx512
#undef TARGET
#undef HAS_VALUES
#endif

}  // namespace

const Conversion* const* portable_conversions() { return portable::kConversions; }
#if defined(__x86_64__)
const Conversion* const* avx2_conversions() { return avx2::kConversions; }
const Conversion* const* avx512_conversions() { return avx512::kConversions; }
#endif

}  // namespace noisystore
