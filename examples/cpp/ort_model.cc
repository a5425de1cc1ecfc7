// SPDX-License-Identifier: Apache-2.0
#include "ort_model.h"

#include <dlfcn.h>

#include <array>
#include <cmath>
#include <fstream>
#include <iterator>

namespace {

// Since 1.17 ONNX Runtime has what the operator library needs.
constexpr std::uint32_t kApi = 17;

// The noise inputs, in the order of the operator's inputs 1 to 4.
constexpr std::array<const char*, 4> kNoise = {"noise.bit_error_rate", "noise.bit_mask",
                                               "noise.seed", "noise.sample_index"};
constexpr std::array<ONNXTensorElementDataType, 4> kNoiseTypes = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64};

std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) line += c == '\n' || c == '\r' || c == '\t' ? ' ' : c;
  return line.size() > 300 ? line.substr(0, 297) + "..." : line;
}

// Whether this x86 processor sums products of uint8 and int8 in 32 bits.
bool has_vnni() {
  std::ifstream file("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return text.find("avx512_vnni") != std::string::npos ||
         text.find("avx_vnni") != std::string::npos;
}

std::int64_t largest(const float* logits, std::int64_t classes) {
  std::int64_t best = 0;
  for (std::int64_t i = 0; i < classes; ++i) {
    if (std::isnan(logits[i])) return i;
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}

}  // namespace

OnnxRuntime::OnnxRuntime(const std::string& library) {
  // Never unloaded: its threads may outlive this object.
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw Error("--onnxruntime " + library +
                ": expected the shared library of ONNX Runtime: " + one_line(dlerror()));
  }
  using GetBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
  const OrtApiBase* base = get_base == nullptr ? nullptr : get_base();
  if (base == nullptr) throw Error("--onnxruntime " + library + ": is not ONNX Runtime");
  version_ = base->GetVersionString();
  api_ = base->GetApi(kApi);
  if (api_ == nullptr) {
    throw Error("--onnxruntime " + library + ": expected ONNX Runtime 1.17 or newer, got " +
                version_);
  }
  OrtEnv* environment = nullptr;
  check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "noisystore_sweep", &environment));
  environment_ = {environment, api_->ReleaseEnv};
  check(api_->GetAllocatorWithDefaultOptions(&allocator_));
}

void OnnxRuntime::check(OrtStatus* status) const {
  if (status == nullptr) return;
  const Owned<OrtStatus> owned(status, api_->ReleaseStatus);
  throw OrtError(api_->GetErrorCode(status), one_line(api_->GetErrorMessage(status)));
}

std::string OnnxRuntime::text(char* allocated) const {
  if (allocated == nullptr) return "";
  const std::string copy = allocated;
  check(api_->AllocatorFree(allocator_, allocated));
  return copy;
}

