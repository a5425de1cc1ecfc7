// SPDX-License-Identifier: Apache-2.0
// Images and labels of a bundle: data.txt says what images.bin and labels.bin hold (values in C
// order, little-endian). Images are read batch by batch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "data_text.h"

// A regular file whose size is known before memory is taken.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path) : path_(path.string()) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) fail("expected a file, got none");
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    file_.open(path, std::ios::binary);
    if (error || !file_ || size > INT64_MAX) fail("cannot be read");
    size_ = static_cast<std::int64_t>(size);
  }

  std::int64_t size() const { return size_; }

  [[noreturn]] void fail(const std::string& why) const {
    throw Error("data file " + path_ + ": " + why);
  }

  void read(std::int64_t at, void* out, std::size_t bytes) {
    file_.seekg(at);
    file_.read(static_cast<char*>(out), static_cast<std::streamsize>(bytes));
    if (!file_) fail("cannot be read");
  }

  // The file must hold the values of an array.
  void expect(const std::vector<std::int64_t>& shape, std::int64_t value_size) const {
    std::int64_t bytes = value_size;
    bool too_large = false;
    for (const std::int64_t extent : shape) {
      too_large = too_large || __builtin_mul_overflow(bytes, extent, &bytes);
    }
    if (too_large || bytes != size_) {
      fail("expected " + (too_large ? "more than 2^63" : std::to_string(bytes)) + " bytes, got " +
           std::to_string(size_) + ": damaged or truncated");
    }
  }

 private:
  std::string path_;
  std::ifstream file_;
  std::int64_t size_ = 0;
};

class RawImages {
 public:
  explicit RawImages(const std::filesystem::path& folder)
      : text_(read_text(folder / "data.txt")),
        images_(folder / "images.bin"),
        labels_file_(folder / "labels.bin") {
    images_.expect(text_.shape, text_.is_float ? sizeof(float) : 1);
    for (std::size_t axis = 1; axis < text_.shape.size(); ++axis) values_ *= text_.shape[axis];
    labels_file_.expect({text_.labels}, sizeof(std::int64_t));
    labels_.resize(static_cast<std::size_t>(text_.labels));
    labels_file_.read(0, labels_.data(), labels_.size() * sizeof(std::int64_t));
    check_labels(text_.classes);
  }

  const std::string& name() const { return text_.name; }
  bool is_float() const { return text_.is_float; }
  std::int64_t batch() const { return text_.batch; }
  const std::vector<std::int64_t>& shape() const { return text_.shape; }  // images first
  std::int64_t values() const { return values_; }                         // of one image
  const std::vector<std::int64_t>& labels() const { return labels_; }     // empty: there are none

  void check_labels(std::int64_t classes) const {
    for (const std::int64_t label : labels_) {
      if (label < 0 || label >= classes) {
        labels_file_.fail("expected labels from 0 to " + std::to_string(classes - 1) + ", got " +
                          std::to_string(label));
      }
    }
  }

  // Images as they are, for a network that takes uint8.
  void read(std::int64_t first, std::int64_t count, std::uint8_t* out) {
    images_.read(first * values_, out, static_cast<std::size_t>(count * values_));
  }

  // Images for a network that takes float32: uint8 is divided by 255 and normalised.
  void read(std::int64_t first, std::int64_t count, float* out) {
    const std::int64_t values = count * values_;
    if (text_.is_float) {
      const auto size = static_cast<std::int64_t>(sizeof(float));
      images_.read(first * values_ * size, out, static_cast<std::size_t>(values * size));
      if (!std::all_of(out, out + values, [](float x) { return std::isfinite(x); })) {
        images_.fail("expected finite values, got others");
      }
      return;
    }
    bytes_.resize(static_cast<std::size_t>(values));
    read(first, count, bytes_.data());
    const std::int64_t channels = text_.shape[1], plane = values_ / channels;
    for (std::int64_t row = 0; row < count * channels; ++row) {
      const auto channel = static_cast<std::size_t>(text_.mean.size() > 1 ? row % channels : 0);
      const float mean = text_.mean[channel], std = text_.std[channel];
      for (std::int64_t i = row * plane; i < (row + 1) * plane; ++i) {
        out[i] = (static_cast<float>(bytes_[static_cast<std::size_t>(i)]) / 255.0f - mean) / std;
      }
    }
  }

 private:
  static DataText read_text(const std::filesystem::path& path) {
    static constexpr std::int64_t kMostText = 1 << 20;
    InputFile file(path);
    if (file.size() > kMostText) file.fail("expected a text of at most 1 MiB");
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    file.read(0, text.data(), text.size());
    try {
      return parse_data_text(text);
    } catch (const Error& error) {
      file.fail(error.what());
    }
  }

  DataText text_;
  InputFile images_, labels_file_;
  std::int64_t values_ = 1;
  std::vector<std::int64_t> labels_;
  std::vector<std::uint8_t> bytes_;
};
