# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image file, looked at before a decoder sees them."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
_START, _END, _SCAN, _TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = {*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}


def check_image_file(data: npt.NDArray[np.uint8]) -> None:
    """Refuse what is no PNG or JPEG file.

    The JPEG decoder of onnxruntime-extensions ends the whole process on a file that it cannot
    read. So the file is looked at before: its segments, and, where Pillow is installed, all of it.

    Parameters
    ----------
    data : numpy.ndarray of uint8, shape [bytes]

    Raises
    ------
    InputError
        It is neither, or damaged, or a JPEG in grey or CMYK.
    """
    content = data.tobytes()
    components = 3 if content.startswith(_PNG) else _jpeg_components(content)
    if not components:
        raise InputError(
            "image: expected the bytes of a PNG or JPEG file, got "
            f"{len(content)} bytes that start with {content[:8]!r} or are damaged"
        )
    if components != 3:
        raise InputError(
            "image: expected a JPEG file of three components (colours), which the decoder of "
            f"onnxruntime-extensions needs, got one of {components}; save it as PNG"
        )
    try:
        image: Any = importlib.import_module("PIL.Image")
    except ImportError:
        return
    try:
        with image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as opened:
            opened.load()
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"image: expected a PNG or JPEG file, got a damaged one: {reason}"
        ) from None


def _jpeg_components(content: bytes) -> int:
    """Components of a JPEG's frame; 0 where the segments up to the first scan are not whole."""
    if content[:2] != bytes([0xFF, _START]):
        return 0
    position, components = 2, 0
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return 0
        marker = content[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in (_START, _END, 0) or marker in _RESTARTS:
            return 0
        if marker == _TEMPORARY:
            position += 2
            continue
        size = int.from_bytes(content[position + 2 : position + 4], "big")
        if size < 2 or position + 2 + size > len(content):
            return 0
        if marker == _SCAN:
            return components if content.rfind(bytes([0xFF, _END])) > position else 0
        if marker in _FRAMES and size >= 8:
            components = content[position + 9]
        position += 2 + size
    return 0
