// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <numeric>
#include <random>

#include "thread.h"

namespace emulator {
namespace {

using Access = Block::Access;
constexpr std::uint64_t kWarp = 32;  // threads that come to a barrier together

[[noreturn]] void refuse(const Instruction& instruction, std::size_t size, const std::string& why,
                         std::uint64_t address) {
  char where[80];
  std::snprintf(where, sizeof where, "line %u of its PTX, %zu bytes at 0x%llx: ", instruction.line,
                size, static_cast<unsigned long long>(address));
  throw Error(where + why);
}

}  // namespace

unsigned char* reach(Thread& thread, const Instruction& instruction, std::uint32_t address_slot,
                     std::size_t size, Access access) {
  Group& group = *thread.group;
  const std::uint64_t address =
      get<std::uint64_t>(thread, address_slot) + static_cast<std::uint64_t>(instruction.offset);
  const auto bad = [&](const char* why) { refuse(instruction, size, why, address); };
  if (address % size != 0) bad("misaligned");
  const auto tag = static_cast<Space>(address >> kSpaceShift);
  const std::uint64_t offset = address & (tagged(Space::kGlobal, 0) - 1);
  Space space = instruction.space;
  if (space == Space::kGeneric) space = tag;
  if (tag != Space::kGeneric && tag != space) bad("an address of another space");
  const auto inside = [&](std::uint64_t bytes) {
    if (offset > bytes || size > bytes - offset) bad("outside");
  };
  const char* wrong = nullptr;
  switch (space) {
    case Space::kParam:
      inside(group.kernel->parameter_bytes);
      if (access != Access::kRead) bad("parameters are only read");
      return const_cast<unsigned char*>(group.parameters) + offset;
    case Space::kLocal:
      inside(group.kernel->local_bytes);
      return thread.local + offset;
    case Space::kShared:
      inside(group.kernel->shared_bytes);
      wrong = group.shared->access(offset, size, access, thread.number);
      if (wrong != nullptr) bad(wrong);
      return group.shared->data() + offset;
    default:
      break;
  }
  if (group.found == nullptr || offset < group.found_at ||
      offset - group.found_at + size > group.found->size()) {
    std::size_t at = 0;
    Block* block = memory().find(offset, at);
    if (block == nullptr || size > block->size() - at) bad("outside of what is allocated");
    if (block->device() != group.device) bad("memory of another device");
    group.found = block;
    group.found_at = offset - at;
  }
  const std::size_t at = offset - group.found_at;
  wrong = group.found->access(at, size, access, thread.number);
  if (wrong != nullptr) bad(wrong);
  return group.found->data() + at;
}

namespace {

void advance(Thread& thread) {
  const std::vector<Instruction>& code = thread.group->kernel->code;
  thread.state = State::kRuns;
  while (thread.state == State::kRuns) {
    if (thread.at >= code.size()) throw Error("it runs past its end");
    const Instruction& instruction = code[thread.at++];
    if (instruction.guard >= 0 && (thread.slots[instruction.guard] != 0) == instruction.unless) {
      continue;
    }
    instruction.run(thread, instruction);
  }
}

// Thread `i` of group `g` learns where it is, and how many there are.
void set_special(Thread& thread, const Grid& grid, std::uint64_t g, std::uint64_t i) {
  const std::uint32_t x = grid.threads[0], y = grid.threads[1];
  const std::uint32_t gx = grid.groups[0], gy = grid.groups[1];
  const std::uint64_t special[kSpecials] = {
      i % x,  i / x % y,   i / x / y,   grid.threads[0], grid.threads[1], grid.threads[2],
      g % gx, g / gx % gy, g / gx / gy, grid.groups[0],  grid.groups[1],  grid.groups[2]};
  std::copy_n(special, std::size_t{kSpecials}, thread.slots);
}

}  // namespace

void run_grid(const Kernel& kernel, const Grid& grid, const std::vector<unsigned char>& parameters,
              int device) {
  static std::uint64_t launches = 0;
  std::mt19937_64 random(++launches);
  const std::uint64_t threads = std::uint64_t{grid.threads[0]} * grid.threads[1] * grid.threads[2];
  const std::uint64_t groups = std::uint64_t{grid.groups[0]} * grid.groups[1] * grid.groups[2];
  const auto beyond = [&](int axis) { return grid.groups[axis] > 65535; };
  if (threads == 0 || groups == 0 || threads > kernel.most_threads || beyond(1) || beyond(2)) {
    throw Error("a grid of a forbidden size");
  }
  std::vector<std::uint64_t> slots(threads * kernel.slots);
  std::vector<unsigned char> local(threads * kernel.local_bytes);
  std::vector<Thread> all(threads);
  std::vector<std::uint32_t> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  std::vector<std::uint32_t> group_order(groups);
  std::iota(group_order.begin(), group_order.end(), 0u);
  std::shuffle(group_order.begin(), group_order.end(), random);
  for (const std::uint64_t g : group_order) {
    Block shared(kernel.shared_bytes, device);
    Group group{&kernel, parameters.data(), &shared, device};
    // Registers and local memory hold anything at first.
    std::uint64_t anything = random();
    for (std::uint64_t& slot : slots) slot = anything += 0x9E3779B97F4A7C15u;
    std::fill(local.begin(), local.end(), static_cast<unsigned char>(anything));
    for (std::uint32_t i = 0; i < threads; ++i) {
      Thread& thread = all[i];
      thread = {slots.data() + std::size_t{i} * kernel.slots,
                local.data() + std::size_t{i} * kernel.local_bytes, &group,
                static_cast<std::uint32_t>(g * threads + i)};
      set_special(thread, grid, g, i);
      for (const auto& [slot, value] : kernel.constants) thread.slots[slot] = value;
    }
    std::shuffle(order.begin(), order.end(), random);
    for (bool again = true; again;) {
      std::uint64_t waiting = 0;
      for (const std::uint32_t i : order) {
        if (all[i].state == State::kEnded) continue;
        advance(all[i]);
        waiting += all[i].state == State::kWaits;
      }
      if (waiting != 0 && waiting != threads) throw Error("a barrier that not all threads reach");
      for (std::uint64_t i = 1; waiting != 0 && i < threads; ++i) {
        if (i % kWarp != 0 && all[i].at != all[i - 1].at) throw Error("two barriers in one warp");
      }
      again = waiting != 0;
      shared.forget_uses();
    }
  }
  memory().forget_uses();
}

}  // namespace emulator
