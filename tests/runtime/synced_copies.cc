// SPDX-License-Identifier: Apache-2.0
// Preloaded into a program: after each fsync or fdatasync of a file, FILE.disk holds what was
// synced.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace {

using Sync = int (*)(int);

void Copy(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return;
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = readlink(link.c_str(), path, sizeof path);
  if (length <= 0 || length == sizeof path) return;
  const std::string target = std::string(path, length) + ".disk";
  const std::string fresh = target + ".new";
  const int out = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (out < 0) return;
  std::string data(status.st_size, '\0');
  const ssize_t got = pread(fd, data.data(), data.size(), 0);
  const bool whole = got == status.st_size && write(out, data.data(), got) == got;
  close(out);
  if (whole) std::rename(fresh.c_str(), target.c_str());
}

int Synced(int fd, const char* name) {
  const int result = reinterpret_cast<Sync>(dlsym(RTLD_NEXT, name))(fd);
  if (result == 0) Copy(fd);
  return result;
}

}  // namespace

extern "C" int fsync(int fd) { return Synced(fd, "fsync"); }
extern "C" int fdatasync(int fd) { return Synced(fd, "fdatasync"); }
