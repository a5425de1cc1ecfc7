// SPDX-License-Identifier: Apache-2.0
// Accuracy against bit error rate from an unpacked bundle, as `noisystore sweep` measures it, with
// ONNX Runtime's shared library and the operator library, and without Python.
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "noise_seed.h"
#include "ort_model.h"
#include "raw_images.h"
#include "text.h"

namespace {

constexpr const char* kUsage =
    "usage: noisystore_sweep BUNDLE_FOLDER --rates R[,R...] [options]\n"
    "Measure the accuracy of a bundle's model at bit error rates, as `noisystore sweep` does.\n\n"
    "  --rates R,R,...     from 0 to 1; P01/P10 where they differ\n"
    "  --trials N          runs with fresh noise at each rate (default: 3)\n"
    "  --seed S            of the sweep (default: 0)\n"
    "  --images N          the first N images (default: all)\n"
    "  --batch N           images a run (default: the bundle's; a model may fix its own)\n"
    "  --threads N         default: ONNX Runtime's choice\n"
    "  --onnxruntime FILE  libonnxruntime.so (default: " NOISYSTORE_ONNXRUNTIME
    ")\n"
    "  --library FILE      libnoisystore.so (default: the bundle's)\n"
    "  --json              print JSON\n";

using Rates = std::pair<double, double>;  // p01, p10

struct Options {
  std::filesystem::path bundle;
  std::vector<Rates> rates;
  std::int64_t trials = 3, seed = 0;
  std::int64_t images = 0, batch = 0, threads = 0;  // 0: the default
  std::string onnxruntime = NOISYSTORE_ONNXRUNTIME, library;
  bool json = false, help = false;
};

double parse_rate(const std::string& text) {
  const double rate = parse_real("--rates", text);
  if (rate < 0 || rate > 1) throw Error("--rates: expected values from 0 to 1, got " + text);
  return rate;
}

std::vector<Rates> parse_rates(const std::string& text) {
  std::vector<Rates> rates;
  for (const std::string& item : split(text, ',')) {
    const std::vector<std::string> pair = split(item, '/');
    if (pair.size() > 2) throw Error("--rates: expected P01/P10, got '" + item + "'");
    const Rates found(parse_rate(pair.front()), parse_rate(pair.back()));
    if (std::find(rates.begin(), rates.end(), found) == rates.end()) rates.push_back(found);
  }
  return rates;
}

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw Error(word + ": expected a value after it");
      return argv[++i];
    };
    const auto positive = [&](std::int64_t most) { return parse_integer(word, value(), 1, most); };
    if (word == "--help" || word == "-h") {
      options.help = true;
    } else if (word == "--rates") {
      options.rates = parse_rates(value());
    } else if (word == "--trials") {
      options.trials = positive(1000000);
    } else if (word == "--seed") {
      options.seed = parse_integer(word, value(), INT64_MIN, INT64_MAX);
    } else if (word == "--images") {
      options.images = positive(INT64_MAX);
    } else if (word == "--batch") {
      options.batch = positive(INT32_MAX);
    } else if (word == "--threads") {
      options.threads = positive(4096);
    } else if (word == "--onnxruntime") {
      options.onnxruntime = value();
    } else if (word == "--library") {
      options.library = value();
    } else if (word == "--json") {
      options.json = true;
    } else if (word.empty() || word[0] == '-' || !options.bundle.empty()) {
      throw Error("expected one BUNDLE_FOLDER and options, got '" + word + "': see --help");
    } else {
      options.bundle = word;
    }
  }
  if (options.help) return options;
  if (options.bundle.empty()) throw Error("expected BUNDLE_FOLDER: see --help");
  if (options.rates.empty()) throw Error("expected --rates: see --help");
  if (options.library.empty()) {
    options.library = (options.bundle / "lib" / "libnoisystore.so").string();
  }
  return options;
}

// A regular file that the bundle or the user names.
std::string existing(const std::filesystem::path& path, const std::string& what) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    throw Error(path.string() + ": expected " + what + ", got no such file");
  }
  return path.string();
}

