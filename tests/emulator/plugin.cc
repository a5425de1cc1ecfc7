// SPDX-License-Identifier: Apache-2.0
// An execution provider for CUDA devices in a library of its own, as ONNX Runtime's plugins are:
// memory, streams and copies, but no kernels except for copies. It takes the nodes for which a
// library of custom operators has kernels under its name, which is that of its registration.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "ort_kernel.h"
#include "plugin_abi.h"

namespace noisystore {
namespace {

constexpr std::uint32_t kNvidia = 0x10DE;
const OrtApi* api;
const ort::EpApi* ep_api;

OrtStatus* fail(const std::string& problem) {
  return ort::CreateStatus(api, ort::kFail, ("CUDA plugin: " + problem).c_str());
}

OrtStatus* status_of(cudaError_t error) {
  return error == cudaSuccess ? nullptr : fail(cudaGetErrorString(error));
}

// Makes a device current, as long as an object lives.
class On {
 public:
  explicit On(int device) {
    error = cudaGetDevice(&before_);
    if (error == cudaSuccess) error = cudaSetDevice(device);
  }
  ~On() { cudaSetDevice(before_); }
  On(const On&) = delete;
  cudaError_t error;

 private:
  int before_ = 0;
};

struct Event : ort::Notification {
  cudaEvent_t event = nullptr;
  cudaStream_t stream = nullptr;
};

struct QueueOfWork : ort::Stream {
  cudaStream_t stream = nullptr;
  int device = 0;
};

cudaStream_t handle(ort::SyncStream* stream) {
  return static_cast<cudaStream_t>(ort::SyncStream_GetHandle(api, stream));
}

OrtStatus* make_event(ort::Stream* self, ort::Notification** out) {
  auto made = std::make_unique<Event>();
  const auto& queue = *static_cast<QueueOfWork*>(self);
  made->stream = queue.stream;
  made->Release = [](ort::Notification* event) {
    cudaEventDestroy(static_cast<Event*>(event)->event);
    delete static_cast<Event*>(event);
  };
  made->Activate = [](ort::Notification* event) {
    return status_of(
        cudaEventRecord(static_cast<Event*>(event)->event, static_cast<Event*>(event)->stream));
  };
  made->WaitOnDevice = [](ort::Notification* event, ort::SyncStream* consumer) {
    return status_of(cudaStreamWaitEvent(handle(consumer), static_cast<Event*>(event)->event, 0));
  };
  made->WaitOnHost = [](ort::Notification* event) {
    return status_of(cudaEventSynchronize(static_cast<Event*>(event)->event));
  };
  const On device(queue.device);
  RETURN_IF_ERROR(status_of(device.error));
  RETURN_IF_ERROR(status_of(cudaEventCreateWithFlags(&made->event, cudaEventDisableTiming)));
  *out = made.release();
  return nullptr;
}

OrtStatus* make_stream(ort::EpFactory*, const ort::MemoryDevice* device, const ort::KeyValuePairs*,
                       ort::Stream** out) {
  auto made = std::make_unique<QueueOfWork>();
  made->Release = [](ort::Stream* self) {
    cudaStreamDestroy(static_cast<QueueOfWork*>(self)->stream);
    delete static_cast<QueueOfWork*>(self);
  };
  made->GetHandle = [](ort::Stream* self) -> void* {
    return static_cast<QueueOfWork*>(self)->stream;
  };
  made->CreateNotification = make_event;
  made->Flush = made->OnSessionRunEnd = [](ort::Stream* self) {
    return status_of(cudaStreamSynchronize(static_cast<QueueOfWork*>(self)->stream));
  };
  made->device = static_cast<int>(ort::MemoryDevice_GetDeviceId(ep_api, device));
  const On current(made->device);
  RETURN_IF_ERROR(status_of(current.error));
  RETURN_IF_ERROR(status_of(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking)));
  *out = made.release();
  return nullptr;
}

bool on_device(const ort::MemoryDevice* device) {
  return ort::MemoryDevice_GetDeviceType(ep_api, device) == ort::kGpuDevice;
}

bool on_device(const ort::Value* value) {
  return on_device(ort::Value_GetMemoryDevice(ep_api, value));
}

// Copies all of a tensor; in the order of a stream, where there is one.
OrtStatus* copy(const ort::Value* from, ort::Value* to, cudaStream_t stream, bool queued) {
  std::size_t bytes = 0;
  void *source = nullptr, *target = nullptr;
  RETURN_IF_ERROR(ort::GetTensorSizeInBytes(api, from, &bytes));
  RETURN_IF_ERROR(ort::GetTensorMutableData(api, const_cast<ort::Value*>(from), &source));
  RETURN_IF_ERROR(ort::GetTensorMutableData(api, to, &target));
  if (bytes == 0) return nullptr;
  constexpr cudaMemcpyKind kinds[2][2] = {{cudaMemcpyHostToHost, cudaMemcpyHostToDevice},
                                          {cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice}};
  const cudaMemcpyKind kind = kinds[on_device(from)][on_device(to)];
  return status_of(queued ? cudaMemcpyAsync(target, source, bytes, kind, stream)
                          : cudaMemcpy(target, source, bytes, kind));
}

OrtStatus* make_data_transfer(ort::EpFactory*, ort::DataTransfer** out) {
  auto made = std::make_unique<ort::DataTransfer>();
  made->Release = [](ort::DataTransfer* self) { delete self; };
  made->CanCopy = [](const ort::DataTransfer*, const ort::MemoryDevice* from,
                     const ort::MemoryDevice* to) { return on_device(from) || on_device(to); };
  made->CopyTensors = [](ort::DataTransfer*, const ort::Value** from, ort::Value** to,
                         ort::SyncStream** streams, std::size_t count) -> OrtStatus* {
    for (std::size_t i = 0; i < count; ++i) {
      ort::SyncStream* stream = streams == nullptr ? nullptr : streams[i];
      RETURN_IF_ERROR(copy(from[i], to[i], stream ? handle(stream) : nullptr, stream != nullptr));
    }
    return nullptr;
  };
  *out = made.release();
  return nullptr;
}

OrtStatus* copy_input(ort::KernelImpl*, ort::KernelContext* context) {
  const ort::Value* x = nullptr;
  ort::Value* y = nullptr;
  ort::TensorTypeAndShapeInfo* info = nullptr;
  std::int64_t shape[kMaxRank];
  std::size_t rank = 0;
  void* stream = nullptr;
  RETURN_IF_ERROR(ort::KernelContext_GetInput(api, context, 0, &x));
  RETURN_IF_ERROR(ort::GetTensorTypeAndShape(api, x, &info));
  OrtStatus* status = ort::GetDimensionsCount(api, info, &rank);
  if (status == nullptr && rank > kMaxRank) status = fail("too many axes");
  if (status == nullptr) status = ort::GetDimensions(api, info, shape, rank);
  ort::ReleaseTensorTypeAndShapeInfo(api, info);
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(ort::KernelContext_GetOutput(api, context, 0, shape, rank, &y));
  RETURN_IF_ERROR(ort::KernelContext_GetGPUComputeStream(api, context, &stream));
  return copy(x, y, static_cast<cudaStream_t>(stream), true);
}

OrtStatus* make_copy_kernel(void*, const ort::KernelInfo*, ort::KernelImpl** out) {
  *out = new ort::KernelImpl;
  (*out)->Compute = copy_input;
  (*out)->Release = [](ort::KernelImpl* self) { delete self; };
  return nullptr;
}

struct Memory : ort::Allocator {
  const ort::MemoryInfo* info = nullptr;
  int ordinal = 0;
};

struct Device {
  ort::HardwareDevice* hardware = nullptr;
  ort::MemoryInfo* memory = nullptr;
};

struct Factory : ort::EpFactory {
  ~Factory() {
    for (const Device& device : devices) {
      if (device.memory != nullptr) ort::ReleaseMemoryInfo(api, device.memory);
      if (device.hardware != nullptr) ort::ReleaseHardwareDevice(ep_api, device.hardware);
    }
    if (registry != nullptr) ort::ReleaseKernelRegistry(ep_api, registry);
  }
  std::string name;
  std::vector<Device> devices;
  ort::KernelRegistry* registry = nullptr;
};

struct Provider : ort::Ep {
  const Factory* factory = nullptr;
};

// The nodes that ONNX Runtime puts between a device's and others.
OrtStatus* describe_copy(ort::KernelDefBuilder* builder, const Factory& factory, bool to_device,
                         ort::KernelDef** out) {
  std::vector<const ort::DataType*> types;
  for (int type = 1; type <= 16; ++type) {
    if (type == 8 || type == 14 || type == 15) continue;  // texts, complex numbers
    RETURN_IF_ERROR(ort::GetTensorDataType(ep_api, type, &types.emplace_back()));
  }
  RETURN_IF_ERROR(ort::KernelDefBuilder_SetOperatorType(
      ep_api, builder, to_device ? "MemcpyFromHost" : "MemcpyToHost"));
  RETURN_IF_ERROR(ort::KernelDefBuilder_SetDomain(ep_api, builder, ""));
  RETURN_IF_ERROR(ort::KernelDefBuilder_SetSinceVersion(ep_api, builder, 1, 1));
  RETURN_IF_ERROR(
      ort::KernelDefBuilder_SetExecutionProvider(ep_api, builder, factory.name.c_str()));
  RETURN_IF_ERROR(
      ort::KernelDefBuilder_AddTypeConstraint(ep_api, builder, "T", types.data(), types.size()));
  if (to_device) {
    RETURN_IF_ERROR(ort::KernelDefBuilder_SetInputMemType(ep_api, builder, 0, ort::kCpuInput));
  } else {
    RETURN_IF_ERROR(ort::KernelDefBuilder_SetOutputMemType(ep_api, builder, 0, ort::kCpuOutput));
  }
  return ort::KernelDefBuilder_Build(ep_api, builder, out);
}

OrtStatus* add_copy(Factory& factory, bool to_device) {
  ort::KernelDefBuilder* builder = nullptr;
  ort::KernelDef* kernel = nullptr;
  RETURN_IF_ERROR(ort::CreateKernelDefBuilder(ep_api, &builder));
  OrtStatus* status = describe_copy(builder, factory, to_device, &kernel);
  ort::ReleaseKernelDefBuilder(ep_api, builder);
  RETURN_IF_ERROR(status);
  status =
      ort::KernelRegistry_AddKernel(ep_api, factory.registry, kernel, make_copy_kernel, nullptr);
  ort::ReleaseKernelDef(ep_api, kernel);
  return status;
}

OrtStatus* take_nodes(ort::Ep*, const ort::Graph* graph, ort::GraphSupportInfo* taken) {
  std::size_t count = 0;
  RETURN_IF_ERROR(ort::Graph_GetNumNodes(api, graph, &count));
  std::vector<const ort::Node*> nodes(count);
  RETURN_IF_ERROR(ort::Graph_GetNodes(api, graph, nodes.data(), count));
  for (const ort::Node* node : nodes) {
    const ort::KernelDef* kernel = nullptr;
    RETURN_IF_ERROR(ort::EpGraphSupportInfo_LookUpKernel(ep_api, taken, node, &kernel));
    if (kernel != nullptr) {
      RETURN_IF_ERROR(ort::EpGraphSupportInfo_AddSingleNode(ep_api, taken, node));
    }
  }
  return nullptr;
}

OrtStatus* make_provider(ort::EpFactory* self, const ort::HardwareDevice* const*,
                         const ort::KeyValuePairs* const*, std::size_t devices,
                         const OrtSessionOptions*, const ort::Logger*, ort::Ep** out) {
  if (devices != 1) return fail("a session has one device");
  if (const char* why = std::getenv("NOISYSTORE_PLUGIN_FAILS")) return fail(why);
  auto made = std::make_unique<Provider>();
  made->factory = static_cast<Factory*>(self);
  made->GetName = [](const ort::Ep* ep) {
    return static_cast<const Provider*>(ep)->factory->name.c_str();
  };
  made->GetCapability = take_nodes;
  made->GetKernelRegistry = [](ort::Ep* ep, const ort::KernelRegistry** registry) {
    *registry = static_cast<Provider*>(ep)->factory->registry;
    return static_cast<OrtStatus*>(nullptr);
  };
  *out = made.release();
  return nullptr;
}

OrtStatus* make_allocator(ort::EpFactory* self, const ort::MemoryInfo* info,
                          const ort::KeyValuePairs*, ort::Allocator** out) {
  auto made = std::make_unique<Memory>();
  RETURN_IF_ERROR(ort::MemoryInfoGetId(api, info, &made->ordinal));
  made->info = static_cast<Factory*>(self)->devices.at(made->ordinal).memory;
  made->Alloc = [](ort::Allocator* memory, std::size_t bytes) -> void* {
    const On device(static_cast<Memory*>(memory)->ordinal);
    void* allocated = nullptr;
    if (device.error != cudaSuccess || cudaMalloc(&allocated, bytes) != cudaSuccess) return nullptr;
    return allocated;
  };
  // Waits for what is queued.
  made->Free = [](ort::Allocator*, void* allocated) { cudaFree(allocated); };
  made->Info = [](const ort::Allocator* memory) {
    return static_cast<const Memory*>(memory)->info;
  };
  *out = made.release();
  return nullptr;
}

OrtStatus* add_device(Factory& factory, int ordinal, ort::EpDevice** out) {
  const auto id = static_cast<std::uint32_t>(ordinal);
  const std::string number = std::to_string(ordinal);
  Device& device = factory.devices.emplace_back();
  *out = nullptr;
  RETURN_IF_ERROR(ort::CreateHardwareDevice(ep_api, ort::kGpuHardware, kNvidia, id, "NVIDIA",
                                            nullptr, &device.hardware));
  RETURN_IF_ERROR(ort::CreateMemoryInfo_V2(api, "Cuda", ort::kGpuDevice, kNvidia, ordinal,
                                           ort::kDeviceMemory, 0, ort::kDeviceAllocator,
                                           &device.memory));
  ort::KeyValuePairs *metadata = nullptr, *options = nullptr;
  ort::CreateKeyValuePairs(api, &metadata);
  ort::CreateKeyValuePairs(api, &options);
  ort::AddKeyValuePair(api, metadata, "cuda_device_id", number.c_str());
  ort::AddKeyValuePair(api, options, "device_id", number.c_str());
  OrtStatus* status =
      ort::CreateEpDevice(ep_api, &factory, device.hardware, metadata, options, out);
  ort::ReleaseKeyValuePairs(api, metadata);
  ort::ReleaseKeyValuePairs(api, options);
  RETURN_IF_ERROR(status);
  return ort::EpDevice_AddAllocatorInfo(ep_api, *out, device.memory);
}

OrtStatus* add_devices(ort::EpFactory* self, const ort::HardwareDevice* const*, std::size_t,
                       ort::EpDevice** out, std::size_t limit, std::size_t* count) {
  int devices = 0;
  *count = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess) devices = 0;
  for (int i = 0; i < devices && *count < limit; ++i) {
    OrtStatus* status = add_device(*static_cast<Factory*>(self), i, &out[*count]);
    *count += out[*count] != nullptr;
    if (status == nullptr) continue;
    while (*count > 0) ort::ReleaseEpDevice(ep_api, out[--*count]);
    return status;
  }
  return nullptr;
}

}  // namespace
}  // namespace noisystore

