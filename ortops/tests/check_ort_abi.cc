// SPDX-License-Identifier: Apache-2.0
// Compile-time check of ort_abi.h and noisystore.h against the official onnxruntime_c_api.h:
// table positions, signatures, fields and enumerations. Run by .ci/check_ort_abi; no code results.
#include <cstddef>
#include <cstdint>
#include <type_traits>

// The one type that both headers define; ours is compared under another name.
#define OrtApiBase NoisyStoreOrtApiBase
#include "ort_abi.h"
#undef OrtApiBase

#include <onnxruntime_c_api.h>

#include "noisystore.h"

// The official signatures carry nonnull attributes, which no template argument keeps.
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace {

namespace ort = noisystore::ort;

// A type of the official header in the words of ort_abi.h: enumerations are int, opaque types have
// names of their own, and functions carry no noexcept.
template <class T, bool kIsEnum = std::is_enum_v<T>>
struct Ours {
  using type = T;
};
template <class T>
using ours = typename Ours<T>::type;

template <class T>
struct Ours<T, true> {
  static_assert(sizeof(T) == sizeof(int));
  using type = int;
};
template <class T>
struct Ours<T*, false> {
  using type = ours<T>*;
};
template <class T>
struct Ours<const T, false> {
  using type = const ours<T>;
};
template <class Result, class... Arguments>
struct Ours<Result(Arguments...), false> {
  using type = ours<Result>(ours<Arguments>...);
};
template <class Result, class... Arguments>
struct Ours<Result(Arguments...) noexcept, false> {
  using type = ours<Result>(ours<Arguments>...);
};

#define OUR_NAME(official, own)  \
  template <>                    \
  struct Ours<official, false> { \
    using type = own;            \
  }
OUR_NAME(OrtApiBase, NoisyStoreOrtApiBase);
OUR_NAME(OrtCustomOp, ort::CustomOp);
OUR_NAME(OrtCustomOpDomain, ort::CustomOpDomain);
OUR_NAME(OrtValue, ort::Value);
OUR_NAME(OrtTensorTypeAndShapeInfo, ort::TensorTypeAndShapeInfo);
OUR_NAME(OrtKernelInfo, ort::KernelInfo);
OUR_NAME(OrtKernelContext, ort::KernelContext);
OUR_NAME(OrtShapeInferContext, ort::ShapeInferContext);
#undef OUR_NAME

template <std::size_t kSlot, class Signature>
Signature* pointer_of(ort::Function<kSlot, Signature>);

#define CHECK_FUNCTION(name)                                                                   \
  static_assert(offsetof(OrtApi, name) == ort::name.slot * sizeof(void*), "slot of " #name);   \
  static_assert(std::is_same_v<ours<decltype(OrtApi::name)>, decltype(pointer_of(ort::name))>, \
                "signature of " #name)

CHECK_FUNCTION(CreateStatus);
CHECK_FUNCTION(CreateCustomOpDomain);
CHECK_FUNCTION(CustomOpDomain_Add);
CHECK_FUNCTION(AddCustomOpDomain);
CHECK_FUNCTION(GetTensorMutableData);
CHECK_FUNCTION(GetTensorElementType);
CHECK_FUNCTION(GetDimensionsCount);
CHECK_FUNCTION(GetDimensions);
CHECK_FUNCTION(GetSymbolicDimensions);
CHECK_FUNCTION(GetTensorTypeAndShape);
CHECK_FUNCTION(KernelInfoGetAttribute_float);
CHECK_FUNCTION(KernelInfoGetAttribute_int64);
CHECK_FUNCTION(KernelInfoGetAttribute_string);
CHECK_FUNCTION(KernelContext_GetInput);
CHECK_FUNCTION(KernelContext_GetOutput);
CHECK_FUNCTION(ReleaseCustomOpDomain);
CHECK_FUNCTION(ReleaseStatus);
CHECK_FUNCTION(ReleaseTensorTypeAndShapeInfo);
CHECK_FUNCTION(KernelContext_GetGPUComputeStream);
CHECK_FUNCTION(KernelInfo_GetNodeName);
CHECK_FUNCTION(ShapeInferContext_GetInputTypeShape);
CHECK_FUNCTION(ShapeInferContext_SetOutputTypeShape);
CHECK_FUNCTION(KernelContext_ParallelFor);
#undef CHECK_FUNCTION

#define CHECK_FIELD(official, own, field)                                                  \
  static_assert(offsetof(official, field) == offsetof(own, field), "position of " #field); \
  static_assert(std::is_same_v<ours<decltype(official::field)>, decltype(own::field)>,     \
                "type of " #field)

CHECK_FIELD(OrtApiBase, NoisyStoreOrtApiBase, GetApi);
CHECK_FIELD(OrtApiBase, NoisyStoreOrtApiBase, GetVersionString);
static_assert(sizeof(OrtApiBase) == sizeof(NoisyStoreOrtApiBase));

#define CHECK_CUSTOM_OP(field) CHECK_FIELD(OrtCustomOp, ort::CustomOp, field)
CHECK_CUSTOM_OP(version);
CHECK_CUSTOM_OP(CreateKernel);
CHECK_CUSTOM_OP(GetName);
CHECK_CUSTOM_OP(GetExecutionProviderType);
CHECK_CUSTOM_OP(GetInputType);
CHECK_CUSTOM_OP(GetInputTypeCount);
CHECK_CUSTOM_OP(GetOutputType);
CHECK_CUSTOM_OP(GetOutputTypeCount);
CHECK_CUSTOM_OP(KernelCompute);
CHECK_CUSTOM_OP(KernelDestroy);
CHECK_CUSTOM_OP(GetInputCharacteristic);
CHECK_CUSTOM_OP(GetOutputCharacteristic);
CHECK_CUSTOM_OP(GetInputMemoryType);
CHECK_CUSTOM_OP(GetVariadicInputMinArity);
CHECK_CUSTOM_OP(GetVariadicInputHomogeneity);
CHECK_CUSTOM_OP(GetVariadicOutputMinArity);
CHECK_CUSTOM_OP(GetVariadicOutputHomogeneity);
CHECK_CUSTOM_OP(CreateKernelV2);
CHECK_CUSTOM_OP(KernelComputeV2);
CHECK_CUSTOM_OP(InferOutputShapeFn);
CHECK_CUSTOM_OP(GetStartVersion);
CHECK_CUSTOM_OP(GetEndVersion);
CHECK_CUSTOM_OP(GetMayInplace);
CHECK_CUSTOM_OP(ReleaseMayInplace);
CHECK_CUSTOM_OP(GetAliasMap);
CHECK_CUSTOM_OP(ReleaseAliasMap);
#undef CHECK_CUSTOM_OP
#undef CHECK_FIELD
// The table only grows; until it does, no field is missing above.
static_assert(sizeof(ort::CustomOp) <= sizeof(OrtCustomOp));
static_assert(ORT_API_VERSION > 21 || sizeof(ort::CustomOp) == sizeof(OrtCustomOp));

#define CHECK_VALUE(own, official) \
  static_assert(static_cast<int>(own) == static_cast<int>(official), #own)
CHECK_VALUE(ort::kFail, ORT_FAIL);
CHECK_VALUE(ort::kInvalidArgument, ORT_INVALID_ARGUMENT);
CHECK_VALUE(ort::kRequired, INPUT_OUTPUT_REQUIRED);
CHECK_VALUE(ort::kCpuInput, OrtMemTypeCPUInput);
CHECK_VALUE(ort::kDefault, OrtMemTypeDefault);
CHECK_VALUE(ort::kUndefined, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
CHECK_VALUE(ort::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
CHECK_VALUE(ort::kDouble, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
CHECK_VALUE(ort::kUint64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64);
CHECK_VALUE(NOISYSTORE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
CHECK_VALUE(NOISYSTORE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
CHECK_VALUE(NOISYSTORE_INT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
CHECK_VALUE(NOISYSTORE_INT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
CHECK_VALUE(NOISYSTORE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
CHECK_VALUE(NOISYSTORE_DOUBLE, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
CHECK_VALUE(NOISYSTORE_BFLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
#undef CHECK_VALUE

static_assert(ORT_API_VERSION >= ort::kInplaceApi, "a header of ONNX Runtime 1.18 or newer");
static_assert(std::is_same_v<decltype(&RegisterCustomOps), RegisterCustomOpsFn>);

}  // namespace
