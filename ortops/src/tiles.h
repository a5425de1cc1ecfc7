// SPDX-License-Identifier: Apache-2.0
// Sixteen blocks at a time. Included once per instruction set by cpu.cc, inside a namespace that
// has defined Native, philox_tile, scale_tile, any, append_where and xor_groups for it. No include
// guard on purpose.

// Lanes where a < b, and where a == b, as masks. Native is the widest vector that the instruction
// set compares; GCC would take wider ones lane by lane.
FORCE_INLINE Vec less(const Vec& a, const Vec& b) {
  Vec result;
  for (std::size_t part = 0; part < sizeof(Vec); part += sizeof(Native)) {
    Native x, y;
    std::memcpy(&x, reinterpret_cast<const char*>(&a) + part, sizeof x);
    std::memcpy(&y, reinterpret_cast<const char*>(&b) + part, sizeof y);
    const auto mask = x < y;
    std::memcpy(reinterpret_cast<char*>(&result) + part, &mask, sizeof mask);
  }
  return result;
}

FORCE_INLINE Vec equal(const Vec& a, const Vec& b) {
  Vec result;
  for (std::size_t part = 0; part < sizeof(Vec); part += sizeof(Native)) {
    Native x, y;
    std::memcpy(&x, reinterpret_cast<const char*>(&a) + part, sizeof x);
    std::memcpy(&y, reinterpret_cast<const char*>(&b) + part, sizeof y);
    const auto mask = x == y;
    std::memcpy(reinterpret_cast<char*>(&result) + part, &mask, sizeof mask);
  }
  return result;
}

FORCE_INLINE Vec splat(std::uint32_t value) { return Vec{} + value; }

// Fills the tile from block `index` on; lanes past `last` repeat a block with no elements.
FORCE_INLINE void place_lanes(const Call& call, std::uint64_t index, std::uint64_t last,
                              std::uint64_t size, Lanes& lanes) {
  std::uint64_t row = index / call.blocks_per_sample;
  std::uint64_t block = index - row * call.blocks_per_sample;
  lanes.used = last - index < kLanes ? static_cast<int>(last - index) : kLanes;
  const std::uint64_t start = block * size;
  lanes.whole = lanes.used == kLanes && start + kLanes * size <= call.elements;
  if (lanes.whole) {
    lanes.sample = splat(call.sample_id(row));
    lanes.block = kBlockOfLane + static_cast<std::uint32_t>(block);
    const std::uint64_t origin = row * call.elements + start;
    for (int l = 0; l < kLanes; ++l) {
      lanes.row[l] = row;
      lanes.first[l] = origin + kBlockOfLane[l] * size;
      lanes.count[l] = size;
    }
    return;
  }
  for (int l = 0; l < kLanes; ++l) {
    const std::uint64_t inside = block * size;
    lanes.block[l] = static_cast<std::uint32_t>(block);
    lanes.sample[l] = call.sample_id(row);
    lanes.row[l] = row;
    lanes.first[l] = row * call.elements + inside;
    lanes.count[l] = call.elements - inside < size ? call.elements - inside : size;
    if (l >= lanes.used) {
      lanes.count[l] = 0;
    } else if (l + 1 < lanes.used && ++block == call.blocks_per_sample) {
      block = 0;
      ++row;
    }
  }
}

FORCE_INLINE void draw_tile(const Sampler& s, std::uint32_t draw, const Lanes& lanes, Vec* out) {
  if (lanes.whole) {
    philox_tile<true>(s, draw, lanes.block, lanes.sample, out);
  } else {
    philox_tile<false>(s, draw, lanes.block, lanes.sample, out);
  }
}

// BlockWords of one lane, with the first draws taken from the tile.
class TileWords {
 public:
  TileWords(const Sampler& s, const Vec* words, int draws, const Lanes& lanes, int lane)
      : words_(words),
        lane_(lane),
        tile_words_(4 * draws),
        rest_(s, lanes.block[lane], lanes.sample[lane], static_cast<std::uint32_t>(draws)) {}
  std::uint32_t next() { return used_ < tile_words_ ? words_[used_++][lane_] : rest_.next(); }
  std::uint64_t next64() {
    const std::uint64_t low = next();
    return low | std::uint64_t{next()} << 32;
  }

 private:
  const Vec* words_;
  int lane_, tile_words_, used_ = 0;
  BlockWords rest_;
};

// Sparse, without a branch per block. A lane with more than kFastFlips candidates, with a rejected
// word, or whose count hangs on the low half of u (once in 2^32) takes the plain way. A candidate
// takes one word, or three where p01 != p10: its position and the two of its thinning draw.
constexpr int kFastFlips = 6;

