# SPDX-License-Identifier: Apache-2.0
"""What `train` and `retrain` share: options, data, checkpoints, the lines that they print."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ortops.errors import InputError
from .common import bounded, check_written, positive, seed
from .noise_options import parse_mask

if TYPE_CHECKING:
    from ...export import Epoch, TrainingNoise
    from ..dataset import Dataset

GUARDS = """\
A step whose loss, gradient or running statistics are NaN or Inf is skipped: it changes nothing.
With noise, a gradient longer than --clip is scaled to that length. Both are counted and printed.
A noisy epoch ends by taking the running statistics of batch normalisation anew, without noise, from
the first 2,000 training images: one flip can make them huge. When no step of an epoch is finite, or
a weight is not after it, the run ends with an error."""

#: Option of the command line to the field of TrainingNoise.
_NOISE_FIELDS = {
    "sites": "sites",
    "mask": "bit_mask",
    "storage_format": "storage_format",
    "schedule": "schedule",
    "start": "start",
    "ramp": "ramp",
    "clip": "max_gradient_norm",
}


def add_run_arguments(parser: argparse.ArgumentParser, *, epochs: str, batch: str, lr: str) -> None:
    """Declare what every training run takes; the texts are the defaults, for the help."""
    parser.add_argument("--epochs", type=positive, metavar="N", help=f"default: {epochs}")
    parser.add_argument("--batch", type=positive, metavar="N", help=f"default: {batch}")
    parser.add_argument(
        "--lr",
        type=bounded(0, 100, "learning rate"),
        metavar="R",
        help=f"peak learning rate (default: {lr})",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint of an interrupted run"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.safetensors")


def add_noise_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare the noise of training."""
    group = parser.add_argument_group("noise in the forward pass, another in every step")
    group.add_argument(
        "--noise",
        type=noise_rate,
        required=required,
        metavar="RATE|P01/P10",
        help="bit error rate" + ("" if required else " (default: no noise)"),
    )
    group.add_argument(
        "--sites",
        metavar="KIND[,KIND]",
        help="what is noisy, as in export: activation, layer, weight, bias, ... or patterns "
        "(default: activation)",
    )
    group.add_argument(
        "--mask",
        type=parse_mask,
        metavar="M",
        help="noisy bits of a word, as in sweep, such as mantissa or exponent:6- (default: all)",
    )
    group.add_argument(
        "--storage-format", metavar="F", help="as in export (default: native, the tensor's type)"
    )
    group.add_argument(
        "--schedule",
        choices=("constant", "linear", "log"),
        help="rate of each step: constant; linear, from --start evenly; log, by equal factors "
        "(default: constant)",
    )
    group.add_argument(
        "--start",
        type=noise_rate,
        metavar="RATE|P01/P10",
        help="rate of the first step (default: linear 0; log needs one)",
    )
    group.add_argument(
        "--ramp",
        type=bounded(0, 1 + 1e-9, "ramp"),
        metavar="PART",
        help="part of the run after which the rate is reached (default: 1, its end)",
    )
    group.add_argument(
        "--clip",
        type=clip,
        metavar="NORM",
        help="greatest length of a gradient; none: no limit (default: 5)",
    )


def noise_rate(text: str) -> float | tuple[float, float]:
    """Argument type: a bit error rate, or P01/P10."""
    from ..rates import parse_rates

    try:
        pairs = parse_rates(text)
    except InputError:
        pairs = []
    if len(pairs) != 1:
        raise argparse.ArgumentTypeError(
            f"expected one rate, or P01/P10, with values from 0 to 1, got {text!r}"
        )
    p01, p10 = pairs[0]
    return p01 if p01 == p10 else (p01, p10)


def clip(text: str) -> float | str:
    """Argument type: a length of gradients, or none."""
    return text if text == "none" else bounded(0, 1e30, "clip")(text)


def make_noise(args: argparse.Namespace) -> TrainingNoise | None:
    """Make the noise that the options ask for.

    Raises
    ------
    InputError
        Options of noise without --noise, or values that do not go together.
    """
    given = {
        field: getattr(args, option)
        for option, field in _NOISE_FIELDS.items()
        if getattr(args, option) is not None
    }
    if args.noise is None:
        for option, field in _NOISE_FIELDS.items():
            if field in given:
                name = option.replace("_", "-")
                raise InputError(
                    f"--{name}: it belongs to noise: give --noise RATE, or leave it out"
                )
        return None
    from ...export import TrainingNoise

    if given.get("max_gradient_norm") == "none":
        given["max_gradient_norm"] = None
    return TrainingNoise(args.noise, **given)


