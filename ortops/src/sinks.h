// SPDX-License-Identifier: Apache-2.0
// Where the tile loops put flips: into words in memory, or into counts. Included once per
// instruction set by cpu.cc, before tiles.h. No include guard on purpose.

// Where a tile's lanes lie: lane l is block block[l] of the sample with id sample[l].
struct Lanes {
  Vec block, sample;
  std::uint64_t row[kLanes];    // row of the sample in the tensor
  std::uint64_t first[kLanes];  // first element, counted from the tensor's start
  std::uint64_t count[kLanes];  // elements of the block that lie inside the sample
  int used;
  bool whole;  // all lanes used, by whole blocks of one sample
};

// Flips words in memory.
struct FlipSink {
  unsigned char* words;

  FORCE_INLINE void whole_tile(const Sampler& s, std::uint64_t, std::uint64_t first,
                               const Vec flips[4]) {
    xor_groups(words + first * s.word_bits / 8, flips);
  }

  // Flips given as (lane << kPositionBits) + position.
  FORCE_INLINE void positions(const Sampler& s, const Lanes& lanes, const std::uint32_t* flips,
                              int flip_count) {
    constexpr std::uint32_t kPosition = (1u << kPositionBits) - 1;
    for (int i = 0; i < flip_count; ++i) {
      const std::uint32_t l = flips[i] >> kPositionBits, position = flips[i] & kPosition;
      const std::uint32_t element = element_of(s, position);
      if (element >= lanes.count[l]) continue;
      flip_bit(words, (lanes.first[l] + element) * s.word_bits +
                          s.bit_of[position - element * s.noisy_bits]);
    }
  }

  // Flips of a whole tile, as positions counted from its first block. Four bytes at a time: a
  // whole tile is a multiple of that long.
  FORCE_INLINE void positions_in_tile(const Sampler& s, const Lanes& lanes,
                                      const std::uint32_t* flips, int flip_count) {
    unsigned char* tile = words + lanes.first[0] * s.word_bits / 8;
    const auto flip = [tile](std::uint32_t bit) FORCE_INLINE_LAMBDA {
      std::uint32_t part;
      std::memcpy(&part, tile + (bit >> 5) * 4, 4);
      part ^= 1u << (bit & 31);
      std::memcpy(tile + (bit >> 5) * 4, &part, 4);
    };
    if (s.noisy_bits == s.word_bits) {
      for (int i = 0; i < flip_count; ++i) flip(flips[i]);
      return;
    }
    for (int i = 0; i < flip_count; ++i) {
      const std::uint32_t element = element_of(s, flips[i]);
      flip(element * s.word_bits + s.bit_of[flips[i] - element * s.noisy_bits]);
    }
  }

  template <class Words>
  void candidates(const Sampler& s, const Lanes& lanes, int l, const Words& block_words) {
    visit_candidates(s, block_words, [&](std::uint32_t element, unsigned bit, std::uint64_t a) {
      if (element >= lanes.count[l]) return;
      const std::uint64_t at = (lanes.first[l] + element) * s.word_bits + bit;
      if (stands(s, words[at >> 3] >> (at & 7) & 1, a)) flip_bit(words, at);
    });
  }

  FORCE_INLINE void load(const Sampler& s, const Lanes& lanes, Vec stored[4]) {
    for (int l = 0; l < kLanes; ++l) {
      std::uint32_t part[4] = {0, 0, 0, 0};
      if (lanes.count[l] > 0) {
        std::memcpy(part, words + lanes.first[l] * s.word_bits / 8,
                    lanes.count[l] * s.word_bits / 8);
      }
      for (int i = 0; i < 4; ++i) stored[i][l] = part[i];
    }
  }

  FORCE_INLINE void group(const Sampler& s, std::uint64_t, std::uint64_t first, std::uint64_t count,
                          const Vec flips[4], int l) {
    flip_group(words + first * s.word_bits / 8, count * s.word_bits / 8, GroupFlips(flips, l));
  }
};

// Counts the flips of every sample.
struct CountSink {
  std::int64_t* flips_of_row;

  FORCE_INLINE void group(const Sampler&, std::uint64_t row, std::uint64_t, std::uint64_t,
                          const Vec flips[4], int l) {
    const GroupFlips group(flips, l);
    flips_of_row[row] += __builtin_popcountll(group.low) + __builtin_popcountll(group.high);
  }

  FORCE_INLINE void whole_tile(const Sampler& s, std::uint64_t row, std::uint64_t,
                               const Vec flips[4]) {
    for (int l = 0; l < kLanes; ++l) group(s, row, 0, 0, flips, l);
  }
};
