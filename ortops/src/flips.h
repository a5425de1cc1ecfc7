// SPDX-License-Identifier: Apache-2.0
// Which bits flip: the sampling of noise-model version 1 for one block of one sample.
// Host and device; integers only, but for the plan, which the host computes in IEEE double.
#pragma once

#include <cstdint>

#include "philox.h"

namespace noisystore {

inline constexpr double kDenseRate = 1.0 / 32.0;  // at this rate and above the dense regime holds
inline constexpr int kMaxFlipsPerBlock = 63;
inline constexpr int kGroupBits = 128;
inline constexpr std::uint64_t kMaxBlocks = std::uint64_t{1} << 32;

enum class Regime : std::uint8_t { kNone, kSparse, kDense };

// All that sampling needs of one call; a plain struct, so that a device takes it by value.
struct Sampler {
  Regime regime;
  bool symmetric;            // p01 == p10
  std::uint8_t word_bits;    // 8, 16, 32 or 64
  std::uint8_t noisy_bits;   // k
  std::uint32_t key0, key1;  // the seed's halves
  std::uint32_t site;
  std::uint64_t mask;       // noisy bits of a word
  std::uint8_t bit_of[64];  // positions of the noisy bits, ascending

  // Sparse: a block is 2^block_log2 elements with `block_bits` = n noisy bits.
  std::uint32_t block_log2;
  std::uint32_t block_bits;
  std::uint32_t reject_below;  // 2^32 mod n
  std::uint64_t divide_by_k;   // ceil(2^40 / k): x / k == x * divide_by_k >> 40 for x < 2^25
  std::uint64_t keep[2];       // [bit]: a candidate on that bit stands if a < keep[bit] ...
  bool keep_always[2];         // ... or always, where the bit's rate is the larger one
  int max_flips;               // L
  double mean_flips;           // n * p, for choosing how much to draw at once
  std::uint64_t at_least[kMaxFlipsPerBlock + 1];  // [i]: T[i], i from 1

  // Dense: thresholds of the 64-digit fraction; a rate of 1 is `certain`.
  std::uint64_t threshold[2];
  bool certain[2];
  int digits;  // digits after which both thresholds are zero
};

// The word cursor of a block: words w0 w1 w2 ... of draw 0, draw 1, ...
class BlockWords {
 public:
  NOISYSTORE_HD BlockWords(const Sampler& s, std::uint32_t block, std::uint32_t sample,
                           std::uint32_t first_draw = 0)
      : key0_(s.key0), key1_(s.key1), counter_{first_draw, block, s.site, sample} {}

  NOISYSTORE_HD std::uint32_t next() {
    if (left_ == 0) {
      philox4x32(counter_, key0_, key1_, words_);
      ++counter_[0];
      left_ = 4;
    }
    --left_;
    // Not by an index: a device would keep the words in memory.
    const std::uint32_t word = words_[0];
    words_[0] = words_[1];
    words_[1] = words_[2];
    words_[2] = words_[3];
    return word;
  }

  NOISYSTORE_HD std::uint64_t next64() {
    const std::uint64_t low = next();
    return low | std::uint64_t{next()} << 32;
  }