def check_paths(args: argparse.Namespace) -> tuple[Path, Path]:
    """Check, before long work, where to write; return the paths of output and checkpoint.

    Raises
    ------
    InputError
        The output cannot be written, one of the two is a file that is read (weights, images, a
        network's), there is nothing to resume, or what an interrupted run kept would be lost.
    """
    output = Path(args.output)
    checkpoint = output.with_name(output.name + ".checkpoint")
    read = (getattr(args, name, None) for name in ("weights", "data", "test_data", "network"))
    check_written({"output": output, "checkpoint": checkpoint}, *read)
    if args.resume and not checkpoint.exists():
        raise InputError(f"--resume: there is no checkpoint {checkpoint}: leave --resume out")
    if not args.resume and checkpoint.exists():
        raise InputError(
            f"{checkpoint}: an interrupted run is kept there: go on with it by --resume, or remove "
            "it"
        )
    return output, checkpoint


def load_parts(
    data: str,
    test_data: str | None = None,
    images: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Dataset, Dataset]:
    """Load the images to train on, the first `images` of them, and those to test on.

    Raises
    ------
    InputError
        No such data, a data set of one part without another to test on, or no labels.
    """
    from ..dataset import SPLIT, load

    if test_data is None and data.partition(":")[0] not in SPLIT and ":" in data:
        raise InputError(
            f"--data {data}: it has one part; name the images to test on with --test-data"
        )
    parts = load(data, "train", images, size), load(test_data or data, "test", size=size)
    for part in parts:
        if part.labels is None:
            raise InputError(f"data set {part.name}: expected labels, got none")
    return parts


def reporter(
    checkpoint: Path, on_checkpoint: Callable[[str], None], say: Callable[[str], None]
) -> Callable[[Epoch], None]:
    """Return what to call after every epoch: it tells what is kept, and prints a line."""

    def report(epoch: Epoch) -> None:
        on_checkpoint(
            f"{epoch.epoch} of {epoch.epochs} epochs are kept in {checkpoint}; the same command "
            "with --resume goes on from there"
        )
        noisy = "" if epoch.noisy_accuracy is None else f"  noisy {epoch.noisy_accuracy:.4f}"
        say(
            f"epoch {epoch.epoch}/{epoch.epochs}  loss {epoch.loss:.4f}  "
            f"accuracy {epoch.accuracy:.4f}{noisy}  {epoch.seconds:.1f} s{_counts([epoch])}"
        )

    return report


def _counts(epochs: Sequence[Epoch]) -> str:
    """Name the steps that were skipped or clipped, if any."""
    steps, skipped, clipped = (
        sum(getattr(e, name) for e in epochs) for name in ("steps", "skipped", "clipped")
    )
    if not skipped and not clipped:
        return ""
    return f"  ({steps} steps: {skipped} skipped, {clipped} clipped)"


def noise_record(noise: TrainingNoise) -> dict[str, Any]:
    """Describe noise for JSON and for a file's metadata."""
    return {name: value for name, value in asdict(noise).items() if value is not None}


def noise_text(noise: TrainingNoise) -> str:
    """Describe noise in a few words."""
    rate = noise.bit_error_rate
    rates = "/".join(f"{p:g}" for p in rate) if isinstance(rate, tuple) else f"{rate:g}"
    mask = noise.bit_mask or "all"
    return f"rate {rates}, sites {noise.sites}, mask {mask if isinstance(mask, str) else 'a list'}"


def next_export(
    network: str, options: Mapping[str, Any], output: Path, noise: TrainingNoise | None
) -> str:
    """Tell the command that exports the new weights, with the sites and the format of training.

    Parameters
    ----------
    network : str
    options : mapping
        ``width`` and ``classes`` where they are not the network's own.
    output : pathlib.Path
        The weights.
    noise : TrainingNoise or None
    """
    words = ["noisystore", "export", network]
    for name, value in options.items():
        words += [f"--{name}", f"{value:g}"]
    words += ["--weights", str(output)]
    if noise is not None:
        words += ["--sites", noise.sites]
        if noise.storage_format != "native":
            words += ["--storage-format", noise.storage_format]
    return f"next: {shlex.join([*words, '-o', str(output.with_suffix('.onnx'))])}"


@contextmanager
def removed_at_the_end(checkpoint: Path, resume: bool) -> Iterator[None]:
    """Remove a checkpoint when the work is done, or when it would only fail again.

    One of a run that diverged stays if this run did not write it, or resumed it.
    """
    from ...export import Diverged

    before = _identity(checkpoint)
    try:
        yield
    except Diverged:
        if _identity(checkpoint) != before and not (resume and before):
            checkpoint.unlink(missing_ok=True)
        raise
    checkpoint.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from one that replaces it; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
