// SPDX-License-Identifier: Apache-2.0
// data.txt of a bundle: lines of a key and its value, as noisystore.runtime.dataset_raw writes and
// checks them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "text.h"

struct DataText {
  std::string name;
  bool is_float = false;               // or uint8
  std::vector<std::int64_t> shape;     // images first
  std::int64_t labels = 0, batch = 0;  // batch: images a run
  std::int64_t classes = INT64_MAX;    // where it is not stated
  std::vector<float> mean{0}, std{1};  // one value, or one a channel
};

using Entries = std::map<std::string, std::string>;

inline Entries read_entries(std::string text) {
  const auto odd = [](char c) { return c != '\n' && (c < ' ' || c > '~'); };
  if (text.empty() || text.back() != '\n' || std::any_of(text.begin(), text.end(), odd)) {
    throw Error("expected lines of ASCII text, got something else: damaged or truncated");
  }
  text.pop_back();
  Entries entries;
  for (const std::string& line : split(text, '\n')) {
    static const char* const kKeys[] = {"version", "name",    "type", "shape", "labels",
                                        "batch",   "classes", "mean", "std"};
    const std::string key = line.substr(0, line.find(' '));
    const std::string value = key.size() < line.size() ? line.substr(key.size() + 1) : "";
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) {
      throw Error("expected the keys of version 1, got '" + key.substr(0, 40) + "'");
    }
    if (value.empty() || !entries.emplace(key, value).second) {
      throw Error(key + ": expected one value, got " + (value.empty() ? "none" : "another"));
    }
  }
  for (const char* key : {"version", "name", "type", "shape", "labels", "batch"}) {
    if (!entries.count(key)) throw Error(std::string("expected a line with ") + key);
  }
  return entries;
}

inline std::vector<float> read_reals(const std::string& key, const std::string& text, double low) {
  static constexpr double kMost = 1e30;  // far inside the range of float32
  std::vector<float> values;
  for (const std::string& word : split(text, ' ')) {
    const double value = parse_real(key, word);
    if (value < low || value > kMost) throw Error(key + ": out of range: '" + word + "'");
    values.push_back(static_cast<float>(value));
  }
  return values;
}

inline DataText parse_data_text(const std::string& text) {
  Entries entries = read_entries(text);
  const auto integer = [&](const char* key, std::int64_t low, std::int64_t high) {
    return parse_integer(key, entries[key], low, high);
  };
  if (entries["version"] != "1") {
    throw Error("version: expected 1, got '" + entries["version"] +
                "': made by another version of noisystore");
  }
  DataText data;
  data.name = entries["name"];
  data.is_float = entries["type"] == "float32";
  if (!data.is_float && entries["type"] != "uint8") {
    throw Error("type: expected uint8 or float32, got '" + entries["type"] + "'");
  }
  for (const std::string& word : split(entries["shape"], ' ')) {
    data.shape.push_back(parse_integer("shape", word, 1, INT64_MAX));
  }
  if (data.shape.size() < 2 || data.shape.size() > 8) {
    throw Error("shape: expected N C H W, or 2 to 8 axes, got " + entries["shape"]);
  }
  data.labels = integer("labels", 0, INT64_MAX);
  if (data.labels != 0 && data.labels != data.shape[0]) {
    throw Error("labels: expected " + std::to_string(data.shape[0]) + ", one an image, or 0, got " +
                entries["labels"]);
  }
  data.batch = integer("batch", 1, INT32_MAX);
  if (entries.count("classes")) data.classes = integer("classes", 1, INT64_MAX);
  if (entries.count("mean") != entries.count("std")) throw Error("expected both mean and std");
  if (entries.count("mean")) {
    data.mean = read_reals("mean", entries["mean"], -1e30);
    data.std = read_reals("std", entries["std"], 1e-30);
    const auto values = static_cast<std::int64_t>(data.mean.size());
    if (data.mean.size() != data.std.size() || (values != 1 && values != data.shape[1])) {
      throw Error("mean and std: expected 1 value or " + std::to_string(data.shape[1]) +
                  " each, got " + std::to_string(values) + " and " +
                  std::to_string(data.std.size()));
    }
  }
  return data;
}
