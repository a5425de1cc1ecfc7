// SPDX-License-Identifier: Apache-2.0
// The noise model without tiles or vectors: flips.h alone, one block after the other. It is what a
// device runs, so testing it here tests the device's sampling.
#pragma once

#include <cstring>

#include "cpu.h"

inline void plain_flip(const noisystore::Call& call, unsigned char* words) {
  using namespace noisystore;
  const Sampler& s = call.sampler;
  if (s.regime == Regime::kNone) return;
  const std::uint64_t size = block_elements(s);
  for (std::uint64_t row = 0; row < call.samples; ++row) {
    for (std::uint64_t block = 0; block < call.blocks_per_sample; ++block) {
      const std::uint64_t start = block * size;
      const std::uint64_t count = call.elements - start < size ? call.elements - start : size;
      unsigned char* at = words + (row * call.elements + start) * s.word_bits / 8;
      const std::uint32_t id = call.sample_id(row);
      if (s.regime == Regime::kSparse) {
        visit_candidates(s, BlockWords(s, static_cast<std::uint32_t>(block), id),
                         [&](std::uint32_t element, unsigned bit, std::uint64_t a) {
                           if (element >= count) return;
                           const std::uint64_t position = element * s.word_bits + bit;
                           const unsigned stored = at[position / 8] >> (position % 8) & 1;
                           if (stands(s, stored, a)) {
                             at[position / 8] ^= static_cast<unsigned char>(1 << position % 8);
                           }
                         });
      } else {
        std::uint32_t stored[4] = {}, noisy[4], flips[4];
        const std::size_t bytes = count * s.word_bits / 8;
        std::memcpy(stored, at, bytes);
        for (int i = 0; i < 4; ++i) noisy[i] = noisy_lanes(s, i);
        sample_group(s, static_cast<std::uint32_t>(block), id, stored, noisy, flips);
        for (int i = 0; i < 4; ++i) stored[i] ^= flips[i];
        std::memcpy(at, stored, bytes);
      }
    }
  }
}