 private:
  std::uint32_t key0_, key1_;
  std::uint32_t counter_[4];
  std::uint32_t words_[4]{};
  int left_ = 0;
};

// Number of candidates of a block whose first 64 random bits are u.
NOISYSTORE_HD int candidate_count(const Sampler& s, std::uint64_t u) {
  int count = 0;
  while (count < s.max_flips && u < s.at_least[count + 1]) ++count;
  return count;
}

NOISYSTORE_HD std::uint32_t element_of(const Sampler& s, std::uint32_t position) {
  return static_cast<std::uint32_t>(position * s.divide_by_k >> 40);
}

// Calls visit(element in the block, bit, a) for every candidate of a block, elements past the end
// of the sample included. `a` is the thinning draw, 0 where p01 == p10.
// `Words` is BlockWords or whatever gives the same words.
template <class Words, class Visit>
NOISYSTORE_HD void visit_candidates(const Sampler& s, Words words, Visit&& visit) {
  std::uint32_t had[kMaxFlipsPerBlock];
  const int count = candidate_count(s, words.next64());
  for (int i = 0; i < count;) {
    const std::uint64_t scaled = std::uint64_t{words.next()} * s.block_bits;
    if (static_cast<std::uint32_t>(scaled) < s.reject_below) continue;
    const std::uint32_t position = static_cast<std::uint32_t>(scaled >> 32);
    bool seen = false;
    for (int j = 0; j < i; ++j) seen |= had[j] == position;
    if (seen) continue;
    had[i++] = position;
    const std::uint64_t a = s.symmetric ? 0 : words.next64();
    const std::uint32_t element = element_of(s, position);
    visit(element, s.bit_of[position - element * s.noisy_bits], a);
  }
}

// Whether a candidate on a stored bit of value `bit` stands.
NOISYSTORE_HD bool stands(const Sampler& s, unsigned bit, std::uint64_t a) {
  return s.keep_always[bit] || a < s.keep[bit];
}

// Flips bit `bit` of words in memory, counted from their start.
NOISYSTORE_HD void flip_bit(unsigned char* words, std::uint64_t bit) {
  words[bit >> 3] ^= static_cast<unsigned char>(1u << (bit & 7));
}

// One 32-bit part before the first digit: the flips that are sure, and the lanes left to decide.
// (Results go through references: what returns a wide vector by value has another ABI in each
// instruction set.)
template <class Bits>
NOISYSTORE_HD void open_lanes(const Sampler& s, const Bits& stored, const Bits& noisy, Bits& flips,
                              Bits& undecided) {
  const Bits none = noisy ^ noisy;
  const Bits zeros = noisy & ~stored, ones = noisy & stored;
  flips = (s.certain[0] ? zeros : none) | (s.certain[1] ? ones : none);
  undecided = (s.certain[0] || s.threshold[0] == 0 ? none : zeros) |
              (s.certain[1] || s.threshold[1] == 0 ? none : ones);
}

// The first digit of a threshold, worth 1/2, as a word of equal bits.
NOISYSTORE_HD std::uint32_t first_digit(std::uint64_t threshold) {
  return 0u - static_cast<std::uint32_t>(threshold >> 63);
}

// The digits of sample_group. An undecided lane takes the threshold's digit for its flip; the first
// digit of its fraction that differs decides that: 0 where the threshold has 1 is below it. (On a
// device every operation below is one instruction for 32 lanes.)
template <bool kSymmetric>
NOISYSTORE_HD void decide_group(const Sampler& s, std::uint32_t group, std::uint32_t sample,
                                const std::uint32_t stored[4], std::uint32_t undecided[4],
                                std::uint32_t flips[4]) {
  std::uint64_t zeros = s.threshold[0], ones = s.threshold[1];
  std::uint32_t digit[4];
  for (int r = 0; r < s.digits; ++r) {
    if ((undecided[0] | undecided[1] | undecided[2] | undecided[3]) == 0) break;
    const std::uint32_t counter[4] = {static_cast<std::uint32_t>(r), group, s.site, sample};
    philox4x32(counter, s.key0, s.key1, digit);
    const std::uint32_t zero = first_digit(zeros), one = first_digit(ones);
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t next = kSymmetric ? zero : (stored[i] & one) | (~stored[i] & zero);
      flips[i] = (undecided[i] & next) | (~undecided[i] & flips[i]);
      undecided[i] &= ~(digit[i] ^ next);
    }
    zeros <<= 1;
    ones <<= 1;
  }
  // A fraction that equals the threshold is not below it.
  for (int i = 0; i < 4; ++i) flips[i] &= ~undecided[i];
}

// Dense regime, one group of 128 lanes: flips[i] of the 32-bit parts stored[i], noisy lanes only.
NOISYSTORE_HD void sample_group(const Sampler& s, std::uint32_t group, std::uint32_t sample,
                                const std::uint32_t stored[4], const std::uint32_t noisy[4],
                                std::uint32_t flips[4]) {
  std::uint32_t undecided[4];
  for (int i = 0; i < 4; ++i) open_lanes(s, stored[i], noisy[i], flips[i], undecided[i]);
  if (s.symmetric) {
    decide_group<true>(s, group, sample, stored, undecided, flips);
  } else {
    decide_group<false>(s, group, sample, stored, undecided, flips);
  }
}

// Noisy lanes of the 32-bit part i of a group: the mask repeated over its words.
NOISYSTORE_HD std::uint32_t noisy_lanes(const Sampler& s, int part) {
  if (s.word_bits == 64) return static_cast<std::uint32_t>(s.mask >> (part % 2 * 32));
  const std::uint32_t mask = static_cast<std::uint32_t>(s.mask);
  if (s.word_bits == 16) return mask * 0x00010001u;
  return s.word_bits == 8 ? mask * 0x01010101u : mask;
}

// Elements in one block (sparse, or nothing flips) or group (dense).
NOISYSTORE_HD std::uint64_t block_elements(const Sampler& s) {
  return s.regime == Regime::kDense ? kGroupBits / s.word_bits : std::uint64_t{1} << s.block_log2;
}

// Host only; fills in what the regime needs. The rates must lie in [0, 1]; word_bits is 8, 16, 32
// or 64.
void make_sampler(double p01, double p10, unsigned word_bits, std::uint64_t bit_mask,
                  std::int64_t seed, std::uint32_t site, Sampler& s);

}  // namespace noisystore
