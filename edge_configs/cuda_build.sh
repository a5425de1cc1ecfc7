# SPDX-License-Identifier: Apache-2.0
# What the install scripts share: looking for the compilers that build CUDA kernels on a board.

# Prints the driver's CUDA version and the first device's compute capability, as in "12.6 87".
ask_driver() {
  "$python" - <<'PYTHON'
import ctypes

cuda = ctypes.CDLL("libcuda.so.1")
version, device, numbers = ctypes.c_int(), ctypes.c_int(), []
if cuda.cuInit(0) or cuda.cuDriverGetVersion(ctypes.byref(version)) or cuda.cuDeviceGet(
    ctypes.byref(device), 0
):
    raise SystemExit("no CUDA device answers")
for attribute in (75, 76):
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    numbers.append(value.value)
print(f"{version.value // 1000}.{version.value % 1000 // 10} {numbers[0]}{numbers[1]}")
PYTHON
}

# usage: nvcc_release NVCC; prints 12.6, or 0 for none
nvcc_release() {
  local release=
  if [ -n "$1" ]; then release=$("$1" --version | sed -n 's/.*release \([0-9]*\.[0-9]*\).*/\1/p'); fi
  echo "${release:-0}"
}

# Looks for a C++ compiler and an nvcc that fits this board's driver. Sets nvcc, and architectures
# where that is empty; adds to problems what is missing. Reads python.
look_for_compilers() {
  local compiler release driver driver_cuda capability known architecture
  compiler=${CXX:-c++}
  command -v "${compiler%% *}" >/dev/null ||
    problems+=("a C++ compiler: not found (apt install g++)")
  nvcc=$(command -v nvcc || true)
  # Ubuntu's own package is older than a JetPack's toolkit, and may come first.
  release=$(nvcc_release "$nvcc")
  if [ "${release%%.*}" -lt 12 ] && [ -x /usr/local/cuda/bin/nvcc ]; then
    nvcc=/usr/local/cuda/bin/nvcc
    release=$(nvcc_release "$nvcc")
  fi
  if [ -z "$nvcc" ]; then
    problems+=("nvcc: not found (JetPack: apt install nvidia-jetpack, or cuda-toolkit-12-6)")
  else
    if [ "${release%%.*}" -lt 12 ]; then
      problems+=("nvcc of CUDA 12 or newer: got $release")
    elif driver=$(ask_driver 2>/dev/null); then
      read -r driver_cuda capability <<<"$driver"
      architectures=${architectures:-$capability}
      if [ "${release%%.*}" -gt "${driver_cuda%%.*}" ]; then
        problems+=("nvcc of CUDA ${driver_cuda%%.*}: got $release, whose code this board's driver \
(CUDA $driver_cuda) does not load; install the toolkit of this JetPack")
      fi
    elif [ -z "$architectures" ]; then
      problems+=("a CUDA driver and device: not found (or name --architectures, as 87 for Orin)")
    fi
    known=$("$nvcc" --list-gpu-code)
    for architecture in $architectures; do
      if [ "$architecture" != unknown ] && ! grep -qx "sm_$architecture" <<<"$known"; then
        problems+=("nvcc for compute capability $architecture: $release does not know it")
      fi
    done
  fi
}
