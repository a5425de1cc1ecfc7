#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: bash install.sh [FOLDER]
# Installs this bundle on a board, without Internet, into an environment of its own (FOLDER, default:
# noisystore-env beside this script), and runs `noisystore verify`, whose exit status it returns.
# Checks first that all files are as they were made and fit this board; else it changes nothing.
#
# PYTHON=...       the Python to use (default: python3)
# ONNXRUNTIME=...  wheel of ONNX Runtime for a board whose vendor alone has one (README.txt says so)
if [ -z "${BASH_VERSION:-}" ]; then
  echo "install.sh: expected bash: run it as bash install.sh" >&2
  exit 2
fi
set -euo pipefail
# Nothing of the caller's Python or pip settings reaches the environment.
unset CDPATH PYTHONPATH "${!PIP_@}"
export PYTHONNOUSERSITE=1 PIP_CONFIG_FILE=/dev/null
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "install.sh: $*" >&2
  exit 2
}

case ${1:-} in
  -*) fail "expected a folder, got the option $1 (usage: bash install.sh [FOLDER])" ;;
esac
folder=$(realpath -m -- "${1:-$here/noisystore-env}")
python=$(command -v "${PYTHON:-python3}") ||
  fail "Python as ${PYTHON:-python3}: not found (set PYTHON=...)"
case $python in /*) ;; *) python=$PWD/$python ;; esac
# These end up in scripts that pip and venv write.
case $here$folder$python in
  *[\$\`\"\;\:\\]* | *$'\n'*) fail "expected paths without \$ \` \" ; : \\ and newlines, got $folder" ;;
esac
if [ -e "$folder" ] && ! grep -qs '^made by install.sh$' "$folder/.noisystore"; then
  fail "$folder: is there already, and was not made by install.sh; name another folder"
fi

# Python runs in a folder of its own: modules that lie in the caller's would be imported.
scratch=$(mktemp -d)
installed=no
clean_up() {
  rm -rf "$scratch"
  if [ $installed = started ]; then
    rm -rf "$folder"
    if [ -e "$folder.old" ]; then mv "$folder.old" "$folder"; fi
  fi
}
trap clean_up EXIT
trap 'exit 130' INT

# Prints operator, missing package ("-": none), CUDA architectures; then the wheels, a line each.
cat >"$scratch/check.py" <<'PYTHON'
import hashlib, json, os, platform, sys

here = sys.argv[1]
try:
    with open(os.path.join(here, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    python, machine = manifest["python"], manifest["architecture"]
    known = [manifest["operator"], manifest["missing"] or "-"] + manifest["cuda_architectures"]
    files = [(str(name), str(wanted["sha256"])) for name, wanted in manifest["files"].items()]
    wheels = [name for name, _ in files if name.startswith("wheels/")]
    words = known + wheels + [str(python), str(machine)]
    good = all(word.isprintable() and " " not in word for word in words)
    for name, _ in files:
        good = good and name.isprintable() and len(name.encode()) < 1000
        good = good and {"", ".", ".."}.isdisjoint(name.split("/"))
    for start in ("wheels/pip-", "wheels/noisystore-"):
        good = good and len([name for name in wheels if name.startswith(start)]) == 1
    if not good:
        raise ValueError("damaged")
except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    said = "".join(c if c.isprintable() else "?" for c in str(error))[:200]
    sys.exit("install.sh: manifest.json: no unpacked bundle (%s)" % ascii(said)[1:-1])
if "%d.%d" % sys.version_info[:2] != python:
    sys.exit(
        "install.sh: the bundle's wheels are for Python %s, this is %d.%d: set PYTHON=..., or make "
        "the bundle for this Python" % ((python,) + sys.version_info[:2])
    )
if platform.machine() != machine:
    sys.exit("install.sh: the bundle is for %s, this is %s" % (machine, platform.machine()))
for name, wanted in files:
    digest, path = hashlib.sha256(), os.path.join(here, name)
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            sys.exit("install.sh: %s: no file: unpack the bundle again" % name)
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    except OSError as error:
        sys.exit("install.sh: %s: %s: unpack the bundle again" % (name, error.strerror))
    if digest.hexdigest() != wanted:
        sys.exit("install.sh: %s: not as it was made: unpack the bundle again" % name)
print(*known)
print(*wheels, sep="\n")
PYTHON
described=$(cd "$scratch" && "$python" "$scratch/check.py" "$here") || exit 2
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
rm -rf "$folder.old"
if [ -e "$folder" ]; then mv "$folder" "$folder.old"; fi
installed=started
mkdir -p "$folder" || fail "$folder: cannot be made; name another folder"
echo "made by install.sh" >"$folder/.noisystore"
where=()
if ! (cd "$scratch" && "$python" -m venv --without-pip "$folder" && "$folder/bin/python" -c pass) \
  >/dev/null 2>&1; then
  # No venv module, or a Python that starts by way of a script only, such as an emulated one.
  rm -rf "$folder/bin" "$folder/lib"
  mkdir -p "$folder/bin" "$folder/lib"
  printf '#!/bin/sh\nPYTHONPATH="$(dirname "$0")/../lib" exec "%s" "$@"\n' "$python" \
    >"$folder/bin/python"
  printf 'import sys\n\nfrom noisystore.runtime.cli import main\n\nsys.exit(main())\n' \
    >"$folder/bin/start.py"
  printf '#!/bin/sh\nexec "$(dirname "$0")/python" "$(dirname "$0")/start.py" "$@"\n' \
    >"$folder/bin/noisystore"
  chmod +x "$folder/bin/python" "$folder/bin/noisystore"
  where=(--target "$folder/lib")
fi
wheels=()
if [ "$missing" != - ]; then wheels+=("$(realpath -- "$ONNXRUNTIME")"); fi
while read -r wheel; do
  case $wheel in wheels/pip-*) pip=$here/$wheel ;; *) wheels+=("$here/$wheel") ;; esac
done < <(tail -n +2 <<<"$described")
(cd "$scratch" && exec "$folder/bin/python" "$pip/pip" -qq --disable-pip-version-check install \
  --no-index --no-deps --no-cache-dir --no-compile --root-user-action ignore "${where[@]}" \
  "${wheels[@]}") ||
  fail "the wheels do not install; nothing was changed"
[ -x "$folder/bin/noisystore" ] || fail "the wheels do not install as they should; nothing was changed"

if [ "$operator" = source ]; then
  echo "building for compute capability $architectures with $nvcc"
  where='from noisystore import ortops; print(list(ortops.__path__)[0])'
  package=$(cd "$scratch" && "$folder/bin/python" -c "$where")
  {
    CUDACXX=$nvcc "$folder/bin/cmake" -S "$package" -B "$folder/build" -G Ninja \
      -DCMAKE_MAKE_PROGRAM="$folder/bin/ninja" -DNOISYSTORE_CUDA=ON \
      -DNOISYSTORE_CUDA_ARCHITECTURES="${architectures// /;}" &&
      "$folder/bin/cmake" --build "$folder/build" --target noisystore
  } >"$here/build.log" 2>&1 || {
    tail -n 15 "$here/build.log" >&2
    fail "the library does not build (all of it: $here/build.log); nothing was changed"
  }
  mv "$folder/build/libnoisystore.so" "$package/libnoisystore.so"
  rm -rf "$folder/build" "$here/build.log"
fi
installed=yes
rm -rf "$folder.old"
"$folder/bin/noisystore" verify "$here"
