// SPDX-License-Identifier: Apache-2.0
// Sixteen blocks at a time. Included once per instruction set by cpu.cc, inside a namespace that
// has defined philox_tile, scale_tile and append_where for it. No include guard on purpose.

// Where a tile's lanes lie: lane l is block block[l] of the sample with id sample[l].
struct Lanes {
  Vec block, sample;
  std::uint64_t row[kLanes];    // row of the sample in the tensor
  std::uint64_t first[kLanes];  // first element, counted from the tensor's start
  std::uint64_t count[kLanes];  // elements of the block that lie inside the sample
  int used;
};

// Fills the tile from block `index` on; lanes past `last` repeat lane 0 with no elements.
FORCE_INLINE void place_lanes(const Call& call, std::uint64_t index, std::uint64_t last,
                              std::uint64_t size, Lanes& lanes) {
  std::uint64_t row = index / call.blocks_per_sample;
  std::uint64_t block = index % call.blocks_per_sample;
  lanes.used = last - index < kLanes ? static_cast<int>(last - index) : kLanes;
  for (int l = 0; l < kLanes; ++l) {
    if (l >= lanes.used) {
      lanes.block[l] = lanes.block[0];
      lanes.sample[l] = lanes.sample[0];
      lanes.count[l] = 0;
      continue;
    }
    const std::uint64_t start = block * size;
    lanes.block[l] = static_cast<std::uint32_t>(block);
    lanes.sample[l] = call.sample_id(row);
    lanes.row[l] = row;
    lanes.first[l] = row * call.elements + start;
    lanes.count[l] = call.elements - start < size ? call.elements - start : size;
    if (++block == call.blocks_per_sample) {
      block = 0;
      ++row;
    }
  }
}

FORCE_INLINE bool any(const Vec& v) {
  std::uint32_t all = 0;
  for (int l = 0; l < kLanes; ++l) all |= v[l];
  return all != 0;
}

// BlockWords of one lane, with the first draws taken from the tile.
class TileWords {
 public:
  TileWords(const Sampler& s, const Vec* words, int draws, const Lanes& lanes, int lane)
      : words_(words), lane_(lane), tile_words_(4 * draws),
        rest_(s, lanes.block[lane], lanes.sample[lane], static_cast<std::uint32_t>(draws)) {}
  std::uint32_t next() {
    return used_ < tile_words_ ? words_[used_++][lane_] : rest_.next();
  }
  std::uint64_t next64() {
    const std::uint64_t low = next();
    return low | std::uint64_t{next()} << 32;
  }

 private:
  const Vec* words_;
  int lane_, tile_words_, used_ = 0;
  BlockWords rest_;
};

// Sparse, p01 == p10: the common case without a branch per block. Draws 0 and 1 hold up to
// kFastFlips candidates; a lane with more, with a rejected word, or whose count hangs on the low
// half of u (once in 2^32) takes the plain way.
constexpr int kFastFlips = 6;
constexpr int kPositionBits = 21;  // positions are below 2^15 * 64

