# SPDX-License-Identifier: Apache-2.0
"""List the GPU code in a shared library: `python .ci/gpu_code.py LIBRARY`, one line a piece.

Reads the section .nv_fatbin as cuobjdump does, which not every CUDA installation has: ELF code by
its architecture (sm_90), PTX by the one it was made for (compute_121).
"""

from __future__ import annotations

import pathlib
import struct
import sys

_MAGIC = 0xBA55ED50
_KINDS = {1: "compute", 2: "sm"}


def section(data: bytes, wanted: str) -> bytes:
    """Return the contents of a section of a 64-bit little-endian ELF file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("expected a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    start = sections[names][4]
    for name, _, _, _, offset, length in sections:
        end = data.index(b"\0", start + name)
        if data[start + name : end].decode() == wanted:
            return data[offset : offset + length]
    raise ValueError(f"expected a section {wanted}, found none")


def pieces(fatbin: bytes) -> list[str]:
    """Return the pieces of code of a section .nv_fatbin, in order."""
    found, at = [], 0
    while at + 16 <= len(fatbin):
        magic, _, header, size = struct.unpack_from("<IHHQ", fatbin, at)
        if magic != _MAGIC:
            at += 8  # padding between containers
            continue
        end = at + header + size
        at += header
        while at < end:
            kind, _, piece_header, piece_size = struct.unpack_from("<HHIQ", fatbin, at)
            (architecture,) = struct.unpack_from("<I", fatbin, at + 28)
            found.append(f"{_KINDS.get(kind, f'kind {kind}')}_{architecture}")
            at += piece_header + piece_size
    return found


if __name__ == "__main__":
    library = pathlib.Path(sys.argv[1]).read_bytes()
    print("\n".join(pieces(section(library, ".nv_fatbin"))))
