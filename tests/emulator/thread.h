// SPDX-License-Identifier: Apache-2.0
// A thread of an emulated kernel, as operations see it.
#pragma once

#include <cstring>

#include "memory.h"
#include "ptx.h"

namespace emulator {

enum class State : std::uint8_t { kRuns, kWaits, kEnded };

// What the threads of a group have together.
struct Group {
  const Kernel* kernel;
  const unsigned char* parameters;
  Block* shared;
  int device;
  // The allocation used last: most accesses fall into it.
  std::uint64_t found_at = 0;
  Block* found = nullptr;
};

struct Thread {
  std::uint64_t* slots;
  unsigned char* local;
  Group* group;
  std::uint32_t number;  // in the grid
  std::uint32_t at = 0;  // the next instruction
  State state = State::kRuns;
};

template <class T>
T get(const Thread& thread, std::uint32_t slot) {
  T value;
  std::memcpy(&value, thread.slots + slot, sizeof value);  // little-endian
  return value;
}

// Signed values fill the whole slot, so that wider registers hold them, too.
template <class T>
void set(Thread& thread, std::uint32_t slot, T value) {
  if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
    const auto wide = static_cast<std::int64_t>(value);
    std::memcpy(thread.slots + slot, &wide, sizeof wide);
  } else {
    thread.slots[slot] = 0;
    std::memcpy(thread.slots + slot, &value, sizeof value);
  }
}

// Gives the memory of an access after its checks; raises Error.
unsigned char* reach(Thread& thread, const Instruction& instruction, std::uint32_t address_slot,
                     std::size_t size, Block::Access access);

}  // namespace emulator
