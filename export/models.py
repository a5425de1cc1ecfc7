# SPDX-License-Identifier: Apache-2.0
"""Models by the names that the command line takes."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..ortops.errors import InputError
from .networks import load_weights, vgg

_NUMBERS = itertools.count()

SPECS = "vgg-a, vgg-b, vgg-d, vgg-e, torchvision:NAME or FILE.py:function"

#: ImageNet's, which torchvision's models expect.
IMAGENET_NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_model(
    spec: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    width: float = 1.0,
    classes: int | None = None,
) -> tuple[nn.Module, tuple[Any, ...]]:
    """Make a model and example arguments from its name.

    Parameters
    ----------
    spec : str
        ``vgg-a``, ``vgg-b``, ``vgg-d`` or ``vgg-e`` (32x32 images), ``torchvision:NAME``
        (224x224), or ``FILE.py:function``, whose function gives a module or (module, args).
    weights : path-like, optional
        State dict to load.
    width : float
        Scales the channels of a VGG.
    classes : int, optional
        Of a VGG (10 by default) or a torchvision network (its own number by default).

    Returns
    -------
    (torch.nn.Module, tuple)
        In evaluation mode; the arguments are a batch of two where the spec does not say.

    Raises
    ------
    InputError
        An unknown spec, a missing file or function, a function that fails, or bad weights.
    """
    model: nn.Module
    args: tuple[Any, ...]
    if spec.lower() in ("vgg-a", "vgg-b", "vgg-d", "vgg-e"):
        model = vgg(spec[-1], width=width, classes=10 if classes is None else classes)
        args = (torch.zeros(2, 3, 32, 32),)
    else:
        if width != 1.0:
            raise InputError(f"width: only the VGGs have one, not {spec!r}; leave it out")
        if spec.startswith("torchvision:"):
            model = _torchvision(spec.partition(":")[2], classes)
            args = (torch.zeros(2, 3, 224, 224),)
        elif ".py:" in spec:
            if classes is not None:
                raise InputError(f"classes: the function of {spec!r} decides them; leave it out")
            model, args = _from_file(spec)
        else:
            raise InputError(f"model: expected {SPECS}, got {spec!r}")
    if weights is not None:
        load_weights(model, weights)
    return model.eval(), args


def _torchvision(name: str, classes: int | None) -> nn.Module:
    try:
        from torchvision.models import get_model, list_models
    except ImportError:
        raise InputError(
            "model: torchvision is not installed; pip install noisystore[export,vision]"
        ) from None
    if name not in list_models():
        raise InputError(
            f"model: torchvision has no model {name!r}; expected one such as vgg11_bn, resnet18 "
            "or mobilenet_v3_small"
        )
    extra: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        extra["init_weights"] = False
    model: nn.Module = get_model(name, weights=None, **extra)
    model.normalization = IMAGENET_NORMALIZATION  # type: ignore[assignment]
    return model


def _from_file(spec: str) -> tuple[nn.Module, tuple[Any, ...]]:
    file, _, function_name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"model {spec!r}: no file {path}")
    source = _imported(path, spec)
    function = getattr(source, function_name, None)
    if not callable(function):
        raise InputError(f"model {spec!r}: {path} has no function {function_name!r}")
    try:
        result = function()
    except Exception as error:
        raise InputError(
            f"model {spec!r}: {function_name}() raised {type(error).__name__}: {_first(error)}"
        ) from error
    model, args = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {spec!r}: expected {function_name}() to return a torch.nn.Module or "
            f"(module, example arguments), got {type(result).__name__}"
        )
    if args is None:
        size = getattr(model, "input_size", (3, 32, 32))
        return model, (torch.zeros(2, *size),)
    return model, args if isinstance(args, tuple) else (_tensor(args, spec),)


def _imported(path: Path, spec: str) -> Any:
    """Import a file under a name of its own, which dataclasses and pickle look up."""
    stem = re.sub(r"\W", "_", path.stem)
    name = f"noisystore_model_{next(_NUMBERS)}_{stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    source = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = source
    try:
        module_spec.loader.exec_module(source)
    except BaseException as error:
        sys.modules.pop(name, None)
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise InputError(
            f"model {spec!r}: {path} cannot be imported: {type(error).__name__}: {_first(error)}"
        ) from error
    return source


def _tensor(value: Any, spec: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(
            f"model {spec!r}: expected the example arguments to be a tensor or a tuple, "
            f"got {type(value).__name__}"
        )
    return value


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
