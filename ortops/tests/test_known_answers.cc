// SPDX-License-Identifier: Apache-2.0
// Philox, plans and flipped words against tests/data/known_answers.txt, with every instruction set.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "check.h"
#include "checked_call.h"
#include "plain.h"
#include "sha256.h"

using namespace noisystore;

namespace {

std::uint64_t hex(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 16); }

void check_philox(const std::vector<std::string>& row) {
  std::uint32_t counter[4], out[4];
  for (int i = 0; i < 4; ++i) counter[i] = static_cast<std::uint32_t>(hex(row[1 + i]));
  philox4x32(counter, static_cast<std::uint32_t>(hex(row[5])),
             static_cast<std::uint32_t>(hex(row[6])), out);
  for (int i = 0; i < 4; ++i) CHECK(out[i] == hex(row[7 + i]), "philox word %d", i);
}

void check_plan(const std::vector<std::string>& row) {
  const double p = std::strtod(row[1].c_str(), nullptr);
  const int k = std::atoi(row[2].c_str());
  const std::uint64_t mask = k == 64 ? ~0ull : (1ull << k) - 1;
  Sampler s;
  make_sampler(p, p, 64, mask, 0, 0, s);
  CHECK(s.block_log2 == std::stoul(row[3]), "p = %g, k = %d", p, k);
  CHECK(s.block_bits == std::stoul(row[4]), "p = %g, k = %d", p, k);
  CHECK(s.max_flips == std::atoi(row[5].c_str()), "p = %g, k = %d", p, k);
  for (int i = 1; i <= s.max_flips; ++i) {
    CHECK(s.at_least[i] == hex(row[5 + i]), "p = %g, k = %d, T[%d]", p, k, i);
  }
}

// The state after each step, and what a test makes of it, as words of `bits`.
template <class Make>
std::vector<unsigned char> input_words(std::size_t elements, unsigned bits, const Make& make) {
  std::vector<unsigned char> input;
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < elements; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const std::uint64_t word = make(i, state);
    for (unsigned byte = 0; byte < bits / 8; ++byte) {
      input.push_back(static_cast<unsigned char>(word >> (8 * byte)));
    }
  }
  return input;
}

void check_case(const std::vector<std::string>& row) {
  const std::size_t elements = std::stoul(row[1]);
  const unsigned bits = static_cast<unsigned>(std::stoul(row[2]));
  const std::vector<unsigned char> input = input_words(
      elements, bits, [&](std::size_t, std::uint64_t state) { return state >> (64 - bits); });
  const std::int64_t shape[1] = {static_cast<std::int64_t>(elements)};
  const std::int64_t sample = std::strtoll(row[8].c_str(), nullptr, 10);
  noisystore_call in{};
  in.struct_size = sizeof in;
  in.type = bits == 8    ? NOISYSTORE_UINT8
            : bits == 16 ? NOISYSTORE_FLOAT16
            : bits == 32 ? NOISYSTORE_FLOAT
                         : NOISYSTORE_DOUBLE;
  in.shape = shape;
  in.rank = 1;
  in.rows_per_sample = -1;
  in.p01 = std::strtod(row[3].c_str(), nullptr);
  in.p10 = std::strtod(row[4].c_str(), nullptr);
  in.bit_mask = hex(row[5]);
  in.seed = std::strtoll(row[6].c_str(), nullptr, 10);
  in.site = static_cast<std::uint32_t>(std::stoul(row[7]));
  in.sample_index = &sample;
  in.sample_index_count = 1;
  Call call;
  Message message;
  CHECK(make_call(in, false, call, message), "%s", message.text);

  std::vector<unsigned char> plain = input;
  plain_flip(call, plain.data());
  CHECK(sha256_hex(plain.data(), plain.size()) == row[10], "plain: %s", row[0].c_str());
  std::size_t flipped = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    flipped += static_cast<std::size_t>(__builtin_popcount(plain[i] ^ input[i]));
  }
  CHECK(flipped == std::stoul(row[9]), "flipped bits");
  if (call.sampler.regime == Regime::kNone) return;
  for (const Kernels* const* kernels = available_kernels(); *kernels != nullptr; ++kernels) {
    std::vector<unsigned char> words = input;
    (*kernels)->flip(call, words.data(), 0, 0, call.blocks());
    CHECK(sha256_hex(words.data(), words.size()) == row[10], "%s: %zu x %u bits, p = %g, %g",
          (*kernels)->name, elements, bits, in.p01, in.p10);
  }
}

