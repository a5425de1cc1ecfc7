// SPDX-License-Identifier: Apache-2.0
// The loops of storing and loading for each instruction set.
#include "conversions.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace noisystore {
namespace {

#define TARGET
namespace portable {

#include "conversion_loops.h"

}  // namespace portable
#undef TARGET

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,f16c")))
#define USE_F16C
namespace avx2 {

#include "conversion_loops.h"

}  // namespace avx2
#undef USE_F16C
#undef TARGET
#endif

}  // namespace

const Conversion* const* portable_conversions() { return portable::kConversions; }
#if defined(__x86_64__)
const Conversion* const* avx2_conversions() { return avx2::kConversions; }
#endif

}  // namespace noisystore
