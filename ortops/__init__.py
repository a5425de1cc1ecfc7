# SPDX-License-Identifier: Apache-2.0
"""The NoisyStore operator: its library, its Python face and its NumPy reference."""

from . import reference
from .bit_masks import bit_mask
from .calls import apply, count_flips, empty_call, prepared_apply
from .errors import InputError
from .library import instruction_set, library_path, library_version, register
from .noise_inputs import NOISE_MODEL

__all__ = [
    "NOISE_MODEL",
    "InputError",
    "apply",
    "bit_mask",
    "count_flips",
    "empty_call",
    "instruction_set",
    "library_path",
    "library_version",
    "prepared_apply",
    "reference",
    "register",
]