// The images of a bundle through its model.
class Evaluator {
 public:
  Evaluator(const Model& model, RawImages& data, std::int64_t images, std::int64_t batch)
      : model_(model), data_(data), images_(images) {
    const std::vector<std::int64_t>& wanted = model.input().shape;
    bool fits = wanted.size() == data.shape().size();
    for (std::size_t axis = 1; fits && axis < wanted.size(); ++axis) {
      fits = wanted[axis] < 0 || wanted[axis] == data.shape()[axis];
    }
    if (!fits) throw Error("input " + model.input().name + ": the images have another shape");
    fixed_ = wanted[0] > 0;
    batch_ = fixed_ ? wanted[0] : std::min(batch, images);
    if (__builtin_mul_overflow(batch_, data.values(), &values_) || values_ > INT64_MAX / 4) {
      throw Error("input " + model.input().name + ": a batch does not fit in memory");
    }
  }

  std::int64_t batch() const { return batch_; }

  // Returns the class of each image.
  std::vector<std::int64_t> predict(const Noise& noise) {
    switch (model_.input().type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        return predict_all(noise, floats_);
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
        if (data_.is_float()) throw Error("the model takes uint8 images, got float32 ones");
        return predict_all(noise, bytes_);
      default:
        throw Error("input " + model_.input().name + ": expected float32 or uint8, got type " +
                    std::to_string(model_.input().type) + " of ONNX");
    }
  }

 private:
  template <class T>
  std::vector<std::int64_t> predict_all(const Noise& noise, std::vector<T>& x) {
    x.resize(static_cast<std::size_t>(values_));
    std::vector<std::int64_t> all;
    for (std::int64_t first = 0; first < images_; first += batch_) {
      const std::int64_t count = std::min(batch_, images_ - first), image = data_.values();
      data_.read(first, count, x.data());
      // A batch size that the model fixes is filled up with the last image.
      const std::int64_t rows = fixed_ ? batch_ : count;
      for (std::int64_t row = count; row < rows; ++row) {
        std::copy_n(x.data() + (count - 1) * image, image, x.data() + row * image);
      }
      std::vector<std::int64_t> shape = data_.shape();
      shape[0] = rows;
      std::int64_t classes = 0;
      const std::vector<std::int64_t> found =
          model_.predict(x.data(), static_cast<std::size_t>(rows * image) * sizeof(T), shape, first,
                         noise, classes);
      if (all.empty()) data_.check_labels(classes);
      all.insert(all.end(), found.begin(), found.begin() + count);
    }
    return all;
  }

  const Model& model_;
  RawImages& data_;
  std::int64_t images_, batch_ = 0, values_ = 0;
  bool fixed_ = false;
  std::vector<float> floats_;
  std::vector<std::uint8_t> bytes_;
};

std::int64_t count_equal(const std::vector<std::int64_t>& predictions,
                         const std::vector<std::int64_t>& wanted) {
  std::int64_t equal = 0;
  for (std::size_t i = 0; i < predictions.size(); ++i) equal += predictions[i] == wanted[i];
  return equal;
}

std::string format(const char* form, double value) {
  char text[40];
  std::snprintf(text, sizeof(text), form, value);
  return text;
}

std::string rate_label(const Rates& rates) {
  const std::string p01 = format("%.6g", rates.first);
  return rates.first == rates.second ? p01 : p01 + "/" + format("%.6g", rates.second);
}

std::string json_text(const std::string& ascii) {
  std::string text = "\"";
  for (const char c : ascii)
    text += (c == '"' || c == '\\') ? std::string{'\\', c} : std::string{c};
  return text + "\"";
}