FORCE_INLINE void sparse_symmetric_tile(const Sampler& s, const Lanes& lanes, FlipSink& sink) {
  Vec words[8];
  philox_tile(s, 0, lanes.block, lanes.sample, words);
  const Vec zero = words[0] ^ words[0];
  Vec count = zero, plain = zero;
  const int levels = s.max_flips < kFastFlips + 1 ? s.max_flips : kFastFlips + 1;
  for (int i = 1; i <= levels; ++i) {
    const Vec bound = zero + static_cast<std::uint32_t>(s.at_least[i] >> 32);
    count -= reinterpret_cast<Vec>(words[1] < bound);
    plain |= reinterpret_cast<Vec>(words[1] == bound);
  }
  for (int l = lanes.used; l < kLanes; ++l) count[l] = plain[l] = 0;
  if (!any(count | plain)) return;
  plain |= reinterpret_cast<Vec>(count > zero + static_cast<std::uint32_t>(kFastFlips));
  const bool second_draw = any(reinterpret_cast<Vec>(count > zero + 2u));
  if (second_draw) philox_tile(s, 1, lanes.block, lanes.sample, words + 4);
  const int most = second_draw ? kFastFlips : 2;

  Vec position[kFastFlips], lane_tag;
  for (int l = 0; l < kLanes; ++l) lane_tag[l] = static_cast<std::uint32_t>(l) << kPositionBits;
  for (int c = 0; c < most; ++c) {
    const Vec drawn = reinterpret_cast<Vec>(count > zero + static_cast<std::uint32_t>(c));
    Vec low;
    scale_tile(words[2 + c], s.block_bits, position[c], low);
    Vec wrong = reinterpret_cast<Vec>(low < zero + s.reject_below);
    for (int d = 0; d < c; ++d) wrong |= reinterpret_cast<Vec>(position[c] == position[d]);
    plain |= drawn & wrong;
  }
  alignas(64) std::uint32_t flips[(kFastFlips + 1) * kLanes];
  int flip_count = 0;
  for (int c = 0; c < most; ++c) {
    const Vec drawn = reinterpret_cast<Vec>(count > zero + static_cast<std::uint32_t>(c));
    flip_count += append_where(drawn & ~plain, position[c] | lane_tag, flips + flip_count);
  }
  sink.positions(s, lanes, flips, flip_count);
  if (!any(plain)) return;
  for (int l = 0; l < lanes.used; ++l) {
    if (plain[l]) sink.candidates(s, lanes, l, TileWords(s, words, second_draw ? 2 : 1, lanes, l));
  }
}

// Sparse, p01 != p10: three words a candidate, so four draws hold the usual block.
FORCE_INLINE void sparse_asymmetric_tile(const Sampler& s, const Lanes& lanes, FlipSink& sink) {
  constexpr int kDraws = 4;
  Vec words[4 * kDraws];
  philox_tile(s, 0, lanes.block, lanes.sample, words);
  const Vec zero = words[0] ^ words[0];
  Vec some = reinterpret_cast<Vec>(
      words[1] <= zero + static_cast<std::uint32_t>(s.at_least[1] >> 32));
  for (int l = lanes.used; l < kLanes; ++l) some[l] = 0;
  if (!any(some)) return;
  int draws = 1;
  for (; draws < kDraws && 4 * draws < 2 + 3 * s.mean_flips; ++draws) {
    philox_tile(s, static_cast<std::uint32_t>(draws), lanes.block, lanes.sample,
                words + 4 * draws);
  }
  for (int l = 0; l < lanes.used; ++l) {
    if (some[l]) sink.candidates(s, lanes, l, TileWords(s, words, draws, lanes, l));
  }
}

// Sparse, counting: only the first draw is needed, but for blocks that reach past the sample's end.
FORCE_INLINE void sparse_count_tile(const Sampler& s, const Lanes& lanes, std::uint64_t size,
                                    std::int64_t* flips_of_row) {
  Vec words[4];
  philox_tile(s, 0, lanes.block, lanes.sample, words);
  const Vec bound = (words[0] ^ words[0]) + static_cast<std::uint32_t>(s.at_least[1] >> 32);
  if (!any(reinterpret_cast<Vec>(words[1] <= bound))) return;
  for (int l = 0; l < lanes.used; ++l) {
    int count = candidate_count(s, words[0][l] | std::uint64_t{words[1][l]} << 32);
    if (count > 0 && lanes.count[l] < size) {
      count = 0;
      visit_candidates(s, TileWords(s, words, 1, lanes, l),
                       [&](std::uint32_t element, unsigned, std::uint64_t) {
                         count += element < lanes.count[l];
                       });
    }
    flips_of_row[lanes.row[l]] += count;
  }
}

