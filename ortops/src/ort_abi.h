// SPDX-License-Identifier: Apache-2.0
// The slice of ONNX Runtime's C ABI that is used, so that no header or library of it is needed.
// OrtApi is an append-only table of function pointers, the same in every 1.x release; the
// positions are checked against the official header by tests/check_ort_abi.cc.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct OrtSessionOptions;
struct OrtStatus;
struct OrtApi;
struct OrtApiBase {
  const OrtApi* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};
}

namespace noisystore::ort {

struct CustomOpDomain;
struct Value;
struct TensorTypeAndShapeInfo;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kUndefined = 0, kInt64 = 7, kDouble = 11, kUint64 = 13 };
enum Characteristic : int { kRequired = 0 };
enum MemoryType : int { kCpuInput = -2, kDefault = 0 };

// Oldest and newest table that is asked for; callbacks for in-place use came with 18.
inline constexpr std::uint32_t kOldestApi = 17, kInplaceApi = 18;

template <std::size_t kSlot, class Signature>
struct Function;

// Calls entry kSlot of the table.
template <std::size_t kSlot, class Result, class... Arguments>
struct Function<kSlot, Result(Arguments...)> {
  static constexpr std::size_t slot = kSlot;
  Result operator()(const OrtApi* api, Arguments... arguments) const {
    using Pointer = Result (*)(Arguments...);
    return reinterpret_cast<const Pointer*>(api)[kSlot](arguments...);
  }
};

inline constexpr Function<0, OrtStatus*(int, const char*)> CreateStatus{};
inline constexpr Function<26, OrtStatus*(const char*, CustomOpDomain**)> CreateCustomOpDomain{};
inline constexpr Function<27, OrtStatus*(CustomOpDomain*, const struct CustomOp*)>
    CustomOpDomain_Add{};
inline constexpr Function<28, OrtStatus*(OrtSessionOptions*, CustomOpDomain*)> AddCustomOpDomain{};
inline constexpr Function<51, OrtStatus*(Value*, void**)> GetTensorMutableData{};
inline constexpr Function<60, OrtStatus*(const TensorTypeAndShapeInfo*, int*)>
    GetTensorElementType{};
inline constexpr Function<61, OrtStatus*(const TensorTypeAndShapeInfo*, std::size_t*)>
    GetDimensionsCount{};
inline constexpr Function<62, OrtStatus*(const TensorTypeAndShapeInfo*, std::int64_t*, std::size_t)>
    GetDimensions{};
inline constexpr Function<63, OrtStatus*(const TensorTypeAndShapeInfo*, const char**, std::size_t)>
    GetSymbolicDimensions{};
inline constexpr Function<65, OrtStatus*(const Value*, TensorTypeAndShapeInfo**)>
    GetTensorTypeAndShape{};
inline constexpr Function<85, OrtStatus*(const KernelInfo*, const char*, float*)>
    KernelInfoGetAttribute_float{};
inline constexpr Function<86, OrtStatus*(const KernelInfo*, const char*, std::int64_t*)>
    KernelInfoGetAttribute_int64{};
inline constexpr Function<87, OrtStatus*(const KernelInfo*, const char*, char*, std::size_t*)>
    KernelInfoGetAttribute_string{};
inline constexpr Function<90, OrtStatus*(const KernelContext*, std::size_t, const Value**)>
    KernelContext_GetInput{};
inline constexpr Function<91, OrtStatus*(KernelContext*, std::size_t, const std::int64_t*,
                                         std::size_t, Value**)>
    KernelContext_GetOutput{};
inline constexpr Function<93, void(OrtStatus*)> ReleaseStatus{};
inline constexpr Function<99, void(TensorTypeAndShapeInfo*)> ReleaseTensorTypeAndShapeInfo{};
inline constexpr Function<101, void(CustomOpDomain*)> ReleaseCustomOpDomain{};
inline constexpr Function<193, OrtStatus*(const KernelContext*, void**)>
    KernelContext_GetGPUComputeStream{};
inline constexpr Function<244, OrtStatus*(const KernelInfo*, char*, std::size_t*)>
    KernelInfo_GetNodeName{};
inline constexpr Function<268, OrtStatus*(const ShapeInferContext*, std::size_t,
                                          TensorTypeAndShapeInfo**)>
    ShapeInferContext_GetInputTypeShape{};
inline constexpr Function<270, OrtStatus*(const ShapeInferContext*, std::size_t,
                                          const TensorTypeAndShapeInfo*)>
    ShapeInferContext_SetOutputTypeShape{};
inline constexpr Function<274, OrtStatus*(const KernelContext*, void (*)(void*, std::size_t),
                                          std::size_t, std::size_t, void*)>
    KernelContext_ParallelFor{};

// OrtCustomOp of API 18; a runtime reads only the fields of the version that `version` names.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const OrtApi*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, std::size_t);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, std::size_t);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const CustomOp*, std::size_t);
  int (*GetOutputCharacteristic)(const CustomOp*, std::size_t);
  int (*GetInputMemoryType)(const CustomOp*, std::size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  OrtStatus* (*CreateKernelV2)(const CustomOp*, const OrtApi*, const KernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, KernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  std::size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  std::size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};

}  // namespace noisystore::ort
