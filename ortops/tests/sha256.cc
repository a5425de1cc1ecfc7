// SPDX-License-Identifier: Apache-2.0
#include "sha256.h"

#include <cstdint>
#include <vector>

namespace {

// The first 32 bits of the fractional parts of the square roots (initial state) and cube roots
// (round constants) of the first primes, found with integers.
std::uint32_t root_fraction(unsigned prime, int power) {
  // Largest r with r^power <= prime * 2^(32 * power), r mod 2^32, by bisection.
  unsigned __int128 low = 0, high = static_cast<unsigned __int128>(1) << 37;
  const auto below = [&](unsigned __int128 r) {
    if (power == 2) return r * r <= static_cast<unsigned __int128>(prime) << 64;
    const unsigned __int128 square = r * r;  // below 2^74, times r below 2^111
    return square * r <= static_cast<unsigned __int128>(prime) << 96;
  };
  while (high - low > 1) {
    const unsigned __int128 middle = (low + high) / 2;
    (below(middle) ? low : high) = middle;
  }
  return static_cast<std::uint32_t>(low);
}

std::uint32_t rotate(std::uint32_t x, int n) { return x >> n | x << (32 - n); }

}  // namespace

std::string sha256_hex(const unsigned char* data, std::size_t size) {
  std::uint32_t k[64], h[8];
  int found = 0;
  for (unsigned candidate = 2; found < 64; ++candidate) {
    bool prime = true;
    for (unsigned d = 2; d * d <= candidate; ++d) prime &= candidate % d != 0;
    if (!prime) continue;
    if (found < 8) h[found] = root_fraction(candidate, 2);
    k[found++] = root_fraction(candidate, 3);
  }
  std::vector<unsigned char> message(data, data + size);
  message.push_back(0x80);
  while (message.size() % 64 != 56) message.push_back(0);
  for (int i = 7; i >= 0; --i) {
    message.push_back(static_cast<unsigned char>(std::uint64_t{size} * 8 >> (8 * i)));
  }
  for (std::size_t at = 0; at < message.size(); at += 64) {
    std::uint32_t w[64], v[8];
    for (int i = 0; i < 16; ++i) {
      w[i] = 0;
      for (int j = 0; j < 4; ++j) w[i] = w[i] << 8 | message[at + 4 * i + j];
    }
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
      const std::uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    for (int i = 0; i < 8; ++i) v[i] = h[i];
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
      const std::uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
      const std::uint32_t t1 = v[7] + s1 + choice + k[i] + w[i];
      const std::uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
      const std::uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      for (int j = 7; j > 0; --j) v[j] = v[j - 1];
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; ++i) h[i] += v[i];
  }
  std::string hex;
  for (const std::uint32_t word : h) {
    for (int i = 28; i >= 0; i -= 4) hex += "0123456789abcdef"[word >> i & 15];
  }
  return hex;
}
