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

// Candidates of a tile, with their thinning draws where p01 != p10. append_where may write a whole
// vector past the last one.
template <bool kSymmetric>
struct Candidates {
  static constexpr int kRoom = 7 * kLanes;
  alignas(64) std::uint32_t position[kRoom];
  alignas(64) std::uint32_t a_low[kSymmetric ? 1 : kRoom];
  alignas(64) std::uint32_t a_high[kSymmetric ? 1 : kRoom];
  int used = 0;
};

// Flips words in memory.
struct FlipSink {
  unsigned char* words;
  std::uint64_t origin;  // the element, counted from the tensor's start, of the first word

  FORCE_INLINE unsigned char* word_of(const Sampler& s, std::uint64_t element) const {
    return words + (element - origin) * s.word_bits / 8;
  }

  // Dense: the flips of sixteen whole groups.
  FORCE_INLINE void whole_groups(const Sampler& s, std::uint64_t, std::uint64_t first,
                                 const Vec flips[4]) {
    xor_groups(word_of(s, first), flips);
  }

  // Candidate i lies on `bit` of the four bytes at `at`.
  template <bool kSymmetric>
  FORCE_INLINE void flip_if_stands(const Sampler& s, const Candidates<kSymmetric>& found, int i,
                                   unsigned char* at, std::uint32_t bit) {
    std::uint32_t part, flip = 1;
    std::memcpy(&part, at, 4);
    if constexpr (!kSymmetric) {
      flip = stands(s, part >> bit & 1, found.a_low[i] | std::uint64_t{found.a_high[i]} << 32);
    }
    part ^= flip << bit;
    std::memcpy(at, &part, 4);
  }

  // Sparse, a tile of whole blocks: positions counted from its first block. Four bytes at a time,
  // which a whole tile is a multiple of.
  template <bool kSymmetric>
  FORCE_INLINE void whole_tile(const Sampler& s, const Lanes& lanes,
                               const Candidates<kSymmetric>& found) {
    unsigned char* tile = word_of(s, lanes.first[0]);
    if (s.noisy_bits == s.word_bits) {
      for (int i = 0; i < found.used; ++i) {
        const std::uint32_t bit = found.position[i];
        flip_if_stands(s, found, i, tile + (bit >> 5) * 4, bit & 31);
      }
      return;
    }
    for (int i = 0; i < found.used; ++i) {
      const std::uint32_t element = element_of(s, found.position[i]);
      const std::uint32_t bit =
          element * s.word_bits + s.bit_of[found.position[i] - element * s.noisy_bits];
      flip_if_stands(s, found, i, tile + (bit >> 5) * 4, bit & 31);
    }
  }

  // Sparse, any tile: positions are (lane << kPositionBits) + position in the lane's block.
  template <bool kSymmetric>
  FORCE_INLINE void part_tile(const Sampler& s, const Lanes& lanes,
                              const Candidates<kSymmetric>& found) {
    constexpr std::uint32_t kPosition = (1u << kPositionBits) - 1;
    for (int i = 0; i < found.used; ++i) {
      const std::uint32_t l = found.position[i] >> kPositionBits;
      const std::uint32_t position = found.position[i] & kPosition;
      const std::uint32_t element = element_of(s, position);
      if (element >= lanes.count[l]) continue;
      std::uint64_t a = 0;
      if constexpr (!kSymmetric) a = found.a_low[i] | std::uint64_t{found.a_high[i]} << 32;
      flip_candidate(s, lanes.first[l] + element, s.bit_of[position - element * s.noisy_bits], a);
    }
  }

  template <class Words>
  void plain_lane(const Sampler& s, const Lanes& lanes, int l, const Words& block_words) {
    visit_candidates(s, block_words, [&](std::uint32_t element, unsigned bit, std::uint64_t a) {
      if (element < lanes.count[l]) flip_candidate(s, lanes.first[l] + element, bit, a);
    });
  }

  void flip_candidate(const Sampler& s, std::uint64_t element, unsigned bit, std::uint64_t a) {
    const std::uint64_t at = (element - origin) * s.word_bits + bit;
    if (s.symmetric || stands(s, words[at >> 3] >> (at & 7) & 1, a)) flip_bit(words, at);
  }

  FORCE_INLINE void load(const Sampler& s, const Lanes& lanes, Vec stored[4]) {
    for (int l = 0; l < kLanes; ++l) {
      std::uint32_t part[4] = {0, 0, 0, 0};
      if (lanes.count[l] > 0) {
        std::memcpy(part, word_of(s, lanes.first[l]), lanes.count[l] * s.word_bits / 8);
      }
      for (int i = 0; i < 4; ++i) stored[i][l] = part[i];
    }
  }

  FORCE_INLINE void group(const Sampler& s, std::uint64_t, std::uint64_t first, std::uint64_t count,
                          const Vec flips[4], int l) {
    flip_group(word_of(s, first), count * s.word_bits / 8, GroupFlips(flips, l));
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

  FORCE_INLINE void whole_groups(const Sampler& s, std::uint64_t row, std::uint64_t,
                                 const Vec flips[4]) {
    for (int l = 0; l < kLanes; ++l) group(s, row, 0, 0, flips, l);
  }
};
