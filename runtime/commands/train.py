# SPDX-License-Identifier: Apache-2.0
"""`noisystore train`: train a VGG on the digits or on CIFAR-10, clean or noisy."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ortops.errors import InputError
from .common import bounded, print_json, progress, require
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
HELP = "train a VGG on the digits or CIFAR-10, clean or noisy"
DESCRIPTION = f"""\
Train a VGG with batch normalisation and print the clean accuracy that it reaches on the test
images; with --noise also the accuracy at that noise. A checkpoint is written after every epoch; it
is removed at the end.

{GUARDS}"""
EXAMPLE = (
    "noisystore train vgg-a --data digits --width 0.125 --noise 1e-4 --mask mantissa "
    "-o digits.safetensors"
)

NETWORKS = ("vgg-a", "vgg-b", "vgg-d", "vgg-e")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("network", choices=NETWORKS, metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--data", required=True, metavar="D", help="digits or cifar10:DIR")
    parser.add_argument(
        "--width",
        type=bounded(0, 64, "width"),
        default=1.0,
        metavar="W",
        help="factor on the numbers of channels (default: %(default)s)",
    )
    add_run_arguments(
        parser,
        epochs="digits 10, cifar10 24",
        batch="digits 64, cifar10 128",
        lr="digits 0.004, cifar10 0.1",
    )
    add_noise_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Train, save, print the accuracy."""
    from ..dataset import SPLIT

    recipe = args.data.partition(":")[0]
    if recipe not in SPLIT:
        raise InputError(f"--data: expected digits or cifar10:DIR, got {args.data!r}")
    output, checkpoint = check_paths(args)
    scans = ("sklearn",) if recipe == "digits" else ()
    require(("torch", "safetensors", *scans), "demo" if scans else "export")
    noise = make_noise(args)
    result = train_network(
        args.network,
        args.data,
        output,
        width=args.width,
        recipe=recipe,
        settings={"epochs": args.epochs, "batch": args.batch, "lr": args.lr},
        seed=args.seed,
        resume=args.resume,
        checkpoint=checkpoint,
        on_checkpoint=lambda text: setattr(args, "kept", text),
        noise=noise,
        device=args.device,
    )
    if args.json:
        print_json(result)
        return 0
    options = {} if args.width == 1 else {"width": args.width}
    print(f"clean accuracy {result['clean_accuracy']:.4f} on {result['images']} test images")
    if noise is not None:
        print(f"noisy accuracy {result['noisy_accuracy']:.4f} at {noise_text(noise)}")
    print(f"wrote {output}")
    print(next_export(args.network, options, output, noise))
    return 0


def train_network(
    network: str,
    data: str,
    output: Path,
    *,
    width: float,
    recipe: str,
    settings: dict[str, Any],
    seed: int,
    resume: bool,
    checkpoint: Path,
    on_checkpoint: Any,
    noise: TrainingNoise | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a network from its seed and write its weights."""
    import torch

    from ...export import load_model, save_weights, train

    train_set, test_set = load_parts(data)
    assert train_set.labels is not None
    assert test_set.labels is not None
    classes = int(train_set.labels.max()) + 1
    torch.manual_seed(seed)
    model, _ = load_model(network, width=width, classes=classes)
    made = {"network": network, "width": width, "classes": classes, "seed": seed, "data": data}
    if noise is not None:
        made["noise"] = noise_record(noise)
    with removed_at_the_end(checkpoint, resume), TrainingLine(progress) as line:
        training = train(
            model,
            train_set.images,
            train_set.labels,
            test_set.images,
            test_set.labels,
            recipe=recipe,
            **settings,
            seed=seed,
            noise=noise,
            device=device,
            checkpoint=checkpoint,
            resume=resume,
            progress=reporter(checkpoint, on_checkpoint, line.say),
            on_step=line.step,
        )
        # One key: the order of several differs from file to file.
        save_weights(model, output, noisystore=json.dumps(made))
    return {
        "path": str(output),
        "clean_accuracy": training.accuracy,
        "noisy_accuracy": training.noisy_accuracy,
        "images": len(test_set.labels),
        "epochs": len(training.epochs),
        "seconds": training.seconds,
        "records": [asdict(epoch) for epoch in training.epochs],
        **made,
    }
