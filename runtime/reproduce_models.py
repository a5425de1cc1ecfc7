# SPDX-License-Identifier: Apache-2.0
"""The networks of a reproduction: their weights, and the annotated graphs made of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from ..ortops.files import write_whole
from . import reproduce_paper as paper
from .dataset import load
from .model_file import model_sha256
from .reproduce_settings import Curve, Retraining

SITES = "layer"
_RECORD = "reproduce.json"
#: First and last layer, which tell a VGG's width and classes.
_ENDS = ("features.0", "classifier")
#: Channels of the first layer, and classes: beyond any VGG, and safe to allocate.
_MOST = 1024


class RetrainingFailed(InputError):
    """Re-training with this much noise leaves no network to measure."""


def find_weights(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the weight file of each VGG that a folder holds, by network.

    Parameters
    ----------
    folder : path
        With files ``vgg-a*.safetensors`` and so on, one a network.

    Raises
    ------
    InputError
        The folder is missing or holds none, or two of one network.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"weights {path}: expected a folder, found none")
    found: dict[str, Path] = {}
    for network in paper.NETWORKS:
        files = sorted(path.glob(f"vgg-{network.lower()}[-.]*safetensors"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise InputError(f"weights {path}: expected one file of VGG-{network}, got {names}")
        if files:
            found[network] = files[0]
    if not found:
        raise InputError(
            f"weights {path}: expected files such as vgg-a-cifar10.safetensors (`noisystore train "
            "vgg-a` makes one), got none"
        )
    return found


class Models:
    """Annotated graphs of a reproduction, made when they are first needed.

    Parameters
    ----------
    folder : path
        Where they are kept.
    weights : mapping of str to path
        By network.
    data : str
        Specification of the data set, for calibration and re-training.
    data_sha256 : str
        Of its test images.
    device : str
        For re-training.
    say : callable
        Told what begins.

    Raises
    ------
    InputError
        The folder holds a reproduction of other weights or other data.
    """

    def __init__(
        self,
        folder: Path,
        weights: Mapping[str, Path],
        data: str,
        data_sha256: str,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.weights, self.data = folder, weights, data
        self.device, self.say = device, say
        self._check_record(data_sha256)

    def path(self, curve: Curve) -> Path:
        """Return the annotated graph of a curve; make it where it is not there."""
        path = self.folder / f"{curve.model}.onnx"
        if path.exists():
            return path
        weights = self.retrained(curve)
        self.say(f"export {path.name}")
        if curve.storage != "int8":
            self._export(curve, weights, path, SITES)
            self._keep_record()
            return path
        from ..export import quantize

        plain = path.with_name(f"vgg-{curve.network.lower()}-plain.onnx")
        self._export(curve, weights, plain, "none")
        quantize(plain, self.data, path, sites=SITES)
        self._keep_record()
        return path

    def sha256(self, curve: Curve) -> str | None:
        """Return the checksum of the graph of a curve; None: there is none yet."""
        path = self.folder / f"{curve.model}.onnx"
        return model_sha256(path) if path.exists() else None

    def retrained(self, curve: Curve) -> Path:
        """Return the weights of a curve's network, re-trained where it asks for that."""
        given = self.weights[curve.network]
        if curve.retraining is None:
            return given
        path = self._retrained_path(curve)
        failed = path.with_suffix(".failed")
        if failed.exists():
            raise RetrainingFailed(f"{failed.read_text()} (it failed before: {failed})")
        if not path.exists():
            self._retrain(curve, curve.retraining, given, path)
        return path

    def has_weights(self, curve: Curve) -> bool:
        """Return whether the weights of a curve's network are there, re-trained if need be."""
        return curve.retraining is None or self._retrained_path(curve).exists()

    def _retrained_path(self, curve: Curve) -> Path:
        return self.folder / f"{curve.model}.safetensors"

    def _retrain(self, curve: Curve, plan: Retraining, weights: Path, path: Path) -> None:
        from ..export import Diverged, TrainingNoise
        from .commands.retrain import retrain_network

        train_set = load(self.data, "train")
        images = min(plan.images or len(train_set), len(train_set))
        self.say(
            f"re-train VGG-{curve.network}: {plan.epochs} epochs of {images:,} images, rate "
            f"{plan.rate:g}, mask {plan.mask}"
        )
        try:
            retrain_network(
                f"vgg-{curve.network.lower()}",
                weights,
                self.data,
                path,
                noise=TrainingNoise(plan.rate, sites=SITES, bit_mask=plan.mask),
                images=images,
                model_options=shape_of(weights),
                settings={"epochs": plan.epochs},
                device=self.device,
                resume=True,
            )
        except Diverged as error:
            write_whole(path.with_suffix(".failed"), str(error).encode())
            raise RetrainingFailed(str(error)) from None

    def _export(self, curve: Curve, weights: Path, path: Path, sites: str) -> None:
        from ..export import export_onnx, load_model

        model, example = load_model(
            f"vgg-{curve.network.lower()}", weights=weights, **shape_of(weights)
        )
        storage = "native" if sites == "none" else curve.storage
        export_onnx(model, example, path, sites=sites, storage_format=storage)

    def _check_record(self, data_sha256: str) -> None:
        """Hold what the folder is of against these weights and data."""
        record = {"data": data_sha256}
        for network, file in self.weights.items():
            record[f"VGG-{network}"] = hashlib.sha256(file.read_bytes()).hexdigest()
        path = self.folder / _RECORD
        before: dict[str, Any] = {}
        if path.exists():
            try:
                before = dict(json.loads(path.read_text()))
            except (OSError, ValueError, TypeError, RecursionError):
                raise InputError(f"{path}: damaged: choose another folder (-o)") from None
        for name, value in record.items():
            if before.get(name, value) != value:
                raise InputError(
                    f"{self.folder.parent}: it holds a reproduction with other "
                    f"{'data' if name == 'data' else f'weights of {name}'}: choose another -o"
                )
        self._record = before | record

    def _keep_record(self) -> None:
        text = json.dumps(self._record, indent=2) + "\n"
        write_whole(self.folder / _RECORD, text.encode())


def shape_of(weights: Path) -> dict[str, Any]:
    """Return the width and the number of classes that a VGG's weights have.

    Raises
    ------
    InputError
        The file holds no weights of a VGG.
    """
    from ..export.networks import read_state

    state = read_state(weights)
    first, last = (state.get(f"{name}.weight") for name in _ENDS)
    shapes = [() if tensor is None else tuple(tensor.shape) for tensor in (first, last)]
    channels, *kernel = shapes[0] or (0,)
    classes, *inputs = shapes[1] or (0,)
    if kernel != [3, 3, 3] or len(inputs) != 1 or 0 in (channels, classes, *inputs):
        raise InputError(f"weights {weights}: expected those of a VGG for RGB images, got others")
    if channels > _MOST or classes > _MOST:
        raise InputError(
            f"weights {weights}: expected at most {_MOST} channels and classes, got {channels} "
            f"and {classes}"
        )
    return {"width": channels / 64, "classes": classes}
