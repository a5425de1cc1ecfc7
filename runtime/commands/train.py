# SPDX-License-Identifier: Apache-2.0
"""`noisystore train`: train a VGG on the digits or on CIFAR-10."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ...ortops.errors import InputError
from .common import bounded, check_output, positive, print_json, progress, require, seed

HELP = "train a VGG on the digits or CIFAR-10"
DESCRIPTION = """\
Train a VGG with batch normalisation on the CPU and print the clean accuracy that it reaches on the
test images. A checkpoint is written after every epoch; it is removed at the end."""
EXAMPLE = "noisystore train vgg-a --data digits --width 0.125 -o digits.safetensors"

NETWORKS = ("vgg-a", "vgg-b", "vgg-d", "vgg-e")
DATA = ("digits", "cifar10")


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
    parser.add_argument(
        "--epochs", type=positive, metavar="N", help="default: digits 10, cifar10 24"
    )
    parser.add_argument(
        "--batch", type=positive, metavar="N", help="default: digits 64, cifar10 128"
    )
    parser.add_argument(
        "--lr",
        type=bounded(0, 100, "learning rate"),
        metavar="R",
        help="peak learning rate (default: digits 0.004, cifar10 0.1)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint of an interrupted run"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.safetensors")


def run(args: argparse.Namespace) -> int:
    """Train, save, print the clean accuracy."""
    recipe = args.data.partition(":")[0]
    if recipe not in DATA:
        raise InputError(f"--data: expected digits or cifar10:DIR, got {args.data!r}")
    output = check_output(args.output)
    checkpoint = output.with_name(output.name + ".checkpoint")
    if args.resume and not checkpoint.exists():
        raise InputError(f"--resume: there is no checkpoint {checkpoint}: leave --resume out")
    scans = ("sklearn",) if recipe == "digits" else ()
    require(("torch", "safetensors", *scans), "demo" if scans else "export")
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
    )
    if args.json:
        print_json(result)
    else:
        width = "" if args.width == 1 else f" --width {args.width:g}"
        print(f"clean accuracy {result['clean_accuracy']:.4f} on {result['images']} test images")
        print(f"wrote {output}")
        print(
            f"next: noisystore export {args.network}{width} --weights {output} "
            f"-o {output.with_suffix('.onnx')}"
        )
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
) -> dict[str, Any]:
    """Train a network from its seed and write its weights."""
    import torch

    from ...export import Epoch, load_model, save_weights, train
    from ..dataset import load

    train_set, test_set = load(data, "train"), load(data, "test")
    if train_set.labels is None or test_set.labels is None:
        raise InputError(f"data set {data}: expected labels to train on, got none")
    classes = int(train_set.labels.max()) + 1

    def report(epoch: Epoch) -> None:
        on_checkpoint(
            f"{epoch.epoch} of {epoch.epochs} epochs are kept in {checkpoint}; the same command "
            "with --resume goes on from there"
        )
        progress(
            f"epoch {epoch.epoch}/{epoch.epochs}  loss {epoch.loss:.4f}  "
            f"accuracy {epoch.accuracy:.4f}  {epoch.seconds:.1f} s"
        )

    torch.manual_seed(seed)
    model, _ = load_model(network, width=width, classes=classes)
    training = train(
        model,
        train_set.images,
        train_set.labels,
        test_set.images,
        test_set.labels,
        recipe=recipe,
        **settings,
        seed=seed,
        checkpoint=checkpoint,
        resume=resume,
        progress=report,
    )
    made = {"network": network, "width": width, "classes": classes, "seed": seed, "data": data}
    # One key: the order of several differs from file to file.
    save_weights(model, output, noisystore=json.dumps(made))
    checkpoint.unlink(missing_ok=True)
    return {
        "path": str(output),
        "clean_accuracy": training.accuracy,
        "images": len(test_set.labels),
        "epochs": len(training.epochs),
        "seconds": training.seconds,
        **made,
    }
