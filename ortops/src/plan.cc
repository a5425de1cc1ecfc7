// SPDX-License-Identifier: Apache-2.0
// The sampler of one call: rates and mask in, thresholds out. Order and association of every
// floating-point operation below are part of the noise model; -ffp-contract=off keeps them.
#include "flips.h"

namespace noisystore {
namespace {

constexpr double kTwo64 = 18446744073709551616.0;
constexpr int kMaxBlockLog2 = 15;
constexpr double kMeanFlips = 4.0;     // a block's mean number of candidates is at most this
constexpr double kNegligible = 5e-20;  // below 2^-64: further thresholds are 0

std::uint64_t fraction64(double x) { return static_cast<std::uint64_t>(x * kTwo64); }

void plan_sparse(Sampler& s, double p01, double p10, double p) {
  const double k = s.noisy_bits;
  int m = kMaxBlockLog2;
  while (m > 0 && static_cast<double>(1u << m) * k * p > kMeanFlips) --m;
  const std::uint32_t n = static_cast<std::uint32_t>(s.noisy_bits) << m;
  s.block_log2 = static_cast<std::uint32_t>(m);
  s.block_bits = n;
  s.reject_below = static_cast<std::uint32_t>((std::uint64_t{1} << 32) % n);
  s.divide_by_k = ((std::uint64_t{1} << 40) + s.noisy_bits - 1) / s.noisy_bits;
  s.mean_flips = n * p;

  const double q = 1 - p;
  double t = 1;
  for (int i = 0; i < s.noisy_bits; ++i) t = t * q;
  for (int i = 0; i < m; ++i) t = t * t;
  t = t / q;

  const double bits = n, odds = p / q;
  double f[kMaxFlipsPerBlock + 1];
  f[1] = (bits * p) * t;
  int last = 1;
  while (!((f[last] < kNegligible && last > 8) || static_cast<std::uint32_t>(last) == n ||
           last == kMaxFlipsPerBlock)) {
    f[last + 1] = f[last] * (((bits - last) / (last + 1)) * odds);
    ++last;
  }
  s.max_flips = last;
  double sum = f[last];
  s.at_least[last] = fraction64(sum);
  for (int i = last - 1; i >= 1; --i) {
    sum = sum + f[i];
    s.at_least[i] = fraction64(sum);
  }

  const double rate[2] = {p01, p10};
  for (int bit = 0; bit < 2; ++bit) {
    s.keep_always[bit] = rate[bit] == p;
    s.keep[bit] = s.keep_always[bit] ? 0 : fraction64(rate[bit] / p);
  }
}

void plan_dense(Sampler& s, double p01, double p10) {
  const double rate[2] = {p01, p10};
  s.digits = 0;
  for (int bit = 0; bit < 2; ++bit) {
    s.certain[bit] = rate[bit] == 1.0;
    s.threshold[bit] = s.certain[bit] ? 0 : fraction64(rate[bit]);
    int digits = 64;
    while (digits > 0 && (s.threshold[bit] >> (64 - digits) & 1) == 0) --digits;
    if (digits > s.digits) s.digits = digits;
  }
}

}  // namespace

void make_sampler(double p01, double p10, unsigned word_bits, std::uint64_t bit_mask,
                  std::int64_t seed, std::uint32_t site, Sampler& s) {
  const std::uint64_t whole = ~std::uint64_t{0} >> (64 - word_bits);
  s.symmetric = p01 == p10;
  s.word_bits = static_cast<std::uint8_t>(word_bits);
  s.mask = bit_mask & whole;
  s.noisy_bits = 0;
  for (std::uint64_t rest = s.mask; rest != 0; rest &= rest - 1) {
    s.bit_of[s.noisy_bits++] = static_cast<std::uint8_t>(__builtin_ctzll(rest));
  }
  const std::uint64_t key = static_cast<std::uint64_t>(seed);
  s.key0 = static_cast<std::uint32_t>(key);
  s.key1 = static_cast<std::uint32_t>(key >> 32);
  s.site = site;
  const double p = p01 > p10 ? p01 : p10;
  if (p == 0 || s.noisy_bits == 0) {
    s.regime = Regime::kNone;
    s.block_log2 = kMaxBlockLog2;  // only for splitting the work
  } else if (p < kDenseRate) {
    s.regime = Regime::kSparse;
    plan_sparse(s, p01, p10, p);
  } else {
    s.regime = Regime::kDense;
    plan_dense(s, p01, p10);
  }
}

}  // namespace noisystore
