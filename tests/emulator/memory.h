// SPDX-License-Identifier: Apache-2.0
// Memory of emulated devices. Its addresses belong to no page of the host, which faults where it
// reads or writes there, as with a real device. Every byte knows whether it was written, and which
// thread of the running kernel has read or written it; blocks of more than 16 MiB do without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace emulator {

// Who has used a byte since the last barrier, or since the kernel began.
struct Use {
  std::uint32_t writer = 0, reader = 0;  // number of a thread + 1
  bool atomic = false;                   // it was written in atomic operations only
};

// One allocation, or the memory that a group of threads shares.
class Block {
 public:
  Block(std::size_t size, int device);
  ~Block();
  Block(const Block&) = delete;
  unsigned char* data() const { return data_; }
  std::size_t size() const { return size_; }
  int device() const { return device_; }
  void mark_written(std::size_t at, std::size_t size);
  // Marks what is written as far as the source of a copy was.
  void mark_as(std::size_t at, std::size_t size, const Block& source, std::size_t source_at);
  void forget_uses();

  enum class Access { kRead, kWrite, kAtomic };
  // Gives what is wrong with an access of a thread, or null.
  const char* access(std::size_t at, std::size_t size, Access access, std::uint32_t thread);

 private:
  unsigned char* data_;
  std::size_t size_;
  int device_;
  std::vector<std::uint8_t> written_;
  std::vector<Use> uses_;
  std::vector<std::size_t> used_;  // bytes whose use is to be forgotten
};

class DeviceMemory {
 public:
  DeviceMemory();
  // Gives 0 where there is no room.
  std::uint64_t allocate(std::size_t size, int device);
  bool release(std::uint64_t address);
  // Gives the allocation that holds an address, and where in it; null where there is none.
  Block* find(std::uint64_t address, std::size_t& inside);
  bool is_device(std::uint64_t address) const {
    return address >= first_ && address < first_ + kRoom;
  }
  void forget_uses();
  std::size_t allocated() const { return allocated_; }
  static constexpr std::size_t kCapacity = std::size_t{8} << 30;

 private:
  static constexpr std::uint64_t kRoom = std::uint64_t{1} << 42;
  std::uint64_t first_, next_;
  std::size_t allocated_ = 0;
  std::map<std::uint64_t, Block*> blocks_;
};

DeviceMemory& memory();

}  // namespace emulator
