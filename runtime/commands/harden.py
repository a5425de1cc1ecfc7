# SPDX-License-Identifier: Apache-2.0
"""`noisystore harden`: clip what is read from noisy memory, and read NaN as 0."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ortops.errors import InputError
from .common import (
    add_custom_ops,
    check_written,
    positive,
    print_json,
    progress,
    require,
)

if TYPE_CHECKING:
    from ..dataset import Dataset
    from ..session import NoisySession

HELP = "make an annotated graph sturdier: clip what is read, NaN to 0"
DESCRIPTION = """\
Put two mitigations that need no memory behind the floating-point sites of an annotated graph: what
is read is clipped to the range that the clean network has there on data, and a NaN reads as 0. The
same bits flip as before. Weights, biases and integers are left alone."""
EXAMPLE = "noisystore harden vgg-a.onnx --data cifar10:DIR -o vgg-a-hard.onnx"

_IMAGES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL.onnx", help="annotated graph")
    parser.add_argument(
        "--data",
        metavar="D",
        help="images that give the ranges: cifar10:DIR, npz:FILE, digits, images:DIR or raw:DIR; "
        "the train split where there is one",
    )
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help=f"the first N images (default: {_IMAGES}, or all if there are fewer)",
    )
    parser.add_argument(
        "--clip",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="clip to the clean range (done unless switched off); needs --data",
    )
    parser.add_argument(
        "--nan-to-zero",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read a NaN as 0 (done unless switched off)",
    )
    parser.add_argument(
        "--sites",
        metavar="SITES",
        help="activation, input, names, patterns or numbers, separated by commas (default: all "
        "but weights, biases and integers)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="default: ONNX Runtime's")
    add_custom_ops(parser)
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx")


def run(args: argparse.Namespace) -> int:
    """Find the ranges, harden, report."""
    output = Path(args.output)
    check_written({"-o": args.output}, args.model, args.data)
    if not args.clip and not args.nan_to_zero:
        raise InputError("--no-clip --no-nan-to-zero: nothing to do: expected at least one of them")
    if args.clip and args.data is None:
        raise InputError("--data: expected images that give the ranges, got none; or --no-clip")
    require(("onnx",), "export")
    from ...export.harden import harden
    from ..hardening import Hardening, read_hardening
    from ..session import NoisySession

    session = NoisySession(args.model, threads=args.threads, custom_op_libraries=args.custom_ops)
    if read_hardening(session.path) is not None:  # said before the images are run
        raise InputError(
            f"model {args.model}: it is hardened already; harden the file that it was made from"
        )
    sites = None if args.sites is None else _chosen(session, args.sites)
    ranges, source = {}, ""
    if args.clip:
        data = _images(args.data, args.images, session)
        source = f"{len(data):,} images of {data.name}"
        ranges = _ranges(session, data, sites)
    result = harden(
        args.model,
        output,
        ranges=ranges,
        nan_to_zero=args.nan_to_zero,
        sites=sites,
        source=source,
        custom_op_libraries=args.custom_ops,
    )
    for note in result.notes:
        progress(f"note: {note}")
    if args.json:
        print_json({**result.as_dict(), "source": source})
        return 0
    done = Hardening(result.ranges, result.nan_to_zero, source)
    print(f"wrote {result.path}, {result.sites} sites: {done}")
    for why in dict.fromkeys(result.left_alone.values()):
        numbers = [str(site) for site, said in result.left_alone.items() if said == why]
        print(f"left alone ({why}): {', '.join(numbers)}")
    return 0


def _chosen(session: NoisySession, names: str) -> list[int]:
    from ..noisy_sites import NoisySites

    try:
        chosen = NoisySites(session.sites, names).noisy
    except InputError as error:
        raise InputError(f"--sites{str(error).removeprefix('noisy')}") from None
    return [int(site) for site in chosen.nonzero()[0]]


def _images(spec: str, count: int | None, session: NoisySession) -> Dataset:
    """Read the train split, or with a note what there is."""
    from ..dataset import SPLIT, load

    data = None
    if spec.partition(":")[0] in SPLIT:
        with contextlib.suppress(InputError):
            data = load(spec, "train", size=session.image_size)
    if data is None:
        data = load(spec, size=session.image_size)
        progress("note: the data set has one part only: measure on other images than these")
    return data.head(min(_IMAGES, len(data)) if count is None else count)


def _ranges(session: NoisySession, data: Dataset, sites: Any) -> dict[int, tuple[float, float]]:
    from ..clean_ranges import clean_ranges
    from ..progress import Progress

    shown = Progress(len(data), 1)
    shown.start("clean ranges")
    try:
        ranges = clean_ranges(session, data, sites=sites, tick=shown.tick)
        shown.finish(len(data), "clean ranges")
    finally:
        shown.close()
    return ranges
