# SPDX-License-Identifier: Apache-2.0
"""Make the CUDA libraries that others need beside the emulator.

`stubs.py FOLDER EMULATOR LIBRARY...`: EMULATOR is its libcudart.so.N; the libraries are those that
shall load, such as ONNX Runtime's CUDA provider. FOLDER gets links to the emulator, and cuBLAS and
the like, whose functions make and set handles and otherwise answer that they are not supported.
Search it with LD_LIBRARY_PATH.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_CUDA_LIBRARY = re.compile(r"lib(cu|nv)\w*\.so\.\d+")
_CUDA_FUNCTION = re.compile(r"(__cuda|cu)[A-Za-z]\w*")
# Functions of the driver, which libraries look up by name.
_DRIVER_FUNCTION = re.compile(
    rb"\0(cu(?:Ctx|Dev|Func|Get|Init|Launch|Link|Mem|Module|Occupancy|Pointer|Stream)[A-Z]\w*)(?=\0)"
)
_STUBS = "libcustubs.so.0"
_UNSUPPORTED = """#include <stdio.h>
static int unsupported(const char* name) {
  fprintf(stderr, "CUDA emulator: %s is not supported\\n", name);
  return 801;  /* cudaErrorNotSupported */
}
"""


def output(*command: str) -> list[str]:
    """Return what a program prints, in lines."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def symbols(library: str, kind: str) -> set[tuple[str, str]]:
    """Return (name, version) of what a library wants (kind "U") or has ("T")."""
    rows = [line.split() for line in output("nm", "-D", "-P", library)]
    parts = [row[0].replace("@@", "@").partition("@") for row in rows if row[1] == kind]
    return {(name, version) for name, _, version in parts}


def body(name: str) -> str:
    """Return a function in C."""
    handles = re.match("cu(blas|dnn|rand|fft|sparse|solver)", name)
    if handles and "Create" in name:
        return f"int {name}(void** handle) {{ *handle = (void*)1; return 0; }}"
    succeeds = handles and re.search("Destroy|Set|GetMathMode", name)
    answer = "0" if succeeds else f'unsupported("{name}")'
    return f"int {name}(void) {{ return {answer}; }}"


def link(path: Path, target: str) -> None:
    """Make a symbolic link, or leave the one that is there."""
    if not path.is_symlink():
        path.symlink_to(target)


def main(folder: Path, emulator: Path, *libraries: str) -> None:
    """Write, compile and link the libraries."""
    folder.mkdir(parents=True, exist_ok=True)
    has = {name for name, _ in symbols(str(emulator), "T")}
    wanted = set()
    for library in libraries:
        wanted |= {s for s in symbols(library, "U") if _CUDA_FUNCTION.fullmatch(s[0])}
        names = _DRIVER_FUNCTION.findall(Path(library).read_bytes())
        wanted |= {(name.decode(), "") for name in names}
    missing = sorted((name, version or "CUDA") for name, version in wanted if name not in has)
    versions: dict[str, list[str]] = {}
    for name, version in missing:
        versions.setdefault(version, []).append(name)
    code = _UNSUPPORTED + "".join(body(name) + "\n" for name in dict(missing))
    script = "".join(f"{name} {{ {'; '.join(names)}; }};\n" for name, names in versions.items())
    (folder / "stubs.c").write_text(code)
    (folder / "stubs.map").write_text(script)
    link(folder / emulator.name, str(emulator.resolve()))
    # What is looked up in the stubs and is not there is looked for in the emulator.
    options = ["-Wl,--version-script=stubs.map", "-Wl,--no-as-needed", f"-l:{emulator.name}"]
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "stubs.c", "-o", _STUBS, "-L."]
    subprocess.run([*command, *options, "-Wl,-rpath,$ORIGIN"], check=True, cwd=folder)
    for library in libraries:
        for line in output("readelf", "-d", library):
            needed = re.search(r"NEEDED.*\[(.*)\]", line)
            if needed and _CUDA_LIBRARY.fullmatch(needed[1]):
                link(folder / needed[1], _STUBS)
    link(folder / "libcuda.so.1", _STUBS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
