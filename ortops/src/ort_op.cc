// SPDX-License-Identifier: Apache-2.0
// The ONNX Runtime operator noisystore::NoisyStore and its registration (NoisyStore.md).
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "checked_call.h"
#include "ort_kernel.h"

namespace noisystore {
namespace {

OrtStatus* infer_shape(const ort::CustomOp* op, ort::ShapeInferContext* context);

// The operator for one execution provider and one function table.
struct Operator : ort::CustomOp {
  const OrtApi* api;
  const char* provider;

  Operator(const OrtApi* table, std::uint32_t api_version, const char* name,
           OrtStatus* (*kernel_compute)(void*, ort::KernelContext*))
      : ort::CustomOp{}, api(table), provider(name) {
    version = api_version;
    GetName = [](const CustomOp*) { return "NoisyStore"; };
    GetExecutionProviderType = [](const CustomOp* op) {
      return static_cast<const Operator*>(op)->provider;
    };
    GetInputTypeCount = [](const CustomOp*) -> std::size_t { return kInputs; };
    GetInputType = [](const CustomOp*, std::size_t index) -> int {
      constexpr int kTypes[kInputs] = {ort::kUndefined, ort::kDouble, ort::kUint64, ort::kInt64,
                                       ort::kInt64};
      return kTypes[index];
    };
    GetOutputTypeCount = [](const CustomOp*) -> std::size_t { return 1; };
    GetOutputType = [](const CustomOp*, std::size_t) -> int { return ort::kUndefined; };
    GetInputCharacteristic = [](const CustomOp*, std::size_t) -> int { return ort::kRequired; };
    GetOutputCharacteristic = [](const CustomOp*, std::size_t) -> int { return ort::kRequired; };
    GetInputMemoryType = [](const CustomOp*, std::size_t index) -> int {
      return index == kX ? ort::kDefault : ort::kCpuInput;
    };
    GetVariadicInputMinArity = [](const CustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const CustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
    CreateKernelV2 = create_kernel;
    KernelComputeV2 = kernel_compute;
    KernelDestroy = destroy_kernel;
    InferOutputShapeFn = infer_shape;
    GetStartVersion = [](const CustomOp*) { return 1; };
    GetEndVersion = [](const CustomOp*) { return 1; };
    GetMayInplace = [](int** inputs, int** outputs) -> std::size_t {
      static int zero[2] = {0, 0};
      *inputs = &zero[0];
      *outputs = &zero[1];
      return 1;
    };
    ReleaseMayInplace = [](int*, int*) {};
    // Aliasing would promise that the data is unchanged.
    GetAliasMap = [](int**, int**) -> std::size_t { return 0; };
    ReleaseAliasMap = [](int*, int*) {};
  }
};

// Y has X's shape, where all of it is known. Of an unknown rank ONNX Runtime says 0, and takes an
// unknown extent without a name for -1: such a shape, passed on, would be wrong.
OrtStatus* infer_shape(const ort::CustomOp* op, ort::ShapeInferContext* context) {
  const OrtApi* api = static_cast<const Operator*>(op)->api;
  ort::TensorTypeAndShapeInfo* shape = nullptr;  // the context owns it
  RETURN_IF_ERROR(ort::ShapeInferContext_GetInputTypeShape(api, context, kX, &shape));
  std::size_t rank = 0;
  RETURN_IF_ERROR(ort::GetDimensionsCount(api, shape, &rank));
  if (rank == 0 || rank > kMaxRank) return nullptr;
  std::int64_t extents[kMaxRank];
  const char* names[kMaxRank];
  RETURN_IF_ERROR(ort::GetDimensions(api, shape, extents, rank));
  RETURN_IF_ERROR(ort::GetSymbolicDimensions(api, shape, names, rank));
  for (std::size_t i = 0; i < rank; ++i) {
    if (extents[i] < 0 && names[i][0] == '\0') return nullptr;
  }
  return ort::ShapeInferContext_SetOutputTypeShape(api, context, 0, shape);
}

// The operator once for each execution provider: CUDA's has two names, of its built-in and of its
// plugin form. A runtime without a provider leaves its operator alone.
struct Provider {
  const char* name;
  OrtStatus* (*compute)(void*, ort::KernelContext*);
};
constexpr Provider kProviders[] = {{"CPUExecutionProvider", compute},
                                   {"CUDAExecutionProvider", compute_on_cuda},
                                   {"CudaPluginExecutionProvider", compute_on_cuda}};

// Sessions keep pointers to domain and operators, and sessions of static lifetime end after any
// destructor that could run here: so these are never destroyed.
struct Registration {
  std::vector<std::unique_ptr<Operator>> operators;
  ort::CustomOpDomain* domain = nullptr;
};

OrtStatus* domain_of(const OrtApi* api, std::uint32_t version, ort::CustomOpDomain** domain) {
  static auto& mutex = *new std::mutex;
  static auto& registrations = *new std::map<const OrtApi*, Registration>;
  const std::lock_guard<std::mutex> lock(mutex);
  Registration& known = registrations[api];
  if (known.domain == nullptr) {
    known.operators.clear();
    for (const Provider& provider : kProviders) {
      if (provider.compute == compute_on_cuda && *noisystore_cuda_architectures() == '\0') continue;
      known.operators.push_back(
          std::make_unique<Operator>(api, version, provider.name, provider.compute));
    }
    RETURN_IF_ERROR(ort::CreateCustomOpDomain(api, "noisystore", &known.domain));
    for (const auto& op : known.operators) {
      if (OrtStatus* failed = ort::CustomOpDomain_Add(api, known.domain, op.get())) {
        ort::ReleaseCustomOpDomain(api, known.domain);
        known.domain = nullptr;
        return failed;
      }
    }
  }
  *domain = known.domain;
  return nullptr;
}

// The minor version of "1.<minor>.<patch>". Asking for a newer table than a runtime has prints an
// error, so it is told beforehand; what cannot be read is taken for new.
std::uint32_t newest_api(const OrtApiBase* base) {
  const char* dot = std::strchr(base->GetVersionString(), '.');
  const long minor = dot == nullptr ? 0 : std::strtol(dot + 1, nullptr, 10);
  return minor > 0 && minor < static_cast<long>(ort::kInplaceApi)
             ? static_cast<std::uint32_t>(minor)
             : ort::kInplaceApi;
}

// Silence would end in "NoisyStore(-1) is not a registered function/op".
OrtStatus* too_old(const OrtApiBase* base, std::uint32_t version) {
  Message line;
  line.set("NoisyStore needs ONNX Runtime 1.17 or newer; this is %s", base->GetVersionString());
  for (; version > 0; --version) {
    if (const OrtApi* api = base->GetApi(version)) {
      return ort::CreateStatus(api, ort::kFail, line.text);
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace noisystore

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace noisystore;
  const std::uint32_t version = newest_api(base);
  const OrtApi* api = version < ort::kOldestApi ? nullptr : base->GetApi(version);
  if (api == nullptr) return too_old(base, version);
  try {
    ort::CustomOpDomain* domain = nullptr;
    RETURN_IF_ERROR(domain_of(api, version, &domain));
    return ort::AddCustomOpDomain(api, options, domain);
  } catch (const std::exception& error) {  // none may cross the C ABI
    Message line;
    line.set("NoisyStore: %s", error.what());
    return ort::CreateStatus(api, ort::kFail, line.text);
  }
}