template <bool kSymmetric>
FORCE_INLINE void sparse_tile(const Sampler& s, const Lanes& lanes, FlipSink& sink) {
  constexpr int kStep = kSymmetric ? 1 : 3;
  constexpr int kMostDraws = (2 + kStep * kFastFlips + 3) / 4;
  Vec words[4 * kMostDraws];
  draw_tile(s, 0, lanes, words);
  Vec count{}, plain{};
  const int levels = s.max_flips < kFastFlips + 1 ? s.max_flips : kFastFlips + 1;
  for (int i = 1; i <= levels; ++i) {
    const Vec bound = splat(static_cast<std::uint32_t>(s.at_least[i] >> 32));
    count -= less(words[1], bound);
    plain |= equal(words[1], bound);
  }
  for (int l = lanes.used; l < kLanes; ++l) count[l] = plain[l] = 0;
  if (!any(count | plain)) return;
  plain |= less(splat(kFastFlips), count);
  count &= ~plain;
  int most = 0, draws = 1;
  while (most < kFastFlips && any(less(splat(static_cast<std::uint32_t>(most)), count))) ++most;
  for (; 4 * draws < 2 + kStep * most; ++draws) {
    draw_tile(s, static_cast<std::uint32_t>(draws), lanes, words + 4 * draws);
  }

  Vec position[kFastFlips];
  for (int c = 0; c < most; ++c) {
    Vec low;
    scale_tile(words[2 + kStep * c], s.block_bits, position[c], low);
    Vec wrong = less(low, splat(s.reject_below));
    for (int d = 0; d < c; ++d) wrong |= equal(position[c], position[d]);
    plain |= wrong & less(splat(static_cast<std::uint32_t>(c)), count);
  }
  const Vec start = lanes.whole ? kBlockOfLane * s.block_bits : kLaneNumber << kPositionBits;
  Candidates<kSymmetric> found;
  for (int c = 0; c < most; ++c) {
    const Vec drawn = less(splat(static_cast<std::uint32_t>(c)), count) & ~plain;
    if constexpr (!kSymmetric) {
      append_where(drawn, words[3 + kStep * c], found.a_low + found.used);
      append_where(drawn, words[4 + kStep * c], found.a_high + found.used);
    }
    found.used += append_where(drawn, position[c] + start, found.position + found.used);
  }
  if (lanes.whole) {
    sink.whole_tile(s, lanes, found);
  } else {
    sink.part_tile(s, lanes, found);
  }
  if (!any(plain)) return;
  for (int l = 0; l < lanes.used; ++l) {
    if (plain[l]) sink.plain_lane(s, lanes, l, TileWords(s, words, draws, lanes, l));
  }
}

