// SPDX-License-Identifier: Apache-2.0
// Runs an annotated float32 model clean and at a bit error rate:
//   count_flips MODEL.onnx LIBNOISYSTORE.so RATE [SEED]
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

template <class T>
Ort::Value tensor(std::vector<T>& data, const std::vector<int64_t>& shape) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor<T>(memory, data.data(), data.size(), shape.data(), shape.size());
}

int main(int argc, char** argv) try {
  if (argc < 4) throw std::runtime_error("usage: MODEL.onnx LIBNOISYSTORE.so RATE [SEED]");
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::SessionOptions options;
  options.RegisterCustomOpsLibrary(argv[2]);
  Ort::Session session(env, argv[1], options);

  Ort::AllocatorWithDefaultOptions allocator;
  const auto input = session.GetInputNameAllocated(0, allocator);
  const auto output = session.GetOutputNameAllocated(0, allocator);
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  size_t count = 1;
  for (int64_t& extent : shape) count *= extent = extent > 0 ? extent : 1;  // a batch of one
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) x[i] = static_cast<float>(i % 251) / 251.0f - 0.5f;

  // Noise inputs have defaults, so ONNX Runtime lists them apart; the first has a row a site.
  const auto noise = session.GetOverridableInitializerTypeInfo(0);
  const int64_t sites = noise.GetTensorTypeAndShapeInfo().GetShape().at(0);
  std::vector<double> rates(2 * sites, std::atof(argv[3]));  // (p01, p10)
  std::vector<int64_t> seed = {argc > 4 ? std::atoll(argv[4]) : 0};
  const char* inputs[] = {input.get(), "noise.bit_error_rate", "noise.seed"};
  const char* outputs[] = {output.get()};
  const Ort::Value feeds[] = {tensor(x, shape), tensor(rates, {sites, 2}), tensor(seed, {1})};
  const auto clean = session.Run({}, inputs, feeds, 1, outputs, 1);
  const auto noisy = session.Run({}, inputs, feeds, 3, outputs, 1);

  const float *y0 = clean[0].GetTensorData<float>(), *y = noisy[0].GetTensorData<float>();
  const size_t size = noisy[0].GetTensorTypeAndShapeInfo().GetElementCount();
  size_t differ = 0;
  for (size_t i = 0; i < size; ++i) differ += std::memcmp(y0 + i, y + i, sizeof(float)) != 0;
  for (size_t i = 0; i < size && i < 10; ++i) std::printf("%.9g %.9g\n", y0[i], y[i]);
  std::printf("%zu of %zu outputs differ\n", differ, size);
} catch (const std::exception& error) {
  std::fprintf(stderr, "count_flips: %s\n", error.what());
  return 2;
}
