// SPDX-License-Identifier: Apache-2.0
// The tile loops for each instruction set, and the choice among them at run time.
#include "cpu.h"

#include <cstring>

#include "floating_point_mode.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "NoisyStore stores words little-endian; this target is big-endian"
#endif

#define FORCE_INLINE inline __attribute__((always_inline))
#define FORCE_INLINE_LAMBDA __attribute__((always_inline))

namespace noisystore {
namespace {

constexpr int kLanes = 16;
typedef std::uint32_t Vec __attribute__((vector_size(4 * kLanes)));

// In a tile of whole blocks lane 4q + k takes block 4k + q: exchanging 32-bit and then 64-bit
// halves of neighbouring vectors then leaves the groups of a tile in memory order.
constexpr Vec kBlockOfLane = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
constexpr Vec kLaneNumber = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr int kPositionBits = 21;  // a position in a block is below 2^15 * 64

// The flips of one group as two 64-bit halves.
struct GroupFlips {
  std::uint64_t low, high;
  GroupFlips(const Vec flips[4], int l)
      : low(flips[0][l] | std::uint64_t{flips[1][l]} << 32),
        high(flips[2][l] | std::uint64_t{flips[3][l]} << 32) {}
};

void flip_group(unsigned char* at, std::uint64_t bytes, const GroupFlips& flips) {
  std::uint64_t part[2] = {0, 0};
  if (bytes == sizeof part) {
    std::memcpy(part, at, sizeof part);
    part[0] ^= flips.low;
    part[1] ^= flips.high;
    std::memcpy(at, part, sizeof part);
  } else {
    std::memcpy(part, at, bytes);
    part[0] ^= flips.low;
    part[1] ^= flips.high;
    std::memcpy(at, part, bytes);
  }
}

void flip_bit(unsigned char* words, std::uint64_t bit) {
  words[bit >> 3] ^= static_cast<unsigned char>(1u << (bit & 7));
}

namespace portable {

#include "lanes_portable.h"
#include "sinks.h"
#include "tiles.h"

}  // namespace portable

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
namespace avx2 {

#include "lanes_avx2.h"
#include "sinks.h"
#include "tiles.h"

}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                      \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2,popcnt"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2,popcnt,prefer-vector-width=512")
#endif
namespace avx512 {

#include "lanes_avx512.h"
#include "sinks.h"
#include "tiles.h"

}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__

constexpr Kernels kPortable = {"portable", portable::flip, portable::count, portable_conversions};
#if defined(__x86_64__)
constexpr Kernels kAvx2 = {"avx2", avx2::flip, avx2::count, avx2_conversions};
constexpr Kernels kAvx512 = {"avx512", avx512::flip, avx512::count, avx2_conversions};
#endif

struct Available {
  const Kernels* list[4] = {};
  Available() {
    int used = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned a, b, c = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    const bool common = __builtin_cpu_supports("avx2") && (c & bit_F16C) != 0 &&
                        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                        __builtin_cpu_supports("popcnt");
    if (common && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      list[used++] = &kAvx512;
    }
    if (common) list[used++] = &kAvx2;
#endif
    list[used] = &kPortable;
  }
};

// The first element of a block, counted from the tensor's start.
std::uint64_t start_of(const Call& call, std::uint64_t block) {
  const std::uint64_t row = block / call.blocks_per_sample;
  const std::uint64_t inside = block % call.blocks_per_sample * block_elements(call.sampler);
  return row * call.elements + inside;
}

// The candidates of one block (sparse regime).
struct BlockCandidates {
  struct {
    std::uint32_t element;
    unsigned bit;
    std::uint64_t a;
  } list[kMaxFlipsPerBlock];
  int count = 0;

  BlockCandidates(const Sampler& s, std::uint32_t block, std::uint32_t sample) {
    visit_candidates(s, BlockWords(s, block, sample),
                     [&](std::uint32_t element, unsigned bit, std::uint64_t a) {
                       list[count++] = {element, bit, a};
                     });
  }
};

// Words are made, flipped and read in a window that stays in the first-level cache.
class Window {
 public:
  static constexpr std::size_t kBytes = 8192;

  Window(const Call& call, const unsigned char* x, unsigned char* y, const Kernels& kernels)
      : call_(call),
        conversion_(kernels.conversions()[static_cast<int>(call.storage.type)]
                                         [static_cast<int>(call.storage.format)]),
        value_bytes_(info(call.storage.type).word_bits / 8),
        x_(x),
        y_(y),
        kernels_(kernels) {}

  std::uint64_t capacity() const { return kBytes * 8 / call_.sampler.word_bits; }

  // Whole blocks, whose words fit.
  void blocks(std::uint64_t first, std::uint64_t last) {
    const std::uint64_t from = start_of(call_, first), to = start_of(call_, last);
    through_words(from, to, [&] { kernels_.flip(call_, words_, from, first, last); });
  }

