// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace emulator {
namespace {

constexpr std::size_t kLargest = std::size_t{16} << 20;  // that keeps book

void* map(std::size_t size, int protection) {
  void* at = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : at;
}

}  // namespace

Block::Block(std::size_t size, int device)
    : data_(
          static_cast<unsigned char*>(map(std::max<std::size_t>(size, 1), PROT_READ | PROT_WRITE))),
      size_(size),
      device_(device) {
  if (data_ == nullptr) throw std::bad_alloc();
  if (size > kLargest) return;
  std::memset(data_, 0xA5, size);
  written_.resize(size);
  uses_.resize(size);
}

Block::~Block() { munmap(data_, std::max<std::size_t>(size_, 1)); }

void Block::mark_written(std::size_t at, std::size_t size) {
  if (written_.empty()) return;
  std::fill_n(written_.begin() + static_cast<std::ptrdiff_t>(at), size, std::uint8_t{1});
}

void Block::mark_as(std::size_t at, std::size_t size, const Block& source, std::size_t source_at) {
  if (written_.empty() || source.written_.empty()) return mark_written(at, size);
  std::memmove(written_.data() + at, source.written_.data() + source_at, size);
}

void Block::forget_uses() {
  for (const std::size_t at : used_) uses_[at] = {};
  used_.clear();
}

const char* Block::access(std::size_t at, std::size_t size, Access access, std::uint32_t thread) {
  if (written_.empty()) return nullptr;
  constexpr std::uint32_t kMany = ~0u;
  const std::uint32_t mine = thread + 1;
  for (std::size_t i = at; i < at + size; ++i) {
    Use& use = uses_[i];
    if (use.writer == 0 && use.reader == 0) used_.push_back(i);
    if (access != Access::kWrite && !written_[i]) return "reads what was never written";
    const bool others_write = use.writer != 0 && use.writer != mine;
    if (access == Access::kRead) {
      if (others_write) return "reads what another thread writes";
      use.reader = use.reader == 0 || use.reader == mine ? mine : kMany;
      continue;
    }
    const bool together = access == Access::kAtomic && use.atomic;
    if (others_write && !together) return "writes what another thread writes";
    if (use.reader != 0 && use.reader != mine) return "writes what another thread reads";
    use.atomic = access == Access::kAtomic && (use.writer == 0 || use.atomic);
    use.writer = others_write ? kMany : mine;
    written_[i] = 1;
  }
  return nullptr;
}

DeviceMemory::DeviceMemory()
    : first_(reinterpret_cast<std::uint64_t>(map(kRoom, PROT_NONE))), next_(first_ + 512) {
  if (first_ == 0) throw std::bad_alloc();
}

std::uint64_t DeviceMemory::allocate(std::size_t size, int device) {
  const std::size_t room = (std::max<std::size_t>(size, 1) + 511) / 256 * 256;  // and a gap
  if (size > kCapacity - allocated_ || next_ + room > first_ + kRoom) return 0;
  const std::uint64_t address = next_;
  blocks_[address] = new Block(size, device);
  next_ += room;
  allocated_ += size;
  return address;
}

bool DeviceMemory::release(std::uint64_t address) {
  const auto found = blocks_.find(address);
  if (found == blocks_.end()) return false;
  allocated_ -= found->second->size();
  delete found->second;
  blocks_.erase(found);
  return true;
}

Block* DeviceMemory::find(std::uint64_t address, std::size_t& inside) {
  auto found = blocks_.upper_bound(address);
  if (found == blocks_.begin()) return nullptr;
  --found;
  inside = address - found->first;
  return inside < found->second->size() ? found->second : nullptr;
}

void DeviceMemory::forget_uses() {
  for (const auto& [address, block] : blocks_) block->forget_uses();
}

DeviceMemory& memory() {
  static DeviceMemory* all = new DeviceMemory;  // lives as long as the process
  return *all;
}

}  // namespace emulator
