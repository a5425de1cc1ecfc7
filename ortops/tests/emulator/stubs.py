# SPDX-License-Identifier: Apache-2.0
"""Make the CUDA libraries that others need, as far as the emulator is none: `stubs.py FOLDER
LIBRARY...`.

FOLDER holds the emulator's libcudart.so; the libraries are those that shall load, such as ONNX
Runtime's CUDA provider. Their CUDA libraries (cuBLAS and others) come into FOLDER, with functions
that make and set handles, and otherwise answer that they are not supported.
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
    if "Create" in name:
        return f"int {name}(void** handle) {{ *handle = (void*)1; return 0; }}"
    succeeds = re.search("Destroy|Set|GetMathMode", name)
    answer = "0" if succeeds else f'unsupported("{name}")'
    return f"int {name}(void) {{ return {answer}; }}"


def main(folder: Path, *libraries: str) -> None:
    """Write, compile and link the libraries."""
    has = {name for name, _ in symbols(str(folder / "libcudart.so"), "T")}
    wanted = {
        (name, version)
        for library in libraries
        for name, version in symbols(library, "U")
        if _CUDA_FUNCTION.fullmatch(name) and name not in has
    }
    for library in libraries:
        names = _DRIVER_FUNCTION.findall(Path(library).read_bytes())
        wanted |= {(name.decode(), "") for name in names if name.decode() not in has}
    versions: dict[str, list[str]] = {}
    for name, version in sorted(wanted):
        versions.setdefault(version or "CUDA", []).append(name)
    (folder / "stubs.c").write_text(_UNSUPPORTED + "\n".join(body(name) for name, _ in sorted(wanted)) + "\n")
    (folder / "stubs.map").write_text(
        "".join(f"{version} {{ {'; '.join(names)}; }};\n" for version, names in versions.items())
    )
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "stubs.c", "-o", "libcustubs.so.0"]
    # What is looked up in here and is not there is looked for in the emulator.
    options = ["-Wl,--version-script=stubs.map", "-Wl,--no-as-needed", "-L.", "-lcudart"]
    subprocess.run([*command, *options, "-Wl,-rpath,$ORIGIN"], check=True, cwd=folder)
    for library in libraries:
        for line in output("readelf", "-d", library):
            if needed := re.search(r"NEEDED.*\[(.*)\]", line):
                link = folder / needed[1]
                if _CUDA_LIBRARY.fullmatch(link.name) and not link.exists():
                    link.symlink_to("libcustubs.so.0")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
