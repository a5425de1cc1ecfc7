// SPDX-License-Identifier: Apache-2.0
// Errors of one line, and numbers in text: the whole of it, or an error.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts{""};
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// `what` begins the message.
inline std::int64_t parse_integer(const std::string& what, const std::string& text,
                                  std::int64_t low, std::int64_t high) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto done = std::from_chars(text.data(), end, value);
  if (done.ec != std::errc() || done.ptr != end || value < low || value > high) {
    throw Error(what + ": expected an integer from " + std::to_string(low) + " to " +
                std::to_string(high) + ", got '" + text + "'");
  }
  return value;
}

inline double parse_real(const std::string& what, const std::string& text) {
  char* end = nullptr;
  // strtod also takes hexadecimal digits, spaces and words.
  const bool plain = text.find_first_not_of("0123456789.eE+-") == std::string::npos;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || !plain || *end != '\0' || !std::isfinite(value)) {
    throw Error(what + ": expected a number, got '" + text + "'");
  }
  return value;
}