  // A part of the block that starts at element `start`.
  void part(std::uint64_t start, std::uint64_t from, std::uint64_t to,
            const BlockCandidates& candidates) {
    const Sampler& s = call_.sampler;
    const std::uint64_t inside = from - start;
    bool none = true;
    for (int i = 0; i < candidates.count; ++i) {
      none &= candidates.list[i].element - inside >= to - from;
    }
    if (none) {
      unflipped(from, to);
      return;
    }
    through_words(from, to, [&] {
      for (int i = 0; i < candidates.count; ++i) {
        const auto& candidate = candidates.list[i];
        if (candidate.element - inside >= to - from) continue;
        const std::uint64_t at = (candidate.element - inside) * s.word_bits + candidate.bit;
        if (stands(s, words_[at >> 3] >> (at & 7) & 1, candidate.a)) flip_bit(words_, at);
      }
    });
  }

  void unflipped(std::uint64_t from, std::uint64_t to) {
    if (conversion_.round_trip == nullptr) {
      through_words(from, to, [] {});
    } else {
      conversion_.round_trip(call_.storage.quantization, x_ + from * value_bytes_,
                             y_ + from * value_bytes_, to - from);
    }
  }

 private:
  template <class Flip>
  void through_words(std::uint64_t from, std::uint64_t to, const Flip& flip) {
    const Quantization& q = call_.storage.quantization;
    conversion_.encode(q, x_ + from * value_bytes_, words_, to - from);
    flip();
    conversion_.decode(q, words_, y_ + from * value_bytes_, to - from);
  }

  const Call& call_;
  const Conversion& conversion_;
  const std::size_t value_bytes_;
  const unsigned char* const x_;
  unsigned char* const y_;
  const Kernels& kernels_;
  alignas(64) unsigned char words_[kBytes];
};

void store_converted(const Call& call, const unsigned char* x, unsigned char* y,
                     std::uint64_t first, std::uint64_t last, const Kernels& kernels) {
  const Sampler& s = call.sampler;
  Window window(call, x, y, kernels);
  const std::uint64_t fitting = window.capacity() / block_elements(s);
  if (s.regime != Regime::kNone && fitting > 0) {
    for (std::uint64_t end; first < last; first = end) {
      end = last - first < fitting ? last : first + fitting;
      window.blocks(first, end);
    }
    return;
  }
  const auto parts = [&](std::uint64_t from, std::uint64_t end, const auto& each) {
    for (std::uint64_t to; from < end; from = to) {
      to = end - from < window.capacity() ? end : from + window.capacity();
      each(from, to);
    }
  };
  if (s.regime == Regime::kNone) {
    parts(start_of(call, first), start_of(call, last),
          [&](std::uint64_t from, std::uint64_t to) { window.unflipped(from, to); });
    return;
  }
  for (; first < last; ++first) {
    const std::uint64_t start = start_of(call, first);
    const BlockCandidates candidates(s, static_cast<std::uint32_t>(first % call.blocks_per_sample),
                                     call.sample_id(first / call.blocks_per_sample));
    parts(start, start_of(call, first + 1),
          [&](std::uint64_t from, std::uint64_t to) { window.part(start, from, to, candidates); });
  }
}

}  // namespace

const Kernels* const* available_kernels() {
  static const Available available;
  return available.list;
}

void store_range(const Call& call, const void* x, void* y, std::uint64_t first, std::uint64_t last,
                 const Kernels& kernels) {
  const auto* from = static_cast<const unsigned char*>(x);
  auto* to = static_cast<unsigned char*>(y);
  if (call.storage.converts()) {
    const FloatingPointMode nearest_and_unflushed;
    store_converted(call, from, to, first, last, kernels);
    return;
  }
  const Sampler& s = call.sampler;
  if (x != y) {
    const std::uint64_t at = start_of(call, first) * s.word_bits / 8;
    std::memcpy(to + at, from + at, start_of(call, last) * s.word_bits / 8 - at);
  }
  if (s.regime != Regime::kNone) kernels.flip(call, to, 0, first, last);
}

double estimate_ns(const Call& call, bool in_place) {
  const Sampler& s = call.sampler;
  const double blocks = static_cast<double>(call.blocks());
  const double words = static_cast<double>(call.samples) * static_cast<double>(call.elements);
  double ns = in_place ? 0 : words * s.word_bits / 8 * 0.05;
  if (call.storage.converts()) ns = words * 0.5;
  if (s.regime == Regime::kSparse) ns += blocks * (2 + 4 * s.mean_flips);
  if (s.regime == Regime::kDense) ns += blocks * 16;
  return ns;
}

}  // namespace noisystore
