// SPDX-License-Identifier: Apache-2.0
// Checks of a call's description, and its geometry: samples, elements, blocks.
#include "checked_call.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "floating_point_mode.h"

namespace noisystore {
namespace {

bool geometry(const noisystore_call& in, Call& call, Message& message) {
  bool empty = false;
  for (std::uint32_t i = 0; i < in.rank; ++i) {
    if (in.shape[i] < 0) {
      return message.set("X: extent of axis %u is negative (%lld)", i,
                         static_cast<long long>(in.shape[i]));
    }
    empty |= in.shape[i] == 0;
  }
  std::uint64_t total = empty ? 0 : 1;
  for (std::uint32_t i = 0; i < in.rank && !empty; ++i) {
    if (__builtin_mul_overflow(total, static_cast<std::uint64_t>(in.shape[i]), &total)) {
      return message.set("X: the number of elements exceeds 64 bits");
    }
  }
  if (total >> 58 != 0) return message.set("X: the number of bits exceeds 64 bits");
  call.samples = 1;
  if (in.rows_per_sample > 0) {
    const std::int64_t rows = in.rank > 0 ? in.shape[0] : 1;
    if (rows % in.rows_per_sample != 0) {
      return message.set("X: axis 0 has %lld rows, which is no multiple of rows_per_sample = %lld",
                         static_cast<long long>(rows), static_cast<long long>(in.rows_per_sample));
    }
    call.samples = static_cast<std::uint64_t>(rows / in.rows_per_sample);
    if (call.samples >> 32 != 0) return message.set("X: has 2^32 samples or more");
  }
  call.elements = call.samples == 0 ? 0 : total / call.samples;
  return true;
}

bool is_native(const char* storage_format) {
  return storage_format == nullptr || std::strcmp(storage_format, "native") == 0;
}

bool check_rows(std::int64_t rows_per_sample, Message& message) {
  if (rows_per_sample >= -1) return true;
  return message.set("rows_per_sample: expected -1, 0 or a positive number, got %lld",
                     static_cast<long long>(rows_per_sample));
}

bool bad_rate(double rate) { return !(rate >= 0 && rate <= 1); }

}  // namespace

bool Message::set(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return false;
}

bool check_site(const char* storage_format, float scale, std::int32_t zero_point,
                std::int64_t rows_per_sample, Message& message) {
  Storage storage;
  return find_storage(NOISYSTORE_FLOAT, storage_format, scale, zero_point, storage, message) &&
         check_rows(rows_per_sample, message);
}

bool find_storage(std::int32_t type, const char* storage_format, float scale,
                  std::int32_t zero_point, Storage& storage, Message& message) {
  if (!find_type(type, storage.type)) {
    return message.set(
        "X: element type %d is not supported; expected float32, float64, float16, bfloat16, "
        "int8, uint8 or int32",
        type);
  }
  storage.format = storage.type;
  storage.quantization = {};
  if (is_native(storage_format)) return true;
  const FormatInfo& own = info(storage.type);
  if (!find_format(storage_format, storage.format)) {
    return message.set(
        "storage_format: unknown format '%.40s'; expected native, float16, bfloat16, float32, "
        "float64, float8e4m3fn, float8e5m2, int8, uint8, int4 or uint4",
        storage_format);
  }
  if (own.is_integer() && storage.converts()) {
    const bool named = storage.type != Format::kInt32;
    return message.set(
        "storage_format: a tensor of %s is stored as it is; expected native%s%s, got '%s'",
        own.name, named ? " or " : "", named ? own.name : "", storage_format);
  }
  const FormatInfo& format = info(storage.format);
  if (!storage.converts() || !format.is_integer()) return true;
  const auto bits = bits_as<std::uint32_t>(scale);  // a thread that flushes takes some scales for 0
  if (bits == 0 || bits >= Float32::kExponent) {
    return message.set("scale: expected a finite number above 0 for %s, got %g", format.name,
                       static_cast<double>(scale));
  }
  if (zero_point < format.lowest || zero_point > format.highest) {
    return message.set("zero_point: expected an integer from %d to %d for %s, got %d",
                       format.lowest, format.highest, format.name, zero_point);
  }
  storage.quantization = {scale, zero_point, format.lowest, format.highest};
  return true;
}

bool make_call(const noisystore_call& in, bool count_only, Call& call, Message& message) {
  const FloatingPointMode nearest_and_unflushed;
  if (in.struct_size != sizeof(noisystore_call)) {
    return message.set("noisystore_call: struct_size is %u, this library expects %zu",
                       in.struct_size, sizeof(noisystore_call));
  }
  if (in.rank > 0 && in.shape == nullptr) return message.set("X: no shape is given");
  if (!find_storage(in.type, in.storage_format, in.scale, in.zero_point, call.storage, message) ||
      !check_rows(in.rows_per_sample, message) || !geometry(in, call, message)) {
    return false;
  }
  if (bad_rate(in.p01) || bad_rate(in.p10)) {
    return message.set("bit_error_rate: expected p01 and p10 in [0, 1], got (%g, %g) at site %u",
                       in.p01, in.p10, in.site);
  }
  static const std::int64_t kSampleZero = 0;
  call.sample_index = in.rows_per_sample == 0 ? &kSampleZero : in.sample_index;
  call.sample_index_is_list = false;
  if (in.rows_per_sample != 0) {
    const bool none_needed = in.rows_per_sample > 0 && call.samples == 0;
    if (!none_needed && (in.sample_index == nullptr || in.sample_index_count == 0)) {
      return message.set("sample_index: expected one value or one a sample, got none");
    }
    if (in.rows_per_sample > 0 && in.sample_index_count != 1) {
      if (in.sample_index_count != call.samples) {
        return message.set("sample_index: expected 1 value or %llu (one a sample of X), got %llu",
                           static_cast<unsigned long long>(call.samples),
                           static_cast<unsigned long long>(in.sample_index_count));
      }
      call.sample_index_is_list = true;
    }
  }
  const FormatInfo& format = info(call.storage.format);
  const std::uint64_t can_flip = ~std::uint64_t{0} >> (64 - format.noisy_bits);
  const bool upper_bound = count_only && (in.p01 >= kDenseRate || in.p10 >= kDenseRate);
  const double larger = in.p01 > in.p10 ? in.p01 : in.p10;
  make_sampler(upper_bound ? larger : in.p01, upper_bound ? larger : in.p10, format.word_bits,
               in.bit_mask & can_flip, in.seed, in.site, call.sampler);
  const std::uint64_t size = block_elements(call.sampler);
  call.blocks_per_sample = call.elements / size + (call.elements % size != 0);
  if (call.blocks_per_sample > kMaxBlocks && call.sampler.regime != Regime::kNone) {
    return message.set("X: a sample of %llu elements needs more than 2^32 blocks",
                       static_cast<unsigned long long>(call.elements));
  }
  return true;
}

}  // namespace noisystore
