// SPDX-License-Identifier: Apache-2.0
// The plain functions of noisystore.h.
#include <cstdio>
#include <cstring>

#include "checked_call.h"

#if !defined(NOISYSTORE_VERSION)
#error "the build defines NOISYSTORE_VERSION"
#endif

namespace {

int report(const noisystore::Message& message, char* out, size_t size) {
  if (out != nullptr && size > 0) std::snprintf(out, size, "%s", message.text);
  return 1;
}

}  // namespace

extern "C" {

int noisystore_apply(const noisystore_call* call, const void* x, void* y, char* message,
                     size_t message_size) {
  noisystore::Call checked;
  noisystore::Message problem;
  if (!noisystore::make_call(*call, false, checked, problem)) {
    return report(problem, message, message_size);
  }
  if (checked.samples > 0 && checked.elements > 0) {
    noisystore::store_range(checked, x, y, 0, checked.blocks());
  }
  return 0;
}

int noisystore_count_flips(const noisystore_call* call, int64_t* flips, char* message,
                           size_t message_size) {
  noisystore::Call checked;
  noisystore::Message problem;
  if (!noisystore::make_call(*call, true, checked, problem)) {
    return report(problem, message, message_size);
  }
  std::memset(flips, 0, checked.samples * sizeof *flips);
  if (checked.samples > 0 && checked.elements > 0 &&
      checked.sampler.regime != noisystore::Regime::kNone) {
    noisystore::available_kernels()[0]->count(checked, flips, 0, checked.blocks());
  }
  return 0;
}

uint64_t noisystore_samples(const noisystore_call* call) {
  if (call->rows_per_sample <= 0) return 1;
  const int64_t rows = call->rank > 0 ? call->shape[0] : 1;
  return rows < 0 ? 0 : static_cast<uint64_t>(rows / call->rows_per_sample);
}

const char* noisystore_version(void) { return NOISYSTORE_VERSION; }

int noisystore_noise_model(void) { return NOISYSTORE_NOISE_MODEL; }

const char* noisystore_instruction_set(void) { return noisystore::available_kernels()[0]->name; }

}  // extern "C"