FORCE_INLINE void sparse_flip_range(const Call& call, std::uint64_t first, std::uint64_t last,
                                    FlipSink& sink) {
  const std::uint64_t size = block_elements(call.sampler);
  Lanes lanes;
  for (; first < last; first += kLanes) {
    place_lanes(call, first, last, size, lanes);
    if (call.sampler.symmetric) {
      sparse_symmetric_tile(call.sampler, lanes, sink);
    } else {
      sparse_asymmetric_tile(call.sampler, lanes, sink);
    }
  }
}

// Dense groups: lanes left undecided after the usual number of digits wait in `Pending` until
// sixteen groups of them fill a tile, since a few late lanes would keep a whole tile drawing.
struct Pending {
  std::uint32_t undecided[4][2 * kLanes], stored[4][2 * kLanes];
  std::uint32_t block[2 * kLanes], sample[2 * kLanes];
  std::uint64_t row[2 * kLanes], first[2 * kLanes], count[2 * kLanes];
  int used = 0;
};

template <bool kSymmetric>
FORCE_INLINE int decide(const Sampler& s, const Vec& block, const Vec& sample, int from, int to,
                        const Vec stored[4], Vec undecided[4], Vec flips[4]) {
  Vec digit[4];
  const Vec zeros = undecided[0] ^ undecided[0];
  for (int r = from; r < to; ++r) {
    philox_tile(s, static_cast<std::uint32_t>(r), block, sample, digit);
    const std::uint32_t t0 = threshold_digit(s, 0, r), t1 = threshold_digit(s, 1, r);
    Vec open = zeros;
    for (int i = 0; i < 4; ++i) {
      if constexpr (kSymmetric) {
        compare_digit(digit[i], zeros | t0, undecided[i], flips[i]);
      } else {
        compare_digit(digit[i], (stored[i] & t1) | (~stored[i] & t0), undecided[i], flips[i]);
      }
      open |= undecided[i];
    }
    if (!any(open)) return 0;
  }
  return to < s.digits;
}

template <bool kSymmetric, class Sink>
FORCE_INLINE void finish_pending(const Sampler& s, Pending& pending, int from, Sink& sink) {
  const int used = pending.used < kLanes ? pending.used : kLanes;
  Vec undecided[4], stored[4], flips[4], block, sample;
  for (int i = 0; i < 4; ++i) {
    std::memcpy(&undecided[i], pending.undecided[i], sizeof(Vec));
    if constexpr (!kSymmetric) std::memcpy(&stored[i], pending.stored[i], sizeof(Vec));
    flips[i] = undecided[i] ^ undecided[i];
    for (int l = used; l < kLanes; ++l) undecided[i][l] = 0;
  }
  std::memcpy(&block, pending.block, sizeof(Vec));
  std::memcpy(&sample, pending.sample, sizeof(Vec));
  decide<kSymmetric>(s, block, sample, from, s.digits, stored, undecided, flips);
  for (int l = 0; l < used; ++l) {
    sink.group(s, pending.row[l], pending.first[l], pending.count[l], flips, l);
  }
  pending.used -= used;
  for (int l = 0; l < pending.used; ++l) {
    for (int i = 0; i < 4; ++i) {
      pending.undecided[i][l] = pending.undecided[i][l + kLanes];
      if constexpr (!kSymmetric) pending.stored[i][l] = pending.stored[i][l + kLanes];
    }
    pending.block[l] = pending.block[l + kLanes];
    pending.sample[l] = pending.sample[l + kLanes];
    pending.row[l] = pending.row[l + kLanes];
    pending.first[l] = pending.first[l + kLanes];
    pending.count[l] = pending.count[l + kLanes];
  }
}

// Lanes of the 32-bit part i that lie inside a group of `bits` valid bits.
FORCE_INLINE std::uint32_t inside(std::uint64_t bits, int part) {
  const std::uint64_t start = 32u * static_cast<unsigned>(part);
  if (bits >= start + 32) return ~0u;
  return bits <= start ? 0u : ~0u >> (start + 32 - bits);
}

