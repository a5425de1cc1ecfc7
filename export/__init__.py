# SPDX-License-Identifier: Apache-2.0
"""Noise-annotated ONNX models from PyTorch; torch is imported at the first use of a name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .instrumented import Instrumented, Site, instrument, noise
    from .models import load_model
    from .networks import load_weights, vgg
    from .onnx_export import Export, export_onnx
    from .torch_op import NoisyStore
    from .training import RECIPES, Epoch, Recipe, Training, accuracy, save_weights, train

__all__ = [
    "RECIPES",
    "Epoch",
    "Export",
    "Instrumented",
    "NoisyStore",
    "Recipe",
    "Site",
    "Training",
    "accuracy",
    "export_onnx",
    "instrument",
    "load_model",
    "load_weights",
    "noise",
    "save_weights",
    "train",
    "vgg",
]

_HOME = {
    "Instrumented": "instrumented",
    "Site": "instrumented",
    "instrument": "instrumented",
    "noise": "instrumented",
    "load_model": "models",
    "Export": "onnx_export",
    "export_onnx": "onnx_export",
    "NoisyStore": "torch_op",
    "RECIPES": "training",
    "Epoch": "training",
    "Recipe": "training",
    "Training": "training",
    "accuracy": "training",
    "save_weights": "training",
    "train": "training",
    "load_weights": "networks",
    "vgg": "networks",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{home}", __name__)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"noisystore.export needs {error.name}, which is not installed; "
            "run: pip install noisystore[export]"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
