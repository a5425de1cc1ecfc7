// SPDX-License-Identifier: Apache-2.0
// A range of blocks stored, flipped and loaded.
#include <cstring>

#include "cpu.h"
#include "floating_point_mode.h"

namespace noisystore {
namespace {

// The first element of a block, counted from the tensor's start.
std::uint64_t start_of(const Call& call, std::uint64_t block) {
  const std::uint64_t row = block / call.blocks_per_sample;
  const std::uint64_t inside = block % call.blocks_per_sample * block_elements(call.sampler);
  return row * call.elements + inside;
}

// The candidates of one block whose words fill several windows (sparse regime).
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
  const auto in_parts = [&](std::uint64_t from, std::uint64_t end, const auto& store_part) {
    for (std::uint64_t to; from < end; from = to) {
      to = end - from < window.capacity() ? end : from + window.capacity();
      store_part(from, to);
    }
  };
  const std::uint64_t fitting = window.capacity() / block_elements(s);
  if (s.regime == Regime::kNone) {
    in_parts(start_of(call, first), start_of(call, last),
             [&](std::uint64_t from, std::uint64_t to) { window.unflipped(from, to); });
  } else if (fitting > 0) {
    for (std::uint64_t end; first < last; first = end) {
      end = last - first < fitting ? last : first + fitting;
      window.blocks(first, end);
    }
  } else {
    for (; first < last; ++first) {
      const std::uint64_t start = start_of(call, first);
      const BlockCandidates candidates(s,
                                       static_cast<std::uint32_t>(first % call.blocks_per_sample),
                                       call.sample_id(first / call.blocks_per_sample));
      in_parts(start, start_of(call, first + 1), [&](std::uint64_t from, std::uint64_t to) {
        window.part(start, from, to, candidates);
      });
    }
  }
}

}  // namespace

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