template <bool kSymmetric, class Sink>
FORCE_INLINE void dense_range(const Call& call, std::uint64_t first, std::uint64_t last,
                              Sink& sink) {
  const Sampler& s = call.sampler;
  const std::uint64_t size = block_elements(s);
  std::uint32_t noisy[4];
  int lanes_per_group = 0;
  for (int i = 0; i < 4; ++i) {
    noisy[i] = noisy_lanes(s, i);
    lanes_per_group += __builtin_popcount(noisy[i]);
  }
  // After log2(lanes) digits about a third of the groups still have an undecided lane.
  int usual = 1;
  while (1 << usual < lanes_per_group) ++usual;
  if (usual > s.digits) usual = s.digits;

  Pending pending;
  Lanes lanes;
  for (; first < last; first += kLanes) {
    place_lanes(call, first, last, size, lanes);
    Vec stored[4], undecided[4], flips[4];
    if constexpr (!kSymmetric) sink.load(s, lanes, stored);
    bool whole = true;
    for (int l = 0; l < kLanes; ++l) whole &= lanes.count[l] == size;
    for (int i = 0; i < 4; ++i) {
      Vec valid = (lanes.block ^ lanes.block) | noisy[i];
      if (!whole) {
        for (int l = 0; l < kLanes; ++l) valid[l] &= inside(lanes.count[l] * s.word_bits, i);
      }
      if constexpr (kSymmetric) stored[i] = valid;  // any value: both directions are alike
      undecided[i] = open_lanes(s, stored[i], valid, flips[i]);
    }
    const int open = decide<kSymmetric>(s, lanes.block, lanes.sample, 0, usual, stored, undecided,
                                        flips);
    // Sinks apply flips by exclusive or, so that a group's late flips can follow on their own.
    for (int l = 0; l < lanes.used; ++l) {
      sink.group(s, lanes.row[l], lanes.first[l], lanes.count[l], flips, l);
    }
    if (!open) continue;
    const Vec rest = undecided[0] | undecided[1] | undecided[2] | undecided[3];
    for (int l = 0; l < lanes.used; ++l) {
      const int to = pending.used;
      for (int i = 0; i < 4; ++i) {
        pending.undecided[i][to] = undecided[i][l];
        if constexpr (!kSymmetric) pending.stored[i][to] = stored[i][l];
      }
      pending.block[to] = lanes.block[l];
      pending.sample[to] = lanes.sample[l];
      pending.row[to] = lanes.row[l];
      pending.first[to] = lanes.first[l];
      pending.count[to] = lanes.count[l];
      pending.used += rest[l] != 0;
    }
    if (pending.used >= kLanes) finish_pending<kSymmetric>(s, pending, usual, sink);
  }
  while (pending.used > 0) finish_pending<kSymmetric>(s, pending, usual, sink);
}

void flip(const Call& call, unsigned char* words, std::uint64_t first, std::uint64_t last) {
  FlipSink sink{words};
  if (call.sampler.regime == Regime::kSparse) {
    sparse_flip_range(call, first, last, sink);
  } else if (call.sampler.symmetric) {
    dense_range<true>(call, first, last, sink);
  } else {
    dense_range<false>(call, first, last, sink);
  }
}

void count(const Call& call, std::int64_t* flips, std::uint64_t first, std::uint64_t last) {
  if (call.sampler.regime == Regime::kSparse) {
    const std::uint64_t size = block_elements(call.sampler);
    Lanes lanes;
    for (; first < last; first += kLanes) {
      place_lanes(call, first, last, size, lanes);
      sparse_count_tile(call.sampler, lanes, size, flips);
    }
  } else {
    CountSink sink{flips};
    dense_range<true>(call, first, last, sink);
  }
}
