// SPDX-License-Identifier: Apache-2.0
// The device's loops with the branches that only a device compiles, on the host: what CUDA has
// beside C++ is given here. In a namespace of its own, since the same functions differ in it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

struct uint4 {
  unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
// The memory that the running call may touch: atomics are of four bytes.
static const unsigned char* first_byte;
static const unsigned char* last_byte;
static bool left_the_tensor;
inline unsigned atomicXor(unsigned* at, unsigned bits) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(at);
  if (bytes < first_byte || bytes + 4 > last_byte) {
    left_the_tensor = true;
    return 0;
  }
  const unsigned before = *at;
  *at ^= bits;
  return before;
}

#define __CUDA_ARCH__ 900
#define noisystore noisystore_on_a_device
#include "device_emulation.h"
#undef noisystore

namespace noisystore {
struct Call;
}

std::uint64_t run_call_in_device_branches(const noisystore::Call& call, const unsigned char* x,
                                          unsigned char* y, std::mt19937_64& random) {
  const auto& same = reinterpret_cast<const noisystore_on_a_device::Call&>(call);
  first_byte = y;
  last_byte = y + same.samples * same.elements *
                      noisystore_on_a_device::info(same.storage.type).word_bits / 8;
  left_the_tensor = false;
  const std::uint64_t done = noisystore_on_a_device::emulated::run_call(same, x, y, random);
  return left_the_tensor ? 0 : done;
}
