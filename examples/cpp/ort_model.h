// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime, loaded while the program runs, and one annotated model in it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ort_api.h"
#include "text.h"

// An object of ONNX Runtime, released by its own function.
template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

class OrtError : public Error {
 public:
  OrtError(OrtErrorCode code, const std::string& message) : Error(message), code(code) {}
  OrtErrorCode code;
};

class OnnxRuntime {
 public:
  // `library`: path of libonnxruntime.so, or its name, for the system to look up.
  explicit OnnxRuntime(const std::string& library);

  const OrtApi* operator->() const { return api_; }
  const std::string& version() const { return version_; }
  const OrtEnv* environment() const { return environment_.get(); }

  // Throws OrtError unless `status` is success.
  void check(OrtStatus* status) const;

  // Text that was allocated for the caller; empty for NULL.
  std::string text(char* allocated) const;
  OrtAllocator* allocator() const { return allocator_; }

 private:
  const OrtApi* api_ = nullptr;
  std::string version_;
  OrtAllocator* allocator_ = nullptr;
  Owned<OrtEnv> environment_{nullptr, nullptr};
};

// What an input or output of a model is called, and what it holds; extents are -1 where free.
struct TensorKind {
  std::string name;
  ONNXTensorElementDataType type{};
  std::vector<std::int64_t> shape;
};

struct Noise {
  double p01 = 0, p10 = 0;  // at all sites
  std::uint64_t seed = 0;
};

class Model {
 public:
  // `threads`: inside an operator; 0: ONNX Runtime's choice.
  Model(const OnnxRuntime& ort, const std::string& path, const std::string& operators, int threads);

  const TensorKind& input() const { return input_; }
  std::int64_t sites() const { return sites_; }

  // Runs one batch, whose first sample has the index `first`, and returns each row's class: that
  // of the largest logit, the first of equals, NaN being the largest. `x` holds values of the
  // input's type; `classes` gets the number of logits.
  std::vector<std::int64_t> predict(void* x, std::size_t bytes,
                                    const std::vector<std::int64_t>& shape, std::int64_t first,
                                    const Noise& noise, std::int64_t& classes) const;

 private:
  Owned<OrtSession> open(const std::string& operators, int threads, bool exact_products) const;
  TensorKind kind(const std::string& name, OrtTypeInfo* info) const;
  void describe();
  Owned<OrtValue> tensor(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape,
                         ONNXTensorElementDataType type) const;

  const OnnxRuntime& ort_;
  std::string path_;
  Owned<OrtMemoryInfo> memory_{nullptr, nullptr};
  Owned<OrtSession> session_{nullptr, nullptr};
  TensorKind input_;
  std::string output_;
  std::int64_t sites_ = 0;
};
