// SPDX-License-Identifier: Apache-2.0
// Attributes, inputs and runs of one node (NoisyStore.md).
#include "ort_kernel.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "checked_call.h"
#include "cuda.h"

namespace noisystore {
namespace {

constexpr double kSplitAboveNs = 20000;  // below this, waking threads costs more than it saves
constexpr double kPartNs = 10000;
constexpr std::size_t kMaxParts = 256;

// One node. Runs may share it, so it holds nothing but the node's attributes.
struct Kernel {
  const OrtApi* api;
  std::uint32_t site;
  std::int64_t rows_per_sample;
  float scale;
  std::int32_t zero_point;
  char storage_format[16];
  char node[96];
};

OrtStatus* fail(const OrtApi* api, const char* node, const char* problem) {
  Message line;
  line.set("NoisyStore '%.95s': %s", node, problem);
  return ort::CreateStatus(api, ort::kInvalidArgument, line.text);
}

// An optional attribute: what is absent leaves `value` as it is.
template <class Getter, class T>
void read_attribute(const OrtApi* api, const Getter& getter, const ort::KernelInfo* info,
                    const char* name, T* value) {
  T read;
  if (OrtStatus* absent = getter(api, info, name, &read)) {
    ort::ReleaseStatus(api, absent);
  } else {
    *value = read;
  }
}

OrtStatus* read_attributes(const ort::KernelInfo* info, Kernel& kernel) {
  const OrtApi* api = kernel.api;
  std::size_t size = sizeof kernel.node;
  if (OrtStatus* absent = ort::KernelInfo_GetNodeName(api, info, kernel.node, &size)) {
    ort::ReleaseStatus(api, absent);
    std::strcpy(kernel.node, "(name too long)");
  }
  std::int64_t site = -1, zero_point = 0;
  read_attribute(api, ort::KernelInfoGetAttribute_int64, info, "site", &site);
  if (site < 0 || site > 0xFFFFFFFFll) {
    return fail(api, kernel.node, "attribute 'site' is missing or not in 0..2^32-1");
  }
  kernel.site = static_cast<std::uint32_t>(site);
  read_attribute(api, ort::KernelInfoGetAttribute_int64, info, "rows_per_sample",
                 &kernel.rows_per_sample);
  read_attribute(api, ort::KernelInfoGetAttribute_float, info, "scale", &kernel.scale);
  read_attribute(api, ort::KernelInfoGetAttribute_int64, info, "zero_point", &zero_point);
  if (zero_point != static_cast<std::int32_t>(zero_point)) {
    return fail(api, kernel.node, "attribute 'zero_point' does not fit 32 bits");
  }
  kernel.zero_point = static_cast<std::int32_t>(zero_point);

  size = 0;  // the first call tells the size and fails or not by version; the second reads
  OrtStatus* absent =
      ort::KernelInfoGetAttribute_string(api, info, "storage_format", nullptr, &size);
  if (absent != nullptr) ort::ReleaseStatus(api, absent);
  if (size > 0) {
    if (size > sizeof kernel.storage_format) {
      return fail(api, kernel.node, "attribute 'storage_format' names no known format");
    }
    RETURN_IF_ERROR(ort::KernelInfoGetAttribute_string(api, info, "storage_format",
                                                       kernel.storage_format, &size));
  }
  Message problem;
  if (!check_site(kernel.storage_format, kernel.scale, kernel.zero_point, kernel.rows_per_sample,
                  problem)) {
    return fail(api, kernel.node, problem.text);
  }
  return nullptr;
}

struct Tensor {
  int type = 0;
  std::size_t rank = 0;
  std::int64_t shape[kMaxRank] = {};
  void* data = nullptr;
};

OrtStatus* read_tensor(const Kernel& kernel, const ort::KernelContext* context, std::size_t index,
                       Tensor& tensor) {
  const OrtApi* api = kernel.api;
  const ort::Value* value = nullptr;
  RETURN_IF_ERROR(ort::KernelContext_GetInput(api, context, index, &value));
  if (value == nullptr) return fail(api, kernel.node, "an input is missing");
  ort::TensorTypeAndShapeInfo* info = nullptr;
  RETURN_IF_ERROR(ort::GetTensorTypeAndShape(api, value, &info));
  OrtStatus* status = ort::GetTensorElementType(api, info, &tensor.type);
  if (status == nullptr) status = ort::GetDimensionsCount(api, info, &tensor.rank);
  if (status == nullptr && tensor.rank > kMaxRank) {
    status = fail(api, kernel.node, "an input has more than 64 axes");
  }
  if (status == nullptr) status = ort::GetDimensions(api, info, tensor.shape, tensor.rank);
  ort::ReleaseTensorTypeAndShapeInfo(api, info);
  if (status != nullptr) return status;
  return ort::GetTensorMutableData(api, const_cast<ort::Value*>(value), &tensor.data);
}

// The four noise inputs, checked for shape, and this site's part of them.
OrtStatus* read_noise(const Kernel& kernel, const ort::KernelContext* context,
                      noisystore_call& call) {
  Tensor rates, masks, seed, samples;
  RETURN_IF_ERROR(read_tensor(kernel, context, kBitErrorRate, rates));
  RETURN_IF_ERROR(read_tensor(kernel, context, kBitMask, masks));
  RETURN_IF_ERROR(read_tensor(kernel, context, kSeed, seed));
  RETURN_IF_ERROR(read_tensor(kernel, context, kSampleIndex, samples));
  Message problem;
  bool good = true;
  const auto extent = [](const Tensor& t) { return static_cast<long long>(t.shape[0]); };
  if (rates.rank != 2 || rates.shape[1] != 2) {
    good = problem.set("bit_error_rate: expected shape [sites, 2], got %zu axes, the last of %lld",
                       rates.rank,
                       rates.rank == 0 ? 0 : static_cast<long long>(rates.shape[rates.rank - 1]));
  } else if (rates.shape[0] <= static_cast<std::int64_t>(kernel.site)) {
    good = problem.set("bit_error_rate: has %lld rows, but this is site %u", extent(rates),
                       kernel.site);
  } else if (masks.rank != 1 || masks.shape[0] != rates.shape[0]) {
    good = problem.set("bit_mask: expected shape [%lld], one element a row of bit_error_rate",
                       extent(rates));
  } else if (seed.rank != 1 || seed.shape[0] != 1) {
    good = problem.set("seed: expected shape [1]");
  } else if (samples.rank != 1) {
    good = problem.set("sample_index: expected shape [1] or [samples]");
  }
  if (!good) return fail(kernel.api, kernel.node, problem.text);
  const double* rate = static_cast<const double*>(rates.data) + std::size_t{2} * kernel.site;
  call.p01 = rate[0];
  call.p10 = rate[1];
  call.bit_mask = static_cast<const std::uint64_t*>(masks.data)[kernel.site];
  call.seed = *static_cast<const std::int64_t*>(seed.data);
  call.sample_index = static_cast<const std::int64_t*>(samples.data);
  call.sample_index_count = static_cast<std::uint64_t>(samples.shape[0]);
  return nullptr;
}

struct Parts {
  const Call* call;
  const void* x;
  void* y;
  std::size_t count;
};

void store_part(void* parts_of_call, std::size_t index) {
  const Parts& parts = *static_cast<const Parts*>(parts_of_call);
  const std::uint64_t blocks = parts.call->blocks();
  const std::uint64_t first = blocks / parts.count * index + std::min(blocks % parts.count, index);
  const std::uint64_t size = blocks / parts.count + (index < blocks % parts.count);
  store_range(*parts.call, parts.x, parts.y, first, first + size);
}

// One run of a node: the checked call, and where X and Y lie.
struct Run {
  Call call;
  const void* x = nullptr;
  void* y = nullptr;
  bool empty() const { return call.samples == 0 || call.elements == 0; }
};

OrtStatus* prepare(const Kernel& kernel, ort::KernelContext* context, Run& run) {
  Tensor x;
  RETURN_IF_ERROR(read_tensor(kernel, context, kX, x));
  noisystore_call description{};
  description.struct_size = sizeof description;
  description.type = x.type;
  description.storage_format = kernel.storage_format;
  description.scale = kernel.scale;
  description.zero_point = kernel.zero_point;
  description.shape = x.shape;
  description.rank = static_cast<std::uint32_t>(x.rank);
  description.site = kernel.site;
  description.rows_per_sample = kernel.rows_per_sample;
  RETURN_IF_ERROR(read_noise(kernel, context, description));
  Message problem;
  if (!make_call(description, false, run.call, problem)) {
    return fail(kernel.api, kernel.node, problem.text);
  }
  ort::Value* output = nullptr;
  RETURN_IF_ERROR(ort::KernelContext_GetOutput(kernel.api, context, 0, x.shape, x.rank, &output));
  run.x = x.data;
  return ort::GetTensorMutableData(kernel.api, output, &run.y);
}

}  // namespace

OrtStatus* compute(void* op_kernel, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(op_kernel);
  Run run;
  RETURN_IF_ERROR(prepare(kernel, context, run));
  if (run.empty()) return nullptr;
  const double ns = estimate_ns(run.call, run.x == run.y);
  Parts parts{&run.call, run.x, run.y, 1};
  if (ns > kSplitAboveNs) {
    parts.count = std::min({static_cast<std::size_t>(ns / kPartNs), kMaxParts,
                            static_cast<std::size_t>(run.call.blocks())});
  }
  if (parts.count > 1) {
    return ort::KernelContext_ParallelFor(kernel.api, context, store_part, parts.count, 0, &parts);
  }
  store_part(&parts, 0);
  return nullptr;
}

OrtStatus* compute_on_cuda(void* op_kernel, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(op_kernel);
  Run run;
  RETURN_IF_ERROR(prepare(kernel, context, run));
  void* stream = nullptr;
  RETURN_IF_ERROR(ort::KernelContext_GetGPUComputeStream(kernel.api, context, &stream));
  Message problem;
  if (store_on_cuda(run.call, run.x, run.y, stream, problem)) return nullptr;
  return fail(kernel.api, kernel.node, problem.text);
}

OrtStatus* create_kernel(const ort::CustomOp*, const OrtApi* api, const ort::KernelInfo* info,
                         void** out) {
  std::unique_ptr<Kernel> kernel(new (std::nothrow) Kernel{api, 0, 1, 1.0f, 0, "native", ""});
  if (!kernel) return ort::CreateStatus(api, ort::kFail, "NoisyStore: out of memory");
  RETURN_IF_ERROR(read_attributes(info, *kernel));
  *out = kernel.release();
  return nullptr;
}

void destroy_kernel(void* op_kernel) { delete static_cast<Kernel*>(op_kernel); }

}  // namespace noisystore
