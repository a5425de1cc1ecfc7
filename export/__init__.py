# SPDX-License-Identifier: Apache-2.0
"""Noise-annotated ONNX models, from PyTorch or ONNX; names are imported at their first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import save_weights
    from .instrumented import Instrumented, instrument, noise
    from .models import load_model
    from .networks import load_weights, vgg
    from .onnx_annotate import Annotated, annotate
    from .onnx_export import Export, export_onnx
    from .quantization import Quantized, quantize
    from .torch_op import NoisyStore
    from .torch_stores import Site
    from .training import RECIPES, Epoch, Recipe, Training, train
    from .training_data import accuracy
    from .training_noise import TrainingNoise
    from .training_retrain import RETRAINING, Retrained, retrain
    from .training_steps import Diverged

__all__ = [
    "RECIPES",
    "RETRAINING",
    "Annotated",
    "Diverged",
    "Epoch",
    "Export",
    "Instrumented",
    "NoisyStore",
    "Quantized",
    "Recipe",
    "Retrained",
    "Site",
    "Training",
    "TrainingNoise",
    "accuracy",
    "annotate",
    "export_onnx",
    "instrument",
    "load_model",
    "load_weights",
    "noise",
    "quantize",
    "retrain",
    "save_weights",
    "train",
    "vgg",
]

_HOME = {
    "Annotated": "onnx_annotate",
    "annotate": "onnx_annotate",
    "Instrumented": "instrumented",
    "Site": "torch_stores",
    "instrument": "instrumented",
    "noise": "instrumented",
    "load_model": "models",
    "Export": "onnx_export",
    "export_onnx": "onnx_export",
    "Quantized": "quantization",
    "quantize": "quantization",
    "NoisyStore": "torch_op",
    "RECIPES": "training",
    "Epoch": "training",
    "Recipe": "training",
    "Training": "training",
    "train": "training",
    "accuracy": "training_data",
    "TrainingNoise": "training_noise",
    "RETRAINING": "training_retrain",
    "Retrained": "training_retrain",
    "retrain": "training_retrain",
    "Diverged": "training_steps",
    "save_weights": "checkpoint",
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
