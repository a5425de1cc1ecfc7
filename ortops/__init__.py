# SPDX-License-Identifier: Apache-2.0
"""The NoisyStore operator: its library, its Python face and its NumPy reference."""

from . import reference
from .bit_masks import bit_mask
from .calls import apply, count_flips, empty_call, prepared_apply
from .cuda_calls import apply_on_cuda, prepared_apply_on_cuda
from .errors import InputError
from .library import (
    cuda_architectures,
    instruction_set,
    library_path,
    library_version,
    register,
)
from .noise_inputs import NOISE_MODEL

__all__ = [
    "NOISE_MODEL",
    "InputError",
    "apply",
    "apply_on_cuda",
    "bit_mask",
    "count_flips",
    "cuda_architectures",
    "empty_call",
    "instruction_set",
    "library_path",
    "library_version",
    "prepared_apply",
    "prepared_apply_on_cuda",
    "reference",
    "register",
]
