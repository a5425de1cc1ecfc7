# SPDX-License-Identifier: Apache-2.0
"""`noisystore retrain`: train given weights further, with noise in the forward pass."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import bounded, positive, print_json, progress, require
from .training_line import TrainingLine
from .training_options import (
    GUARDS,
    add_noise_arguments,
    add_run_arguments,
    check_paths,
    load_parts,
    make_noise,
    next_export,
    noise_record,
    noise_text,
    removed_at_the_end,
    reporter,
)

if TYPE_CHECKING:
    from ...export import TrainingNoise

LONG = True
HELP = "train given weights further, with noise in the forward pass"
DESCRIPTION = f"""\
Re-train a network with noise (paper, appendix A.2) and print its accuracy before and after, clean
and at the noise of training, on the test images. A checkpoint is written after every epoch; it is
removed at the end.

{GUARDS}"""
EXAMPLE = (
    "noisystore retrain vgg-a --weights vgg-a.safetensors --data cifar10:DIR --noise 1e-3 "
    "--mask exponent:6- --sites layer -o vgg-a-again.safetensors"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "network",
        metavar="NETWORK",
        help="vgg-a, vgg-b, vgg-d, vgg-e, torchvision:NAME or FILE.py:function",
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="trained weights, .safetensors or .pt"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="images to train on: cifar10:DIR, digits, npz:FILE, images:DIR or raw:DIR (uint8)",
    )
    parser.add_argument(
        "--test-data",
        metavar="D",
        help="images to test on (default: the test part of --data; npz, images and raw have none)",
    )
    parser.add_argument(
        "--images", type=positive, metavar="N", help="train on the first N images (default: all)"
    )
    parser.add_argument(
        "--width",
        type=bounded(0, 64, "width"),
        metavar="W",
        help="of a vgg: factor on its numbers of channels (default: 1)",
    )
    parser.add_argument(
        "--classes",
        type=positive,
        metavar="K",
        help="of a vgg (default: 10) or torchvision network (default: its own)",
    )
    add_run_arguments(parser, epochs="2", batch="digits 64, others 128", lr="0.01")
    add_noise_arguments(parser, required=True)


def run(args: argparse.Namespace) -> int:
    """Re-train, save, print the accuracy before and after."""
    output, checkpoint = check_paths(args)
    scans = ("sklearn",) if args.data == "digits" else ()
    require(("torch", "safetensors", *scans), "demo" if scans else "export")
    noise = make_noise(args)
    assert noise is not None
    options = {
        name: value
        for name, value in (("width", args.width), ("classes", args.classes))
        if value is not None
    }
    result = retrain_network(
        args.network,
        args.weights,
        args.data,
        output,
        noise=noise,
        test_data=args.test_data,
        images=args.images,
        model_options=options,
        settings={"epochs": args.epochs, "batch": args.batch, "lr": args.lr},
        seed=args.seed,
        device=args.device,
        resume=args.resume,
        checkpoint=checkpoint,
        on_checkpoint=lambda text: setattr(args, "kept", text),
    )
    if args.json:
        print_json(result)
        return 0
    print(
        f"clean accuracy {result['clean_before']:.4f} before, {result['clean_accuracy']:.4f} "
        f"after, on {result['test_images']} test images"
    )
    print(
        f"noisy accuracy {result['noisy_before']:.4f} before, {result['noisy_accuracy']:.4f} "
        f"after, at {noise_text(noise)}"
    )
    print(f"wrote {output}")
    print(next_export(args.network, options, output, noise))
    return 0


def retrain_network(
    network: str,
    weights: str | Path,
    data: str,
    output: Path,
    *,
    noise: TrainingNoise,
    test_data: str | None = None,
    images: int | None = None,
    model_options: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    checkpoint: Path | None = None,
    on_checkpoint: Callable[[str], None] = lambda text: None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train given weights further with noise and write them; return what --json prints.

    Parameters
    ----------
    network, weights, data, test_data, images
        As the command's.
    output : pathlib.Path
        Written whole or not at all.
    noise : TrainingNoise
    model_options : dict, optional
        ``width`` and ``classes``, of `load_model`.
    settings : dict, optional
        ``epochs``, ``batch`` and ``lr``; None: the recipe's.
    seed, device
        As `noisystore.export.train`'s.
    resume : bool
        Go on from the checkpoint, if there is one.
    checkpoint : pathlib.Path, optional
        By default beside the output. Removed at the end.
    on_checkpoint, say : callable
        Told after every epoch what is kept, and its line of figures.

    Raises
    ------
    InputError
        As `noisystore.export.retrain`, `load_model` and `load_parts`.
    """
    from ...export import RETRAINING, load_model, retrain, save_weights

    checkpoint = checkpoint or output.with_name(output.name + ".checkpoint")
    model, example = load_model(network, weights=weights, **(model_options or {}))
    shape = example[0].shape
    size = (int(shape[2]), int(shape[3])) if len(shape) == 4 else None
    train_set, test_set = load_parts(data, test_data, images, size)
    assert train_set.labels is not None
    assert test_set.labels is not None
    kind = data.partition(":")[0]
    with removed_at_the_end(checkpoint, resume), TrainingLine(say or progress) as line:
        shown = {} if say else {"on_step": line.step}
        if shown:
            line.show(f"testing the given weights on {len(test_set.labels):,} images ...")
        done = retrain(
            model,
            train_set.images,
            train_set.labels,
            test_set.images,
            test_set.labels,
            noise=noise,
            recipe=kind if kind in RETRAINING else "other",
            **(settings or {}),
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            resume=resume,
            progress=reporter(checkpoint, on_checkpoint, line.say),
            **shown,
        )
        training = done.training
        made = {
            "network": network,
            **(model_options or {}),
            "weights": str(weights),
            "data": data,
            "images": len(train_set.labels),
            "epochs": len(training.epochs),
            "seed": seed,
            "noise": noise_record(noise),
        }
        # One key: the order of several differs from file to file.
        save_weights(model, output, noisystore=json.dumps(made))
    return {
        "path": str(output),
        "clean_before": done.clean_before,
        "noisy_before": done.noisy_before,
        "clean_accuracy": training.accuracy,
        "noisy_accuracy": training.noisy_accuracy,
        "test_images": len(test_set.labels),
        "seconds": training.seconds,
        "records": [asdict(epoch) for epoch in training.epochs],
        **made,
    }