using noisystore::Factory;
namespace ort = noisystore::ort;

extern "C" {

__attribute__((visibility("default"))) OrtStatus* CreateEpFactories(
    const char* name, const OrtApiBase* base, const ort::Logger*, ort::EpFactory** factories,
    std::size_t, std::size_t* count) {
  *count = 0;
  noisystore::api = base->GetApi(ort::kPluginApi);
  if (noisystore::api == nullptr) {
    noisystore::api = base->GetApi(ort::kOldestApi);
    return noisystore::fail("needs ONNX Runtime 1.24 or newer");
  }
  noisystore::ep_api = ort::GetEpApi(noisystore::api);
  auto made = std::make_unique<Factory>();
  made->name = name;
  made->GetName = [](const ort::EpFactory* self) {
    return static_cast<const Factory*>(self)->name.c_str();
  };
  made->GetVendor = [](const ort::EpFactory*) { return "NVIDIA"; };
  made->GetVendorId = [](const ort::EpFactory*) { return noisystore::kNvidia; };
  made->GetVersion = [](const ort::EpFactory*) { return "1.0.0"; };
  made->GetSupportedDevices = noisystore::add_devices;
  made->CreateEp = noisystore::make_provider;
  made->ReleaseEp = [](ort::EpFactory*, ort::Ep* ep) {
    delete static_cast<noisystore::Provider*>(ep);
  };
  made->CreateAllocator = noisystore::make_allocator;
  made->ReleaseAllocator = [](ort::EpFactory*, ort::Allocator* memory) {
    delete static_cast<noisystore::Memory*>(memory);
  };
  made->CreateDataTransfer = noisystore::make_data_transfer;
  made->IsStreamAware = [](const ort::EpFactory*) { return true; };
  made->CreateSyncStreamForDevice = noisystore::make_stream;
  RETURN_IF_ERROR(ort::CreateKernelRegistry(noisystore::ep_api, &made->registry));
  RETURN_IF_ERROR(noisystore::add_copy(*made, true));
  RETURN_IF_ERROR(noisystore::add_copy(*made, false));
  factories[(*count)++] = made.release();
  return nullptr;
}

__attribute__((visibility("default"))) OrtStatus* ReleaseEpFactory(ort::EpFactory* self) {
  delete static_cast<Factory*>(self);
  return nullptr;
}
}