Model::Model(const OnnxRuntime& ort, const std::string& path, const std::string& operators,
             int threads)
    : ort_(ort), path_(path) {
  OrtMemoryInfo* memory = nullptr;
  ort_.check(ort_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  memory_ = {memory, ort_->ReleaseMemoryInfo};
  try {
    session_ = open(operators, threads, true);
  } catch (const OrtError& error) {
    // int8 activations have no kernels with the uint8 weights of exact products; theirs with int8
    // weights are exact. Weights of two layers cannot be turned into uint8; VNNI needs no turning.
    const std::string message = error.what();
    const bool shared = message.find("replace the existing tensor") != std::string::npos;
    if (shared ? !has_vnni() : error.code != ORT_NOT_IMPLEMENTED) throw;
    session_ = open(operators, threads, false);
  }
  describe();
}

Owned<OrtSession> Model::open(const std::string& operators, int threads,
                              bool exact_products) const {
  OrtSessionOptions* raw = nullptr;
  ort_.check(ort_->CreateSessionOptions(&raw));
  const Owned<OrtSessionOptions> options(raw, ort_->ReleaseSessionOptions);
  ort_.check(ort_->SetSessionLogSeverityLevel(raw, ORT_LOGGING_LEVEL_FATAL));
  if (threads > 0) ort_.check(ort_->SetIntraOpNumThreads(raw, threads));
  // On x86 int8 activations stay int8, and sums of uint8 x int8 products do not saturate.
  ort_.check(ort_->AddSessionConfigEntry(raw, "session.qdqisint8allowed", "1"));
  if (exact_products) {
    ort_.check(ort_->AddSessionConfigEntry(raw, "session.x64quantprecision", "1"));
  }
  try {
    ort_.check(ort_->RegisterCustomOpsLibrary_V2(raw, operators.c_str()));
  } catch (const OrtError& error) {
    throw Error("--library " + operators + ": expected libnoisystore.so: " + error.what());
  }
  OrtSession* session = nullptr;
  try {
    ort_.check(ort_->CreateSession(ort_.environment(), path_.c_str(), raw, &session));
  } catch (const OrtError& error) {
    throw OrtError(error.code,
                   "model " + path_ + ": ONNX Runtime " + ort_.version() + ": " + error.what());
  }
  return {session, ort_->ReleaseSession};
}

TensorKind Model::kind(const std::string& name, OrtTypeInfo* info) const {
  const Owned<OrtTypeInfo> owned(info, ort_->ReleaseTypeInfo);
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  ort_.check(ort_->CastTypeInfoToTensorInfo(info, &tensor));
  if (tensor == nullptr) throw Error("model " + path_ + ": " + name + ": expected a tensor");
  TensorKind kind{name, {}, {}};
  std::size_t rank = 0;
  ort_.check(ort_->GetTensorElementType(tensor, &kind.type));
  ort_.check(ort_->GetDimensionsCount(tensor, &rank));
  kind.shape.resize(rank);
  ort_.check(ort_->GetDimensions(tensor, kind.shape.data(), rank));
  return kind;
}

void Model::describe() {
  OrtModelMetadata* metadata = nullptr;
  ort_.check(ort_->SessionGetModelMetadata(session_.get(), &metadata));
  const Owned<OrtModelMetadata> owned(metadata, ort_->ReleaseModelMetadata);
  char* text = nullptr;
  ort_.check(ort_->ModelMetadataLookupCustomMetadataMap(metadata, ort_.allocator(),
                                                        "noisystore.noise_model", &text));
  const std::string noise_model = ort_.text(text);
  if (noise_model != "1") {
    throw Error("model " + path_ + ": expected an annotated model of noise model 1, got " +
                (noise_model.empty() ? "none" : noise_model));
  }

  // Inputs with defaults, as the noise inputs are, are listed apart.
  std::vector<TensorKind> inputs;
  std::size_t count = 0;
  ort_.check(ort_->SessionGetInputCount(session_.get(), &count));
  for (std::size_t i = 0; i < count; ++i) {
    OrtTypeInfo* info = nullptr;
    ort_.check(ort_->SessionGetInputName(session_.get(), i, ort_.allocator(), &text));
    ort_.check(ort_->SessionGetInputTypeInfo(session_.get(), i, &info));
    inputs.push_back(kind(ort_.text(text), info));
  }
  ort_.check(ort_->SessionGetOverridableInitializerCount(session_.get(), &count));
  const std::size_t required = inputs.size();
  for (std::size_t i = 0; i < count; ++i) {
    OrtTypeInfo* info = nullptr;
    ort_.check(
        ort_->SessionGetOverridableInitializerName(session_.get(), i, ort_.allocator(), &text));
    ort_.check(ort_->SessionGetOverridableInitializerTypeInfo(session_.get(), i, &info));
    inputs.push_back(kind(ort_.text(text), info));
  }
  std::size_t noise_inputs = 0, data_inputs = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    std::size_t which = 0;
    while (which < kNoise.size() && inputs[i].name != kNoise[which]) ++which;
    if (which == kNoise.size()) {
      if (i >= required) continue;
      ++data_inputs;
      input_ = inputs[i];
      continue;
    }
    const std::vector<std::int64_t>& shape = inputs[i].shape;
    if (inputs[i].type == kNoiseTypes[which]) ++noise_inputs;
    if (which == 0 && shape.size() == 2 && shape[1] == 2) sites_ = shape[0];
  }
  if (noise_inputs != kNoise.size() || sites_ < 1) {
    throw Error("model " + path_ + ": expected the four noise inputs, got others: export it again");
  }
  if (data_inputs != 1) {
    throw Error("model " + path_ + ": expected one data input, got " + std::to_string(data_inputs));
  }
  ort_.check(ort_->SessionGetOutputCount(session_.get(), &count));
  if (count < 1) throw Error("model " + path_ + ": expected an output");
  ort_.check(ort_->SessionGetOutputName(session_.get(), 0, ort_.allocator(), &text));
  output_ = ort_.text(text);
}