void sweep(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  const std::string path = existing(options.bundle / "model" / "model.onnx", "a bundle's model");
  RawImages data(options.bundle / "data");
  const std::int64_t images = options.images == 0 ? data.shape()[0] : options.images;
  if (images > data.shape()[0]) {
    throw Error("--images: expected at most " + std::to_string(data.shape()[0]) + ", got " +
                std::to_string(images));
  }
  const std::string library = existing(options.library, "the operator library (--library)");
  const OnnxRuntime ort(options.onnxruntime);
  const Model model(ort, path, library, static_cast<int>(options.threads));
  Evaluator evaluator(model, data, images, options.batch == 0 ? data.batch() : options.batch);

  const bool labelled = !data.labels().empty(), json = options.json;
  const std::vector<std::int64_t> clean = evaluator.predict({});
  // Without labels, a prediction is held against that of the clean network.
  const std::vector<std::int64_t>& wanted = labelled ? data.labels() : clean;
  const auto share = [&](std::int64_t n) {
    return static_cast<double>(n) / static_cast<double>(images);
  };
  const std::string clean_accuracy =
      labelled ? format(json ? "%.17g" : "%.4f", share(count_equal(clean, wanted))) : "null";

  if (json) {
    std::printf("{\"data\": %s, \"images\": %" PRId64 ", \"batch_size\": %" PRId64
                ", \"sites\": %" PRId64
                ", \"onnxruntime\": %s, \"clean_accuracy\": %s,\n"
                " \"points\": [",
                json_text(data.name()).c_str(), images, evaluator.batch(), model.sites(),
                json_text(ort.version()).c_str(), clean_accuracy.c_str());
  } else {
    std::printf("%s: %" PRId64 " images, batch %" PRId64 ", %" PRId64
                " sites, ONNX Runtime %s\n%s%s\n%-23s",
                data.name().c_str(), images, evaluator.batch(), model.sites(),
                ort.version().c_str(),
                labelled ? "clean accuracy " : "no labels: agreement with the clean network",
                labelled ? clean_accuracy.c_str() : "", "rate");
    for (std::int64_t trial = 0; trial < options.trials; ++trial) {
      std::printf(" %9s", ("trial " + std::to_string(trial)).c_str());
    }
    std::printf(" %9s\n", "mean");
  }
  for (const Rates& rates : options.rates) {
    double sum = 0;
    if (!json) std::printf("%-23s", rate_label(rates).c_str());
    for (std::int64_t trial = 0; trial < options.trials; ++trial) {
      const auto [p01, p10] = rates;
      const std::uint64_t seed = noise_seed(options.seed, trial, p01, p10);
      const std::vector<std::int64_t> predictions = evaluator.predict({p01, p10, seed});
      const double accuracy = share(count_equal(predictions, wanted));
      sum += accuracy;
      if (json) {
        std::printf("%s\n  {\"p01\": %.17g, \"p10\": %.17g, \"trial\": %" PRId64
                    ", \"noise_seed\": %" PRIu64 ", \"accuracy\": %s, \"agreement\": %" PRId64 "}",
                    trial == 0 && &rates == &options.rates.front() ? "" : ",", p01, p10, trial,
                    seed, labelled ? format("%.17g", accuracy).c_str() : "null",
                    count_equal(predictions, clean));
      } else {
        std::printf(" %9.4f", accuracy);
      }
      std::fflush(stdout);
    }
    if (!json) std::printf(" %9.4f\n", sum / static_cast<double>(options.trials));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const auto points = static_cast<std::int64_t>(options.rates.size()) * options.trials;
  const std::int64_t inferences = images * (points + 1);
  std::printf(json ? "\n ],\n \"inferences\": %" PRId64 ", \"seconds\": %.3f}\n"
                   : "%" PRId64 " inferences in %.1f s\n",
              inferences, seconds.count());
}

}  // namespace

int main(int argc, char** argv) try {
  const Options options = parse_options(argc, argv);
  if (options.help) {
    std::fputs(kUsage, stdout);
  } else {
    sweep(options);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) throw Error("the output cannot be written");
  return 0;
} catch (const std::bad_alloc&) {
  std::fprintf(stderr, "noisystore_sweep: error: not enough memory\n");
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "noisystore_sweep: error: %s\n", error.what());
  return 2;
}
