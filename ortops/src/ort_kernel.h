// SPDX-License-Identifier: Apache-2.0
// One node of the operator in ONNX Runtime: made of its attributes, run on a processor or a device.
#pragma once

#include <cstddef>

#include "ort_abi.h"

#define RETURN_IF_ERROR(expression)                                      \
  do {                                                                   \
    if (OrtStatus* status_of_call = (expression)) return status_of_call; \
  } while (false)

namespace noisystore {

enum Input : std::size_t { kX, kBitErrorRate, kBitMask, kSeed, kSampleIndex, kInputs };

inline constexpr std::size_t kMaxRank = 64;

OrtStatus* create_kernel(const ort::CustomOp*, const OrtApi* api, const ort::KernelInfo* info,
                         void** out);
void destroy_kernel(void* op_kernel);

// One run of a node, on the session's own threads, or queued on the provider's stream.
OrtStatus* compute(void* op_kernel, ort::KernelContext* context);
OrtStatus* compute_on_cuda(void* op_kernel, ort::KernelContext* context);

}  // namespace noisystore
