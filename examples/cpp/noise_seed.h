// SPDX-License-Identifier: Apache-2.0
// The noise seed of one point of a sweep: as `noisystore sweep` takes it, so that points agree.
#pragma once

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

inline std::uint32_t rotate_right(std::uint32_t x, int n) { return x >> n | x << (32 - n); }

// The first 8 bytes, little-endian, of the SHA-256 (FIPS 180-4) of a text.
inline std::uint64_t sha256_head(std::string text) {
  static constexpr std::uint32_t kRound[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
      0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
      0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
      0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
      0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
      0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
      0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
      0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
      0xc67178f2};
  std::uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const std::uint64_t bits = std::uint64_t{text.size()} * 8;
  text += '\x80';
  while (text.size() % 64 != 56) text += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) text += static_cast<char>(bits >> shift);
  for (std::size_t at = 0; at < text.size(); at += 64) {
    std::uint32_t w[64] = {}, v[8];
    for (int i = 0; i < 64; ++i) w[i / 4] = w[i / 4] << 8 | std::uint8_t(text[at + i]);
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (rotate_right(a, 7) ^ rotate_right(a, 18) ^ a >> 3) + w[i - 7] +
             (rotate_right(b, 17) ^ rotate_right(b, 19) ^ b >> 10);
    }
    std::memcpy(v, h, sizeof(v));
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t sum1 =
          rotate_right(v[4], 6) ^ rotate_right(v[4], 11) ^ rotate_right(v[4], 25);
      const std::uint32_t sum0 =
          rotate_right(v[0], 2) ^ rotate_right(v[0], 13) ^ rotate_right(v[0], 22);
      const std::uint32_t t = v[7] + sum1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + kRound[i] + w[i];
      const std::uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
      std::memmove(v + 1, v, 7 * sizeof(*v));
      v[4] += t;
      v[0] = t + sum0 + majority;
    }
    for (int i = 0; i < 8; ++i) h[i] += v[i];
  }
  return std::uint64_t{__builtin_bswap32(h[1])} << 32 | __builtin_bswap32(h[0]);
}

// A finite double as Python's float.hex() writes it: 13 digits always, and 0x0. below 2^-1022.
inline std::string python_hex(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
  const char* sign = bits >> 63 ? "-" : "";
  char text[40];
  if (exponent == 0 && fraction == 0) {
    std::snprintf(text, sizeof(text), "%s0x0.0p+0", sign);
  } else {
    std::snprintf(text, sizeof(text), "%s0x%d.%013" PRIx64 "p%+d", sign, exponent != 0, fraction,
                  (exponent ? exponent : 1) - 1023);
  }
  return text;
}

// The first item is the version of the noise model.
inline std::uint64_t noise_seed(std::int64_t seed, std::int64_t trial, double p01, double p10) {
  return sha256_head("1|" + std::to_string(seed) + "|" + std::to_string(trial) + "|" +
                     python_hex(p01) + "|" + python_hex(p10));
}
