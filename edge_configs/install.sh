#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: edge_configs/install.sh [--architectures "87"] [FOLDER]
# Builds NoisyStore with CUDA kernels on the board that it is to run on, and installs it into the
# virtual environment FOLDER (default: .venv). For JetPack 6 (Jetson Orin): its driver of CUDA 12
# loads no code of a CUDA 13 compiler, so the board's own compiler has to make it.
#
# Looks first whether all that it needs is there, and changes nothing where it is not.
# PYTHON=...       the Python to use (3.10 or newer; default: python3)
# ONNXRUNTIME=...  wheel of an ONNX Runtime with CUDA for this JetPack; else the one for CPUs is taken
# --architectures  compute capabilities to build for, without asking a driver
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
architectures=
if [ "${1:-}" = --architectures ]; then
  architectures=${2:?install.sh: --architectures: expected compute capabilities such as 87}
  shift 2
fi
folder=$(realpath -m "${1:-.venv}")
problems=()

. "$root/edge_configs/cuda_build.sh"
[ -f "$root/pyproject.toml" ] && [ -d "$root/ortops/src" ] ||
  problems+=("NoisyStore's sources: not found beside this script's folder; run it from a checkout")
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
  architectures=${architectures:-unknown} # there is nothing to ask the driver with
  problems+=("Python 3.10 or newer as $python: not found (set PYTHON=...)")
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  problems+=("Python's venv module: not found (apt install python3-venv)")
fi
command -v make >/dev/null || command -v ninja >/dev/null ||
  problems+=("make or ninja: not found (apt install make)")
look_for_compilers
if [ -n "${ONNXRUNTIME:-}" ] && [ ! -f "$ONNXRUNTIME" ]; then
  problems+=("the wheel ONNXRUNTIME=$ONNXRUNTIME: no such file")
fi
if [ ${#problems[@]} -gt 0 ]; then
  echo "install.sh: nothing was done; it needs" >&2
  printf '  %s\n' "${problems[@]}" >&2
  exit 2
fi

echo "building for compute capability $architectures with $nvcc, into $folder"
"$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip -q --disable-pip-version-check "$@"; }
pip install 'pip>=23.1' # for -C; that of Ubuntu 22.04 is older
# ONNX Runtime with CUDA has another name than the package that NoisyStore depends on, and its files
# in the same places: so the one for CPUs must not come after it.
dependencies=()
if [ -n "${ONNXRUNTIME:-}" ]; then
  pip install "$ONNXRUNTIME" 'numpy>=1.24' 'scipy>=1.10' 'tomli>=2; python_version < "3.11"'
  dependencies=(--no-deps)
fi
CUDACXX=$nvcc pip install "${dependencies[@]}" "$root" -C cmake.define.NOISYSTORE_CUDA=ON \
  -C cmake.define.NOISYSTORE_CUDA_ARCHITECTURES="${architectures// /;}" \
  -C build-dir="$folder/noisystore-build"
rm -rf "$folder/noisystore-build"
"$folder/bin/python" - <<'PYTHON'
import onnxruntime

from noisystore import ortops
from noisystore.runtime import board

# Reads TOML, which Python 3.10 needs a package for.
board.load_board("jetson-orin")
print(f"noisystore {ortops.library_version()}: CUDA code for {' '.join(ortops.cuda_architectures())}")
print(f"onnxruntime {onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}")
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    print("note: this ONNX Runtime has no CUDA provider; give a wheel that has one: ONNXRUNTIME=...")
PYTHON
echo "next: $folder/bin/noisystore --help; $folder/bin/python $root/benchmarks/gpu.py --quick --only bits"
