#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: bash install.sh [FOLDER]
# Installs this bundle on a board, without Internet, into an environment of its own (FOLDER, default:
# noisystore-env beside this script), and runs `noisystore verify`, whose exit status it returns.
# Checks first that all files are as they were made and fit this board; else it changes nothing.
#
# PYTHON=...       the Python to use (default: python3)
# ONNXRUNTIME=...  wheel of ONNX Runtime for a board whose vendor alone has one (README.txt says so)
set -euo pipefail
unset PYTHONPATH
export PYTHONNOUSERSITE=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(realpath -m "${1:-$here/noisystore-env}")

fail() {
  echo "install.sh: $*" >&2
  exit 2
}

python=$(command -v "${PYTHON:-python3}") ||
  fail "Python as ${PYTHON:-python3}: not found (set PYTHON=...)"
case $python in /*) ;; *) python=$PWD/$python ;; esac
if [ -e "$folder" ] && [ ! -f "$folder/.noisystore" ]; then
  fail "$folder: is there already, and was not made by install.sh; name another folder"
fi

# Prints operator, missing package ("-": none), CUDA architectures; then the wheels, a line each.
described=$(
  "$python" - "$here" <<'PYTHON'
import hashlib, json, os, platform, sys

here = sys.argv[1]
try:
    with open(os.path.join(here, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    python, machine = manifest["python"], manifest["architecture"]
    known = [manifest["operator"], manifest["missing"] or "-"] + manifest["cuda_architectures"]
    files = [(str(name), str(wanted["sha256"])) for name, wanted in manifest["files"].items()]
    wheels = [name for name, _ in files if name.startswith("wheels/")]
    if not all(word.isprintable() and " " not in word for word in known + wheels):
        raise ValueError("damaged")
except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    print("install.sh: manifest.json: no unpacked bundle (%s)" % error, file=sys.stderr)
    sys.exit(1)
if "%d.%d" % sys.version_info[:2] != python:
    sys.exit(
        "install.sh: the bundle's wheels are for Python %s, this is %d.%d: set PYTHON=..., or make "
        "the bundle for this Python" % ((python,) + sys.version_info[:2])
    )
if platform.machine() != machine:
    sys.exit("install.sh: the bundle is for %s, this is %s" % (machine, platform.machine()))
for name, wanted in files:
    digest = hashlib.sha256()
    try:
        with open(os.path.join(here, name), "rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    except OSError as error:
        sys.exit("install.sh: %s: %s: unpack the bundle again" % (name, error.strerror))
    if digest.hexdigest() != wanted:
        sys.exit("install.sh: %s: not as it was made: unpack the bundle again" % name)
print(*known)
print(*wheels, sep="\n")
PYTHON
) || exit 2
read -r operator missing architectures <<<"$described"
problems=()
if [ "$missing" != - ] && [ ! -f "${ONNXRUNTIME:-}" ]; then
  problems+=("the wheel of $missing (README.txt says where it is; set ONNXRUNTIME=...)")
fi
if [ "$operator" = source ]; then
  . "$here/cuda_build.sh"
  look_for_compilers
fi
if [ ${#problems[@]} -gt 0 ]; then
  echo "install.sh: nothing was done; it needs" >&2
  printf '  %s\n' "${problems[@]}" >&2
  exit 2
fi

echo "installing into $folder"
rm -rf "$folder"
installed=no
trap '[ $installed = yes ] || rm -rf "$folder"' EXIT
mkdir -p "$folder"
touch "$folder/.noisystore"
where=()
if ! { "$python" -m venv --without-pip "$folder" && "$folder/bin/python" -c pass; } >/dev/null 2>&1; then
  # No venv module, or a Python that starts by way of a script only, such as an emulated one.
  rm -rf "$folder/bin" "$folder/lib"
  mkdir -p "$folder/bin" "$folder/lib"
  cat >"$folder/bin/python" <<LAUNCHER
#!/bin/sh
PYTHONPATH="$folder/lib" exec "$python" "\$@"
LAUNCHER
  cat >"$folder/bin/noisystore" <<LAUNCHER
#!/bin/sh
exec "$folder/bin/python" -m noisystore.runtime.cli "\$@"
LAUNCHER
  chmod +x "$folder/bin/python" "$folder/bin/noisystore"
  where=(--target "$folder/lib")
fi
wheels=()
if [ "$missing" != - ]; then wheels+=("$ONNXRUNTIME"); fi
while read -r wheel; do
  case $wheel in wheels/pip-*) pip=$here/$wheel ;; *) wheels+=("$here/$wheel") ;; esac
done < <(tail -n +2 <<<"$described")
"$folder/bin/python" "$pip/pip" -qq --disable-pip-version-check install --no-index \
  --no-deps --no-cache-dir --no-compile --root-user-action ignore "${where[@]}" "${wheels[@]}" ||
  fail "the wheels do not install; nothing was left"

if [ "$operator" = source ]; then
  echo "building for compute capability $architectures with $nvcc"
  package=$("$folder/bin/python" -c 'from noisystore import ortops; print(list(ortops.__path__)[0])')
  {
    CUDACXX=$nvcc "$folder/bin/cmake" -S "$package" -B "$folder/build" -G Ninja \
      -DCMAKE_MAKE_PROGRAM="$folder/bin/ninja" -DNOISYSTORE_CUDA=ON \
      -DNOISYSTORE_CUDA_ARCHITECTURES="${architectures// /;}" &&
      "$folder/bin/cmake" --build "$folder/build" --target noisystore
  } >"$here/build.log" 2>&1 || {
    tail -n 15 "$here/build.log" >&2
    fail "the library does not build (all of it: $here/build.log); nothing was left"
  }
  mv "$folder/build/libnoisystore.so" "$package/libnoisystore.so"
  rm -rf "$folder/build" "$here/build.log"
fi
installed=yes
"$folder/bin/noisystore" verify "$here"