// Sparse, counting: only the first draw is needed, but for blocks that reach past the sample's end.
FORCE_INLINE void sparse_count_tile(const Sampler& s, const Lanes& lanes, std::uint64_t size,
                                    std::int64_t* flips_of_row) {
  Vec words[4];
  draw_tile(s, 0, lanes, words);
  const Vec bound = splat(static_cast<std::uint32_t>(s.at_least[1] >> 32));
  if (!any(~less(bound, words[1]))) return;
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

template <bool kSymmetric>
FORCE_INLINE void sparse_flip_range(const Call& call, std::uint64_t first, std::uint64_t last,
                                    FlipSink& sink) {
  const std::uint64_t size = block_elements(call.sampler);
  Lanes lanes;
  for (; first < last; first += kLanes) {
    place_lanes(call, first, last, size, lanes);
    sparse_tile<kSymmetric>(call.sampler, lanes, sink);
  }
}

// Dense groups: lanes left undecided after the usual number of digits wait in `Pending` until
// sixteen groups of them fill a tile, since a few late lanes would keep a whole tile drawing.
struct Pending {
  alignas(64) std::uint32_t undecided[4][3 * kLanes];
  alignas(64) std::uint32_t stored[4][3 * kLanes];
  alignas(64) std::uint32_t block[3 * kLanes], sample[3 * kLanes], row[3 * kLanes];
  int used = 0;
};

// Threshold digit r (0 is worth 1/2) of stored zeros or ones, as a word of equal bits.
FORCE_INLINE std::uint32_t threshold_digit(const Sampler& s, int bit, int r) {
  return first_digit(s.threshold[bit] << r);
}

// Draws digits [from, to), or fewer once every lane is decided. Returns whether lanes are left.
template <bool kSymmetric, bool kOneSample>
FORCE_INLINE bool decide(const Sampler& s, const Vec& block, const Vec& sample, int from, int to,
                         const Vec stored[4], Vec undecided[4], Vec flips[4]) {
  Vec digit[4];
  for (int r = from; r < to; ++r) {
    philox_tile<kOneSample>(s, static_cast<std::uint32_t>(r), block, sample, digit);
    const std::uint32_t t0 = threshold_digit(s, 0, r), t1 = threshold_digit(s, 1, r);
    if constexpr (kSymmetric) {
      if (t0 != 0) {
        for (int i = 0; i < 4; ++i) {
          flips[i] |= undecided[i] & ~digit[i];
          undecided[i] &= digit[i];
        }
      } else {
        for (int i = 0; i < 4; ++i) undecided[i] &= ~digit[i];
      }
    } else {
      for (int i = 0; i < 4; ++i) {
        const Vec one = (stored[i] & splat(t1)) | (~stored[i] & splat(t0));
        flips[i] |= undecided[i] & one & ~digit[i];
        undecided[i] &= ~(digit[i] ^ one);
      }
    }
    if (!any(undecided[0] | undecided[1] | undecided[2] | undecided[3])) return false;
  }
  return to < s.digits;
}

template <bool kSymmetric, class Sink>
FORCE_INLINE void finish_pending(const Call& call, Pending& pending, int from, Sink& sink) {
  const Sampler& s = call.sampler;
  const int used = pending.used < kLanes ? pending.used : kLanes;
  const std::uint64_t size = block_elements(s);
  Vec undecided[4], stored[4], flips[4], block, sample;
  for (int i = 0; i < 4; ++i) {
    std::memcpy(&undecided[i], pending.undecided[i], sizeof(Vec));
    if constexpr (!kSymmetric) std::memcpy(&stored[i], pending.stored[i], sizeof(Vec));
    flips[i] = Vec{};
    for (int l = used; l < kLanes; ++l) undecided[i][l] = 0;
  }
  std::memcpy(&block, pending.block, sizeof(Vec));
  std::memcpy(&sample, pending.sample, sizeof(Vec));
  decide<kSymmetric, false>(s, block, sample, from, s.digits, stored, undecided, flips);
  for (int l = 0; l < used; ++l) {
    const std::uint64_t inside = pending.block[l] * size;
    const std::uint64_t count = call.elements - inside < size ? call.elements - inside : size;
    sink.group(s, pending.row[l], pending.row[l] * call.elements + inside, count, flips, l);
  }
  pending.used -= used;
  const auto shift = [&](std::uint32_t* values) {
    std::memcpy(values, values + kLanes, sizeof(Vec));
  };
  for (int i = 0; i < 4; ++i) {
    shift(pending.undecided[i]);
    if constexpr (!kSymmetric) shift(pending.stored[i]);
  }
  shift(pending.block);
  shift(pending.sample);
  shift(pending.row);
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
  // After log2(lanes) + 3 digits an eighth of the groups still have an undecided lane (measured
  // fastest: fewer digits fill Pending, more are drawn for a few lanes of a tile).
  int usual = 3;
  while (1 << (usual - 3) < lanes_per_group) ++usual;
  if (usual > s.digits) usual = s.digits;

  Pending pending;
  Lanes lanes;
  for (; first < last; first += kLanes) {
    place_lanes(call, first, last, size, lanes);
    Vec stored[4], undecided[4], flips[4];
    if constexpr (!kSymmetric) sink.load(s, lanes, stored);
    for (int i = 0; i < 4; ++i) {
      Vec valid = splat(noisy[i]);
      if (!lanes.whole) {
        for (int l = 0; l < kLanes; ++l) valid[l] &= inside(lanes.count[l] * s.word_bits, i);
      }
      if constexpr (kSymmetric) stored[i] = valid;  // any value: both directions are alike
      open_lanes(s, stored[i], valid, flips[i], undecided[i]);
    }
    // Sinks apply flips by exclusive or, so that a group's late flips can follow on their own.
    bool open;
    if (lanes.whole) {
      open = decide<kSymmetric, true>(s, lanes.block, lanes.sample, 0, usual, stored, undecided,
                                      flips);
      sink.whole_groups(s, lanes.row[0], lanes.first[0], flips);
    } else {
      open = decide<kSymmetric, false>(s, lanes.block, lanes.sample, 0, usual, stored, undecided,
                                       flips);
      for (int l = 0; l < lanes.used; ++l) {
        sink.group(s, lanes.row[l], lanes.first[l], lanes.count[l], flips, l);
      }
    }
    if (!open) continue;
    const Vec rest = undecided[0] | undecided[1] | undecided[2] | undecided[3];
    const Vec late = ~equal(rest, Vec{});
    Vec row;
    for (int l = 0; l < kLanes; ++l) row[l] = static_cast<std::uint32_t>(lanes.row[l]);
    const int to = pending.used;
    for (int i = 0; i < 4; ++i) {
      append_where(late, undecided[i], pending.undecided[i] + to);
      if constexpr (!kSymmetric) append_where(late, stored[i], pending.stored[i] + to);
    }
    append_where(late, lanes.block, pending.block + to);
    append_where(late, lanes.sample, pending.sample + to);
    pending.used += append_where(late, row, pending.row + to);
    if (pending.used >= kLanes) finish_pending<kSymmetric>(call, pending, usual, sink);
  }
  while (pending.used > 0) finish_pending<kSymmetric>(call, pending, usual, sink);
}

void flip(const Call& call, unsigned char* words, std::uint64_t origin, std::uint64_t first,
          std::uint64_t last) {
  FlipSink sink{words, origin};
  const bool sparse = call.sampler.regime == Regime::kSparse;
  if (call.sampler.symmetric) {
    sparse ? sparse_flip_range<true>(call, first, last, sink)
           : dense_range<true>(call, first, last, sink);
  } else {
    sparse ? sparse_flip_range<false>(call, first, last, sink)
           : dense_range<false>(call, first, last, sink);
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