Owned<OrtValue> Model::tensor(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape,
                              ONNXTensorElementDataType type) const {
  OrtValue* value = nullptr;
  ort_.check(ort_->CreateTensorWithDataAsOrtValue(memory_.get(), data, bytes, shape.data(),
                                                  shape.size(), type, &value));
  return {value, ort_->ReleaseValue};
}

std::vector<std::int64_t> Model::predict(void* x, std::size_t bytes,
                                         const std::vector<std::int64_t>& shape, std::int64_t first,
                                         const Noise& noise, std::int64_t& classes) const {
  const auto sites = static_cast<std::size_t>(sites_);
  std::vector<double> rates(2 * sites, noise.p01);
  for (std::size_t site = 0; site < sites; ++site) rates[2 * site + 1] = noise.p10;
  std::vector<std::uint64_t> masks(sites, UINT64_MAX);
  std::uint64_t seed = noise.seed;
  const Owned<OrtValue> feeds[] = {
      tensor(x, bytes, shape, input_.type),
      tensor(rates.data(), rates.size() * sizeof(double), {sites_, 2}, kNoiseTypes[0]),
      tensor(masks.data(), masks.size() * sizeof(std::uint64_t), {sites_}, kNoiseTypes[1]),
      tensor(&seed, sizeof(seed), {1}, kNoiseTypes[2]),
      tensor(&first, sizeof(first), {1}, kNoiseTypes[3])};
  const char* names[] = {input_.name.c_str(), kNoise[0], kNoise[1], kNoise[2], kNoise[3]};
  const OrtValue* values[5];
  for (int i = 0; i < 5; ++i) values[i] = feeds[i].get();
  const char* output_name = output_.c_str();
  OrtValue* raw = nullptr;
  try {
    ort_.check(ort_->Run(session_.get(), nullptr, names, values, 5, &output_name, 1, &raw));
  } catch (const OrtError& error) {
    throw Error("model " + path_ + ": ONNX Runtime: " + error.what());
  }
  const Owned<OrtValue> output(raw, ort_->ReleaseValue);

  OrtTensorTypeAndShapeInfo* info = nullptr;
  ort_.check(ort_->GetTensorTypeAndShape(raw, &info));
  const Owned<OrtTensorTypeAndShapeInfo> owned(info, ort_->ReleaseTensorTypeAndShapeInfo);
  ONNXTensorElementDataType type{};
  std::size_t rank = 0;
  ort_.check(ort_->GetTensorElementType(info, &type));
  ort_.check(ort_->GetDimensionsCount(info, &rank));
  std::vector<std::int64_t> extents(rank);
  ort_.check(ort_->GetDimensions(info, extents.data(), rank));
  bool logits = rank >= 2 && extents[0] == shape[0] && extents[1] >= 2;
  for (std::size_t axis = 2; axis < rank; ++axis) logits = logits && extents[axis] == 1;
  if (!logits || type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    throw Error("model " + path_ + ": output " + output_ + ": expected float32 logits [" +
                std::to_string(shape[0]) + ", classes]");
  }
  classes = extents[1];
  void* data = nullptr;
  ort_.check(ort_->GetTensorMutableData(raw, &data));
  std::vector<std::int64_t> predictions;
  for (std::int64_t row = 0; row < shape[0]; ++row) {
    predictions.push_back(largest(static_cast<const float*>(data) + row * classes, classes));
  }
  return predictions;
}