template <class Word, class Value>
std::uint64_t word_of(Value value) {
  Word word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

void check_stored(const std::vector<std::string>& row) {
  const std::size_t elements = std::stoul(row[1]);
  const std::int32_t type = row[2] == "float32"    ? NOISYSTORE_FLOAT
                            : row[2] == "float16"  ? NOISYSTORE_FLOAT16
                            : row[2] == "bfloat16" ? NOISYSTORE_BFLOAT16
                                                   : NOISYSTORE_DOUBLE;
  const unsigned bits = type == NOISYSTORE_DOUBLE ? 64 : type == NOISYSTORE_FLOAT ? 32 : 16;
  const std::vector<unsigned char> input =
      input_words(elements, bits, [&](std::size_t i, std::uint64_t state) {
        const std::uint64_t any = state >> (64 - bits);
        if (bits == 16 || i % 2 == 0) return any;
        const double value = (static_cast<double>(state >> 40) - (1 << 23)) / (1 << 19);
        return bits == 64 ? word_of<std::uint64_t>(value)
                          : word_of<std::uint32_t>(static_cast<float>(value));
      });
  const std::int64_t shape[1] = {static_cast<std::int64_t>(elements)};
  const std::int64_t sample = std::strtoll(row[11].c_str(), nullptr, 10);
  noisystore_call in{};
  in.struct_size = sizeof in;
  in.type = type;
  in.storage_format = row[3].c_str();
  in.scale = std::strtof(row[4].c_str(), nullptr);
  in.zero_point = std::stoi(row[5]);
  in.shape = shape;
  in.rank = 1;
  in.rows_per_sample = -1;
  in.p01 = std::strtod(row[6].c_str(), nullptr);
  in.p10 = std::strtod(row[7].c_str(), nullptr);
  in.bit_mask = hex(row[8]);
  in.seed = std::strtoll(row[9].c_str(), nullptr, 10);
  in.site = static_cast<std::uint32_t>(std::stoul(row[10]));
  in.sample_index = &sample;
  in.sample_index_count = 1;
  Call call;
  Message message;
  CHECK(make_call(in, false, call, message), "%s", message.text);
  for (const Kernels* const* kernels = available_kernels(); *kernels != nullptr; ++kernels) {
    std::vector<unsigned char> y(input.size());
    store_range(call, input.data(), y.data(), 0, call.blocks(), **kernels);
    CHECK(sha256_hex(y.data(), y.size()) == row[12], "%s: %zu x %s as %s, p = %g, %g",
          (*kernels)->name, elements, row[2].c_str(), row[3].c_str(), in.p01, in.p10);
  }
}

}  // namespace

void test_known_answers(const char* path) {
  CHECK(sha256_hex(reinterpret_cast<const unsigned char*>("abc"), 3) ==
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "SHA-256 itself");
  std::ifstream file(path);
  CHECK(file.good(), "cannot read %s", path);
  std::string line;
  int rows = 0;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::vector<std::string> row;
    for (std::string word; words >> word;) row.push_back(word);
    if (row.empty() || row[0] == "#") continue;
    ++rows;
    if (row[0] == "philox") check_philox(row);
    if (row[0] == "plan") check_plan(row);
    if (row[0] == "case") check_case(row);
    if (row[0] == "stored") check_stored(row);
  }
  CHECK(rows > 270, "only %d known answers in %s", rows, path);
}
