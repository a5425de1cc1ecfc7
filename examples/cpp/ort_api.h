// SPDX-License-Identifier: Apache-2.0
// The slice of ONNX Runtime's C interface that noisystore_sweep uses, under the official names, so
// that a compiler is enough. OrtApi is an append-only table, the same in every 1.x release.
// check_ort_api.cc compares all of this with the official header, which is used where it is found.
#pragma once

#ifdef NOISYSTORE_ORT_HEADER
#include <onnxruntime_c_api.h>
#else

#include <cstddef>
#include <cstdint>

struct OrtAllocator;
struct OrtEnv;
struct OrtMemoryInfo;
struct OrtModelMetadata;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

enum OrtErrorCode : int { ORT_NOT_IMPLEMENTED = 9 };
enum OrtLoggingLevel : int { ORT_LOGGING_LEVEL_FATAL = 4 };
enum OrtAllocatorType : int { OrtArenaAllocator = 1 };
enum OrtMemType : int { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64 = 13
};

// Entries of the table that are not used, from one number up to another.
template <std::size_t kFrom, std::size_t kTo>
using OrtUnused = void (*[kTo - kFrom])();

struct OrtApi {
  OrtUnused<0, 1> unused0;
  OrtErrorCode (*GetErrorCode)(const OrtStatus*);                        // 1
  const char* (*GetErrorMessage)(const OrtStatus*);                      // 2
  OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* name, OrtEnv**);  // 3
  OrtUnused<4, 7> unused4;
  OrtStatus* (*CreateSession)(const OrtEnv*, const char* path, const OrtSessionOptions*,
                              OrtSession**);  // 7
  OrtUnused<8, 9> unused8;
  OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names,
                    const OrtValue* const* inputs, std::size_t input_count,
                    const char* const* output_names, std::size_t output_count,
                    OrtValue** outputs);                    // 9
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);  // 10
  OrtUnused<11, 22> unused11;
  OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions*, int level);  // 22
  OrtUnused<23, 24> unused23;
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int threads);  // 24
  OrtUnused<25, 30> unused25;
  OrtStatus* (*SessionGetInputCount)(const OrtSession*, std::size_t*);                    // 30
  OrtStatus* (*SessionGetOutputCount)(const OrtSession*, std::size_t*);                   // 31
  OrtStatus* (*SessionGetOverridableInitializerCount)(const OrtSession*, std::size_t*);   // 32
  OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, std::size_t, OrtTypeInfo**);   // 33
  OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession*, std::size_t, OrtTypeInfo**);  // 34
  OrtStatus* (*SessionGetOverridableInitializerTypeInfo)(const OrtSession*, std::size_t,
                                                         OrtTypeInfo**);                     // 35
  OrtStatus* (*SessionGetInputName)(const OrtSession*, std::size_t, OrtAllocator*, char**);  // 36
  OrtStatus* (*SessionGetOutputName)(const OrtSession*, std::size_t, OrtAllocator*,
                                     char**);  // 37
  OrtStatus* (*SessionGetOverridableInitializerName)(const OrtSession*, std::size_t, OrtAllocator*,
                                                     char**);  // 38
  OrtUnused<39, 49> unused39;
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, std::size_t bytes,
                                               const std::int64_t* shape, std::size_t rank,
                                               ONNXTensorElementDataType,
                                               OrtValue**);  // 49
  OrtUnused<50, 51> unused50;
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);  // 51
  OrtUnused<52, 55> unused52;
  OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*,
                                         const OrtTensorTypeAndShapeInfo**);  // 55
  OrtUnused<56, 60> unused56;
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*,
                                     ONNXTensorElementDataType*);                             // 60
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, std::size_t*);           // 61
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t);  // 62
  OrtUnused<63, 65> unused63;
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);  // 65
  OrtUnused<66, 69> unused66;
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);  // 69
  OrtUnused<70, 76> unused70;
  OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);  // 76
  OrtUnused<77, 78> unused77;
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);  // 78
  OrtUnused<79, 92> unused79;
  void (*ReleaseEnv)(OrtEnv*);                // 92
  void (*ReleaseStatus)(OrtStatus*);          // 93
  void (*ReleaseMemoryInfo)(OrtMemoryInfo*);  // 94
  void (*ReleaseSession)(OrtSession*);        // 95
  void (*ReleaseValue)(OrtValue*);            // 96
  OrtUnused<97, 98> unused97;
  void (*ReleaseTypeInfo)(OrtTypeInfo*);                              // 98
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);  // 99
  void (*ReleaseSessionOptions)(OrtSessionOptions*);                  // 100
  OrtUnused<101, 111> unused101;
  OrtStatus* (*SessionGetModelMetadata)(const OrtSession*, OrtModelMetadata**);  // 111
  OrtUnused<112, 116> unused112;
  OrtStatus* (*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata*, OrtAllocator*,
                                                     const char* key, char** value);  // 116
  OrtUnused<117, 118> unused117;
  void (*ReleaseModelMetadata)(OrtModelMetadata*);  // 118
  OrtUnused<119, 130> unused119;
  OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions*, const char* key,
                                      const char* value);  // 130
  OrtUnused<131, 228> unused131;
  OrtStatus* (*RegisterCustomOpsLibrary_V2)(OrtSessionOptions*, const char* path);  // 228
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

#endif
