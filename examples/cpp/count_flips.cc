// SPDX-License-Identifier: Apache-2.0
// Runs an annotated float32 model, clean and at a bit error rate, and counts the outputs that
// differ: count_flips MODEL.onnx LIBNOISYSTORE.so RATE [SEED]
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

template <class T>
Ort::Value tensor(std::vector<T>& data, const std::vector<int64_t>& shape) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor<T>(memory, data.data(), data.size(), shape.data(), shape.size());
}

int run(const char* model, const char* library, double rate, int64_t seed) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);  // it warns of inputs that have defaults
  Ort::SessionOptions options;
  options.RegisterCustomOpsLibrary(library);
  Ort::Session session(env, model, options);

  Ort::AllocatorWithDefaultOptions allocator;
  const auto input = session.GetInputNameAllocated(0, allocator);
  const auto output = session.GetOutputNameAllocated(0, allocator);
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  size_t count = 1;
  for (int64_t& extent : shape) count *= extent = extent > 0 ? extent : 1;  // a batch of one
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) x[i] = static_cast<float>(i % 251) / 251.0f - 0.5f;

  int64_t sites = 0;  // noise inputs have defaults, so they are listed apart
  for (size_t i = 0; i < session.GetOverridableInitializerCount(); ++i) {
    const auto name = session.GetOverridableInitializerNameAllocated(i, allocator);
    const auto type = session.GetOverridableInitializerTypeInfo(i);
    if (std::strcmp(name.get(), "noise.bit_error_rate") == 0) {
      sites = type.GetTensorTypeAndShapeInfo().GetShape()[0];
    }
  }
  std::vector<double> rates(2 * sites, rate);  // (p01, p10) of every site
  std::vector<int64_t> seeds = {seed};

  const char* inputs[] = {input.get(), "noise.bit_error_rate", "noise.seed"};
  const char* outputs[] = {output.get()};
  const Ort::Value feeds[] = {tensor(x, shape), tensor(rates, {sites, 2}), tensor(seeds, {1})};
  const auto clean = session.Run({}, inputs, feeds, 1, outputs, 1);
  const auto noisy = session.Run({}, inputs, feeds, 3, outputs, 1);

  const size_t size = noisy[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const float *y = noisy[0].GetTensorData<float>(), *y0 = clean[0].GetTensorData<float>();
  uint64_t checksum = 0xCBF29CE484222325;  // FNV-1a over the bytes
  for (size_t i = 0; i < size * sizeof(float); ++i) {
    checksum = (checksum ^ reinterpret_cast<const unsigned char*>(y)[i]) * 0x100000001B3;
  }
  size_t differ = 0;
  for (size_t i = 0; i < size; ++i) differ += std::memcmp(y + i, y0 + i, sizeof(float)) != 0;
  std::printf("sites %lld\nfirst outputs", static_cast<long long>(sites));
  for (size_t i = 0; i < size && i < 4; ++i) std::printf(" %.9g", y[i]);
  std::printf("\nchecksum %016llx\n", static_cast<unsigned long long>(checksum));
  std::printf("differ %zu of %zu\n", differ, size);
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: count_flips MODEL.onnx LIBNOISYSTORE.so RATE [SEED]\n", stderr);
    return 2;
  }
  const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    std::fprintf(stderr, "count_flips: its header is of ONNX Runtime 1.%d, the library is %s\n",
                 ORT_API_VERSION, OrtGetApiBase()->GetVersionString());
    return 2;
  }
  Ort::InitApi(api);
  try {
    return run(argv[1], argv[2], std::atof(argv[3]), argc > 4 ? std::atoll(argv[4]) : 0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "count_flips: %s\n", error.what());
    return 1;
  }
}
