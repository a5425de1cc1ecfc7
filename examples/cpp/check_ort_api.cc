// SPDX-License-Identifier: Apache-2.0
// Compile-time check of ort_api.h against the official onnxruntime_c_api.h: positions, signatures
// and enumerations. Run by .ci/check_ort_abi; no code results.
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace own {
#include "ort_api.h"
}

// The official signatures carry nonnull attributes, which no template argument keeps.
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace {

// A type of the official header in those of ort_api.h; functions carry no noexcept there.
template <class T>
struct Ours {
  using type = T;
};
template <class T>
using ours = typename Ours<T>::type;

template <class T>
struct Ours<T*> {
  using type = ours<T>*;
};
template <class T>
struct Ours<T* const> {
  using type = ours<T>* const;
};
template <class T>
struct Ours<const T> {
  using type = const ours<T>;
};
template <class Result, class... Arguments>
struct Ours<Result(Arguments...)> {
  using type = ours<Result>(ours<Arguments>...);
};
template <class Result, class... Arguments>
struct Ours<Result(Arguments...) noexcept> {
  using type = ours<Result>(ours<Arguments>...);
};

#define OWN_TYPE(name)      \
  template <>               \
  struct Ours<::name> {     \
    using type = own::name; \
  }
OWN_TYPE(OrtAllocator);
OWN_TYPE(OrtEnv);
OWN_TYPE(OrtMemoryInfo);
OWN_TYPE(OrtModelMetadata);
OWN_TYPE(OrtRunOptions);
OWN_TYPE(OrtSession);
OWN_TYPE(OrtSessionOptions);
OWN_TYPE(OrtStatus);
OWN_TYPE(OrtTensorTypeAndShapeInfo);
OWN_TYPE(OrtTypeInfo);
OWN_TYPE(OrtValue);
OWN_TYPE(OrtApi);
OWN_TYPE(OrtErrorCode);
OWN_TYPE(OrtLoggingLevel);
OWN_TYPE(OrtAllocatorType);
OWN_TYPE(OrtMemType);
OWN_TYPE(ONNXTensorElementDataType);
#undef OWN_TYPE

#define CHECK_FIELD(table, name)                                                              \
  static_assert(offsetof(::table, name) == offsetof(own::table, name), "position of " #name); \
  static_assert(std::is_same_v<ours<decltype(::table::name)>, decltype(own::table::name)>,    \
                "signature of " #name)
#define CHECK_FUNCTION(name) CHECK_FIELD(OrtApi, name)

CHECK_FUNCTION(GetErrorCode);
CHECK_FUNCTION(GetErrorMessage);
CHECK_FUNCTION(CreateEnv);
CHECK_FUNCTION(CreateSession);
CHECK_FUNCTION(Run);
CHECK_FUNCTION(CreateSessionOptions);
CHECK_FUNCTION(SetSessionLogSeverityLevel);
CHECK_FUNCTION(SetIntraOpNumThreads);
CHECK_FUNCTION(SessionGetInputCount);
CHECK_FUNCTION(SessionGetOutputCount);
CHECK_FUNCTION(SessionGetOverridableInitializerCount);
CHECK_FUNCTION(SessionGetInputTypeInfo);
CHECK_FUNCTION(SessionGetOutputTypeInfo);
CHECK_FUNCTION(SessionGetOverridableInitializerTypeInfo);
CHECK_FUNCTION(SessionGetInputName);
CHECK_FUNCTION(SessionGetOutputName);
CHECK_FUNCTION(SessionGetOverridableInitializerName);
CHECK_FUNCTION(CreateTensorWithDataAsOrtValue);
CHECK_FUNCTION(GetTensorMutableData);
CHECK_FUNCTION(CastTypeInfoToTensorInfo);
CHECK_FUNCTION(GetTensorElementType);
CHECK_FUNCTION(GetDimensionsCount);
CHECK_FUNCTION(GetDimensions);
CHECK_FUNCTION(GetTensorTypeAndShape);
CHECK_FUNCTION(CreateCpuMemoryInfo);
CHECK_FUNCTION(AllocatorFree);
CHECK_FUNCTION(GetAllocatorWithDefaultOptions);
CHECK_FUNCTION(ReleaseEnv);
CHECK_FUNCTION(ReleaseStatus);
CHECK_FUNCTION(ReleaseMemoryInfo);
CHECK_FUNCTION(ReleaseSession);
CHECK_FUNCTION(ReleaseValue);
CHECK_FUNCTION(ReleaseTypeInfo);
CHECK_FUNCTION(ReleaseTensorTypeAndShapeInfo);
CHECK_FUNCTION(ReleaseSessionOptions);
CHECK_FUNCTION(SessionGetModelMetadata);
CHECK_FUNCTION(ModelMetadataLookupCustomMetadataMap);
CHECK_FUNCTION(ReleaseModelMetadata);
CHECK_FUNCTION(AddSessionConfigEntry);
CHECK_FUNCTION(RegisterCustomOpsLibrary_V2);
CHECK_FIELD(OrtApiBase, GetApi);
CHECK_FIELD(OrtApiBase, GetVersionString);
#undef CHECK_FUNCTION
#undef CHECK_FIELD

#define CHECK_VALUE(name) \
  static_assert(static_cast<int>(::name) == static_cast<int>(own::name), #name)
CHECK_VALUE(ORT_NOT_IMPLEMENTED);
CHECK_VALUE(ORT_LOGGING_LEVEL_FATAL);
CHECK_VALUE(OrtArenaAllocator);
CHECK_VALUE(OrtMemTypeDefault);
CHECK_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
CHECK_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
CHECK_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
CHECK_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
CHECK_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64);
#undef CHECK_VALUE

static_assert(sizeof(OrtErrorCode) == sizeof(int) && sizeof(OrtLoggingLevel) == sizeof(int));
static_assert(sizeof(OrtAllocatorType) == sizeof(int) && sizeof(OrtMemType) == sizeof(int));
static_assert(sizeof(ONNXTensorElementDataType) == sizeof(int));

}  // namespace
