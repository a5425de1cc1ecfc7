// SPDX-License-Identifier: Apache-2.0
// The slice of ONNX Runtime's C ABI that plugin.cc uses: libraries with an execution provider,
// since ONNX Runtime 1.24. Its structs grow at their ends only; what is not used is left out or
// null.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ort_abi.h"

namespace noisystore::ort {

inline constexpr std::uint32_t kPluginApi = 24;

inline constexpr MemoryType kCpuOutput{-1};

struct EpApi;
struct EpDevice;
struct GraphSupportInfo;
struct Graph;
struct HardwareDevice;
struct KernelDef;
struct KernelDefBuilder;
struct KernelRegistry;
struct KeyValuePairs;
struct DataType;
struct Logger;
struct MemoryDevice;
struct MemoryInfo;
struct Node;
struct SyncStream;

enum DeviceType : int { kGpuDevice = 1 };
enum HardwareType : int { kGpuHardware = 1 };
enum AllocatorType : int { kDeviceAllocator = 0 };
enum DeviceMemory : int { kDeviceMemory = 0 };

inline constexpr Function<72, OrtStatus*(const MemoryInfo*, int*)> MemoryInfoGetId{};
inline constexpr Function<94, void(MemoryInfo*)> ReleaseMemoryInfo{};
inline constexpr Function<295, void(KeyValuePairs**)> CreateKeyValuePairs{};
inline constexpr Function<296, void(KeyValuePairs*, const char*, const char*)> AddKeyValuePair{};
inline constexpr Function<300, void(KeyValuePairs*)> ReleaseKeyValuePairs{};
inline constexpr Function<317, const EpApi*()> GetEpApi{};
inline constexpr Function<318, OrtStatus*(const Value*, std::size_t*)> GetTensorSizeInBytes{};
inline constexpr Function<320, OrtStatus*(const char*, DeviceType, std::uint32_t, std::int32_t,
                                          DeviceMemory, std::size_t, AllocatorType, MemoryInfo**)>
    CreateMemoryInfo_V2{};
inline constexpr Function<344, OrtStatus*(const Graph*, std::size_t*)> Graph_GetNumNodes{};
inline constexpr Function<345, OrtStatus*(const Graph*, const Node**, std::size_t)>
    Graph_GetNodes{};
inline constexpr Function<384, void*(SyncStream*)> SyncStream_GetHandle{};

template <std::size_t kSlot, class Signature>
struct EpFunction;

// As Function, of the table for execution providers.
template <std::size_t kSlot, class Result, class... Arguments>
struct EpFunction<kSlot, Result(Arguments...)> {
  Result operator()(const EpApi* api, Arguments... arguments) const {
    using Pointer = Result (*)(Arguments...);
    return reinterpret_cast<const Pointer*>(api)[kSlot](arguments...);
  }
};

struct EpFactory;
struct KernelImpl;
using KernelCreate = OrtStatus* (*)(void*, const KernelInfo*, KernelImpl**);

inline constexpr EpFunction<0, OrtStatus*(EpFactory*, const HardwareDevice*, const KeyValuePairs*,
                                          const KeyValuePairs*, EpDevice**)>
    CreateEpDevice{};
inline constexpr EpFunction<1, void(EpDevice*)> ReleaseEpDevice{};
inline constexpr EpFunction<3, OrtStatus*(GraphSupportInfo*, const Node*)>
    EpGraphSupportInfo_AddSingleNode{};
inline constexpr EpFunction<5, OrtStatus*(EpDevice*, const MemoryInfo*)>
    EpDevice_AddAllocatorInfo{};
inline constexpr EpFunction<7, const MemoryDevice*(const Value*)> Value_GetMemoryDevice{};
inline constexpr EpFunction<9, DeviceType(const MemoryDevice*)> MemoryDevice_GetDeviceType{};
inline constexpr EpFunction<12, std::uint32_t(const MemoryDevice*)> MemoryDevice_GetDeviceId{};
inline constexpr EpFunction<16, OrtStatus*(HardwareType, std::uint32_t, std::uint32_t, const char*,
                                           const KeyValuePairs*, HardwareDevice**)>
    CreateHardwareDevice{};
inline constexpr EpFunction<17, void(HardwareDevice*)> ReleaseHardwareDevice{};
inline constexpr EpFunction<18, OrtStatus*(KernelRegistry**)> CreateKernelRegistry{};
inline constexpr EpFunction<19, void(KernelRegistry*)> ReleaseKernelRegistry{};
inline constexpr EpFunction<20, OrtStatus*(KernelRegistry*, const KernelDef*, KernelCreate, void*)>
    KernelRegistry_AddKernel{};
inline constexpr EpFunction<21, OrtStatus*(KernelDefBuilder**)> CreateKernelDefBuilder{};
inline constexpr EpFunction<22, void(KernelDefBuilder*)> ReleaseKernelDefBuilder{};
inline constexpr EpFunction<23, OrtStatus*(KernelDefBuilder*, const char*)>
    KernelDefBuilder_SetOperatorType{};
inline constexpr EpFunction<24, OrtStatus*(KernelDefBuilder*, const char*)>
    KernelDefBuilder_SetDomain{};
inline constexpr EpFunction<25, OrtStatus*(KernelDefBuilder*, int, int)>
    KernelDefBuilder_SetSinceVersion{};
inline constexpr EpFunction<26, OrtStatus*(KernelDefBuilder*, const char*)>
    KernelDefBuilder_SetExecutionProvider{};
inline constexpr EpFunction<27, OrtStatus*(KernelDefBuilder*, std::size_t, MemoryType)>
    KernelDefBuilder_SetInputMemType{};
inline constexpr EpFunction<28, OrtStatus*(KernelDefBuilder*, std::size_t, MemoryType)>
    KernelDefBuilder_SetOutputMemType{};
inline constexpr EpFunction<29, OrtStatus*(KernelDefBuilder*, const char*, const DataType* const*,
                                           std::size_t)>
    KernelDefBuilder_AddTypeConstraint{};
inline constexpr EpFunction<32, OrtStatus*(KernelDefBuilder*, KernelDef**)>
    KernelDefBuilder_Build{};
inline constexpr EpFunction<33, void(KernelDef*)> ReleaseKernelDef{};
inline constexpr EpFunction<40, OrtStatus*(int, const DataType**)> GetTensorDataType{};
inline constexpr EpFunction<41, OrtStatus*(GraphSupportInfo*, const Node*, const KernelDef**)>
    EpGraphSupportInfo_LookUpKernel{};

// Members of later versions, which a runtime looks at by the version that a struct names.
using Unused = void* [16];

struct Allocator {
  std::uint32_t version = kPluginApi;
  void* (*Alloc)(Allocator*, std::size_t) = nullptr;
  void (*Free)(Allocator*, void*) = nullptr;
  const MemoryInfo* (*Info)(const Allocator*) = nullptr;
  Unused rest = {};
};

struct DataTransfer {
  std::uint32_t version = kPluginApi;
  void (*Release)(DataTransfer*) = nullptr;
  bool (*CanCopy)(const DataTransfer*, const MemoryDevice*, const MemoryDevice*) = nullptr;
  OrtStatus* (*CopyTensors)(DataTransfer*, const Value**, Value**, SyncStream**,
                            std::size_t) = nullptr;
  Unused rest = {};
};

struct Notification {
  std::uint32_t version = kPluginApi;
  void (*Release)(Notification*) = nullptr;
  OrtStatus* (*Activate)(Notification*) = nullptr;
  OrtStatus* (*WaitOnDevice)(Notification*, SyncStream*) = nullptr;
  OrtStatus* (*WaitOnHost)(Notification*) = nullptr;
  Unused rest = {};
};

struct Stream {
  std::uint32_t version = kPluginApi;
  void (*Release)(Stream*) = nullptr;
  void* (*GetHandle)(Stream*) = nullptr;
  OrtStatus* (*CreateNotification)(Stream*, Notification**) = nullptr;
  OrtStatus* (*Flush)(Stream*) = nullptr;
  OrtStatus* (*OnSessionRunEnd)(Stream*) = nullptr;
  Unused rest = {};
};

struct KernelImpl {
  std::uint32_t version = kPluginApi;
  std::uint32_t flags = 0;
  OrtStatus* (*Compute)(KernelImpl*, KernelContext*) = nullptr;
  void (*Release)(KernelImpl*) = nullptr;
  Unused rest = {};
};

struct Ep {
  std::uint32_t version = kPluginApi;
  const char* (*GetName)(const Ep*) = nullptr;
  OrtStatus* (*GetCapability)(Ep*, const Graph*, GraphSupportInfo*) = nullptr;
  // Compile, ReleaseNodeComputeInfos, GetPreferredDataLayout, ShouldConvertDataLayoutForOp,
  // SetDynamicOptions, OnRunStart, OnRunEnd, CreateAllocator, CreateSyncStreamForDevice,
  // GetCompiledModelCompatibilityInfo
  void* unused[10] = {};
  OrtStatus* (*GetKernelRegistry)(Ep*, const KernelRegistry**) = nullptr;
  Unused rest = {};
};

struct EpFactory {
  std::uint32_t version = kPluginApi;
  const char* (*GetName)(const EpFactory*) = nullptr;
  const char* (*GetVendor)(const EpFactory*) = nullptr;
  OrtStatus* (*GetSupportedDevices)(EpFactory*, const HardwareDevice* const*, std::size_t,
                                    EpDevice**, std::size_t, std::size_t*) = nullptr;
  OrtStatus* (*CreateEp)(EpFactory*, const HardwareDevice* const*, const KeyValuePairs* const*,
                         std::size_t, const OrtSessionOptions*, const Logger*, Ep**) = nullptr;
  void (*ReleaseEp)(EpFactory*, Ep*) = nullptr;
  std::uint32_t (*GetVendorId)(const EpFactory*) = nullptr;
  const char* (*GetVersion)(const EpFactory*) = nullptr;
  void* ValidateCompiledModelCompatibilityInfo = nullptr;
  OrtStatus* (*CreateAllocator)(EpFactory*, const MemoryInfo*, const KeyValuePairs*,
                                Allocator**) = nullptr;
  void (*ReleaseAllocator)(EpFactory*, Allocator*) = nullptr;
  OrtStatus* (*CreateDataTransfer)(EpFactory*, DataTransfer**) = nullptr;
  bool (*IsStreamAware)(const EpFactory*) = nullptr;
  OrtStatus* (*CreateSyncStreamForDevice)(EpFactory*, const MemoryDevice*, const KeyValuePairs*,
                                          Stream**) = nullptr;
  Unused rest = {};
};

}  // namespace noisystore::ort
