// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "device.h"

namespace emulator {
namespace {

template <class T>
T read(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

// As .ci/gpu_code.py reads it: a container with a header, then pieces with a header each.
std::string ptx_of(const void* fat_binary) {
  // __fatBinC_Wrapper_t: magic, version, data.
  const auto* data = read<const unsigned char*>(static_cast<const unsigned char*>(fat_binary) + 8);
  if (read<std::uint32_t>(data) != 0xBA55ED50) return {};
  const unsigned char* at = data + read<std::uint16_t>(data + 6);
  const unsigned char* end = at + read<std::uint64_t>(data + 8);
  std::string found;
  while (at < end) {
    const auto kind = read<std::uint16_t>(at);
    const auto header = read<std::uint32_t>(at + 4);
    const auto size = read<std::uint64_t>(at + 8);
    const auto* text = reinterpret_cast<const char*>(at + header);
    if (kind == 1 && std::memchr(text, 0, size) != nullptr &&
        std::strstr(text, ".version") != nullptr) {
      if (!found.empty()) throw Error("several PTX in one fat binary");
      found = text;
    }
    at += header + size;
  }
  return found;
}

}  // namespace emulator
