// SPDX-License-Identifier: Apache-2.0
// PTX, the code of NVIDIA's virtual machine, as nvcc writes it (NVIDIA: "PTX ISA"): as much of it
// as the kernels of cuda.cu need. What is not known is refused, never guessed.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

struct Thread;
struct Instruction;
using Run = void (*)(Thread&, const Instruction&);

enum class Space : std::uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam };

// Addresses of 64 bits hold their space in the highest byte; those of the device's memory are
// what cudaMalloc gives. Addresses inside a space have none there.
inline constexpr unsigned kSpaceShift = 56;
inline constexpr std::uint64_t tagged(Space space, std::uint64_t offset) {
  return static_cast<std::uint64_t>(space) << kSpaceShift | offset;
}

struct Instruction {
  Run run = nullptr;
  // Slots of a thread's registers; constants and special registers have slots, too.
  std::uint32_t to[4] = {}, from[5] = {};
  std::int64_t offset = 0;   // of an address
  std::uint32_t target = 0;  // of a branch: an instruction
  std::int32_t guard = -1;   // slot of a predicate
  bool unless = false;       // the predicate must be false
  Space space = Space::kGeneric;
  std::uint8_t vector = 1;  // elements of a load or store
  std::uint32_t line = 0;   // of the text
};

enum Special : std::uint32_t {
  kTid,
  kNtid = kTid + 3,
  kCtaid = kNtid + 3,
  kNctaid = kCtaid + 3,
  kSpecials = kNctaid + 3
};

struct Kernel {
  std::string name;
  std::vector<std::uint32_t> parameter_offset, parameter_size;
  std::uint32_t most_threads = 1024;  // of a group
  std::uint32_t parameter_bytes = 0, shared_bytes = 0, local_bytes = 0;
  std::uint32_t slots = kSpecials;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> constants;  // slot, value
  std::vector<Instruction> code;
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Reads the text of a module; raises Error with the line that it does not know.
std::map<std::string, Kernel> parse(const std::string& text);

// What an instruction's name does, for example "add.s32"; fills in what the name says of the
// instruction (space, vector). Raises Error for a name that is not known.
Run find_operation(const std::string& name, Instruction& instruction);

struct Grid {
  std::uint32_t groups[3], threads[3];
};

// Runs a grid to its end, groups one after the other, threads in a shuffled order from barrier to
// barrier. Raises Error for what a device would not do, or do by chance: memory out of bounds,
// misaligned or never written, races, barriers that not all threads reach.
void run_grid(const Kernel& kernel, const Grid& grid, const std::vector<unsigned char>& parameters,
              int device);

}  // namespace emulator
