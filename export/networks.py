# SPDX-License-Identifier: Apache-2.0
"""VGG with batch normalisation for 32x32 images, and the loading of weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..ortops.errors import InputError

#: Mean and standard deviation of CIFAR-10's channels, on x/255.
CIFAR10_NORMALIZATION = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

#: Channels of the convolutions by stage; each stage ends in 2x2 max pooling.
STAGES: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "B": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "D": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "E": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


class VGG(nn.Module):
    """VGG for 32x32 images: convolutions without bias, batch normalisation, one linear layer.

    Attributes
    ----------
    normalization : tuple
        (mean, std), a number a channel, of the images that it expects.
    """

    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None

    def __init__(self, features: nn.Sequential, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.normalization = None

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits [N, classes] of images [N, channels, 32, 32]."""
        return self.classifier(torch.flatten(self.features(x), 1))


def vgg(name: str, *, classes: int = 10, width: float = 1.0, in_channels: int = 3) -> VGG:
    """Build a VGG for 32x32 images, with fresh weights.

    Parameters
    ----------
    name : str
        "A", "B", "D" or "E" (Simonyan and Zisserman's configurations).
    classes : int
    width : float
        Scales the channels of every convolution; at least one stays.
    in_channels : int

    Returns
    -------
    VGG

    Raises
    ------
    InputError
        Another name, or a number out of range.
    """
    stages = STAGES.get(name.upper() if isinstance(name, str) else "")
    if stages is None:
        raise InputError(f"vgg: expected 'A', 'B', 'D' or 'E', got {name!r}")
    if not 0 < width <= 64:
        raise InputError(f"vgg: expected a width above 0 and up to 64, got {width!r}")
    for what, number in (("classes", classes), ("in_channels", in_channels)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"vgg: expected {what} to be a positive integer, got {number!r}")
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in stages:
        for full in stage:
            out = max(1, round(full * width))
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            channels = out
        layers.append(nn.MaxPool2d(2))
    model = VGG(nn.Sequential(*layers), nn.Linear(channels, classes))
    if in_channels == 3:
        model.normalization = CIFAR10_NORMALIZATION
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def read_state(file: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict: safetensors, or PyTorch's own format without unpickling code.

    Raises
    ------
    InputError
        The file is missing, or is neither.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Its second sentence tells how to run the code in a file.
        reason = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0]
        raise InputError(
            f"weights {path}: expected a .safetensors file or a PyTorch state dict, got {reason}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(map(_is_weight, state.keys(), state.values())):
        raise InputError(
            f"weights {path}: expected a state dict (name to tensor), of dense real tensors"
        )
    return state


def _is_weight(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    dense = value.layout is torch.strided and not value.is_quantized and not value.is_meta
    return dense and not value.is_complex()


def load_weights(model: nn.Module, file: str | os.PathLike[str]) -> None:
    """Load a state dict into a model; float16 weights become the model's own type.

    Parameters
    ----------
    model : torch.nn.Module
    file : path-like
        safetensors, or a PyTorch state dict.

    Raises
    ------
    InputError
        The file is missing or is no state dict, or its names or shapes are not the model's.
    """
    state = read_state(file)
    own = model.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in counters]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    for what, names in (("lacks", missing), ("has the unknown", extra), ("has", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(
                f"weights {os.fspath(file)}: expected those of {type(model).__name__}, but the "
                f"file {what} {', '.join(names[:3])}{more}; check the network, width and classes"
            )
    model.load_state_dict({n: t.to(own[n].dtype) for n, t in state.items()}, strict=False)
