# SPDX-License-Identifier: Apache-2.0
"""A bundle on a board: what it gives there, held against the answers that came with it."""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops.errors import InputError
from . import bundle_file
from .answers import Answers, accuracy, outputs, read_answers, shown_runs, steady_predictions
from .board import load_board
from .dataset import Dataset, load
from .evaluate import Evaluator
from .interrupt import terminable
from .memory import PeakMemory
from .ort_session import board_providers
from .session import NoisySession
from .site_words import (
    NETWORK_NOISE,
    WORD_NOISE,
    ShownNetwork,
    SiteFlips,
    close,
    first_difference,
    read_known_words,
)
from .texts import printable

#: Share of noisy predictions that has to be equal, since a rounding that differs may tip an image;
#: and the share of images that may be left out of this, since they end in NaN on one machine.
AGREEMENT, LEFT_OUT = 0.995, 0.1
#: With fewer images not one may differ.
_FEW = 10


@dataclass(frozen=True)
class SiteVerdict:
    """What was found at one site.

    Attributes
    ----------
    site : int
    name, kind, storage_format : str
    flips : int
        Bits that flipped in the runs of the network with equal rates.
    words : int
        Known words that were stored and read, in all settings.
    equal : bool
    difference : str
        The first; empty: none.
    """

    site: int
    name: str
    kind: str
    storage_format: str
    flips: int
    words: int
    equal: bool
    difference: str


@dataclass(frozen=True)
class Verdict:
    """What a board gives.

    Attributes
    ----------
    equal : bool
        All of the following are as they should be.
    bits_equal : bool
        At every site.
    sites : list of SiteVerdict
    logits_difference, tolerance : float
        Largest difference of the clean outputs, and what is allowed.
    accuracy, expected_accuracy : float or None
        Of the clean network.
    noisy_accuracy, expected_noisy_accuracy : float or None
        At `bit_error_rate`.
    agreement : float or None
        Share of equal noisy predictions; at least 0.995, or all but one, is expected, of clean
        ones as well.
    left_out : int
        Images that do not count in it: on one of the machines they end in NaN, which processors
        treat differently. More than a tenth is a failure.
    bit_error_rate : float
    images, batch_size : int
    milliseconds_per_image : float
        Of the clean network.
    memory_per_image : float or None
        Bytes by which the process grew while it ran, over the images of a batch.
    peak_memory : int or None
        Of the process, in bytes.
    board, provider : str
    """

    equal: bool
    bits_equal: bool
    sites: list[SiteVerdict]
    logits_difference: float
    tolerance: float
    accuracy: float | None
    expected_accuracy: float | None
    noisy_accuracy: float | None
    expected_noisy_accuracy: float | None
    agreement: float | None
    left_out: int
    bit_error_rate: float
    images: int
    batch_size: int
    milliseconds_per_image: float
    memory_per_image: float | None
    peak_memory: int | None
    board: str
    provider: str

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON takes it; an infinite difference as text."""
        record = asdict(self)
        if not math.isfinite(self.logits_difference):
            record["logits_difference"] = "infinite"
        return record


def verify(
    bundle: str | os.PathLike[str],
    board: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Run a bundle's model here and compare with its answers.

    Parameters
    ----------
    bundle : path
        The archive, or the folder that it was unpacked into.
    board : str or path, optional
        Name or file of a board whose settings are used instead of the bundle's own.
    progress : callable
        Is told what is being done.

    Returns
    -------
    Verdict

    Raises
    ------
    InputError
        No bundle, a damaged or hostile one, or the model does not run here.
    """
    path = Path(bundle)
    if path.exists() and not path.is_dir() and not path.is_file():
        raise InputError(f"bundle {path}: expected a file or a folder, got a device or a pipe")
    if path.is_dir():
        progress(f"checking the files of {path} ...")
        bundle_file.check_folder(path)
        return _verify(path, board, progress)
    with terminable(), tempfile.TemporaryDirectory(prefix="noisystore-") as name:
        progress(f"checking and unpacking {path} ...")
        bundle_file.unpack(path, Path(name))
        return _verify(Path(name), board, progress)


def _verify(
    folder: Path, board: str | os.PathLike[str] | None, progress: Callable[[str], None]
) -> Verdict:
    target = load_board(folder / "board.toml" if board is None else board)
    if target.architecture != platform.machine():
        progress(f"note: {target.name} is {target.architecture}, this machine {platform.machine()}")
    answers = read_answers(folder / "answers")
    data = load(f"raw:{folder / 'data'}")
    if len(data) != answers.images:
        raise InputError(f"bundle {folder}: data and answers differ: make the bundle again")
    session = NoisySession(
        folder / "model" / "model.onnx", board_providers(target), threads=target.threads
    )
    evaluator = Evaluator(session, data, answers.batch_size)
    progress(f"clean network, {len(data)} images on {session.provider} ...")
    with PeakMemory() as memory:
        outputs(evaluator, 0.0, 0)  # allocates, so it is not timed
    before = session.run_seconds
    clean = outputs(evaluator, 0.0, 0)
    seconds = session.run_seconds - before
    progress(f"noisy network at {answers.bit_error_rate:g} ...")
    noisy = outputs(evaluator, answers.bit_error_rate, answers.seed)
    progress(f"bits of {len(session.sites)} sites ...")
    sites = _sites(session, data, answers)
    agreement, left_out = _agreement(steady_predictions(noisy), answers.predictions)
    clean_agreement, _ = _agreement(steady_predictions(clean), steady_predictions(answers.logits))
    difference = close(clean, answers.logits) if clean.shape == answers.logits.shape else math.inf
    bits_equal = all(site.equal for site in sites)
    return Verdict(
        equal=bits_equal
        and difference <= answers.tolerance
        and all(
            share is None or _is_enough(share, lost, len(data))
            for share, lost in ((agreement, left_out), (clean_agreement, 0))
        ),
        bits_equal=bits_equal,
        sites=sites,
        logits_difference=difference,
        tolerance=answers.tolerance,
        accuracy=accuracy(clean, data),
        expected_accuracy=answers.clean_accuracy,
        noisy_accuracy=accuracy(noisy, data),
        expected_noisy_accuracy=answers.noisy_accuracy,
        agreement=agreement,
        left_out=left_out,
        bit_error_rate=answers.bit_error_rate,
        images=len(data),
        batch_size=evaluator.batch_size,
        milliseconds_per_image=1e3 * seconds / len(data),
        memory_per_image=None if memory.growth is None else memory.growth / evaluator.batch_size,
        peak_memory=memory.peak,
        board=target.name,
        provider=session.provider,
    )


def _agreement(found: Any, expected: Any) -> tuple[float | None, int]:
    """Return the share of equal predictions, and how many images are left out of it.

    None where neither machine has any.
    """
    if found is None and expected is None:
        return None, 0
    if found is None or expected is None or expected.shape != found.shape:
        return 0.0, 0
    counted = (found >= 0) & (expected >= 0)
    if not counted.any():
        return 0.0, len(found)
    return float(np.mean(found[counted] == expected[counted])), int(np.sum(~counted))


def _is_enough(agreement: float, left_out: int, images: int) -> bool:
    counted = images - left_out
    different = round((1 - agreement) * counted)
    one = 1 if images >= _FEW else 0
    return different <= max(one, (1 - AGREEMENT) * counted) and left_out <= max(
        one, LEFT_OUT * images
    )


def _sites(session: NoisySession, data: Dataset, answers: Answers) -> list[SiteVerdict]:
    """Hold every site against the answers, in the network and on known words."""
    network = ShownNetwork(session)
    differences: dict[int, list[str]] = {site.site: [] for site in session.sites}
    flips = dict.fromkeys(differences, 0)
    for noise, run, expected in zip(
        NETWORK_NOISE, shown_runs(network, session, data), answers.network, strict=True
    ):
        known = {record.site: record for record in expected}
        for found in run:
            flips[found.site] += sum(found.flips)
            said = _network_difference(found, known.get(found.site))
            if said:
                differences[found.site].append(f"in the network at {noise}: {said}")
    words = dict.fromkeys(differences, 0)
    for (noise, read), wanted in zip(
        read_known_words(session, answers.element_types, WORD_NOISE), answers.words, strict=True
    ):
        for site, values in read.items():
            want = wanted.get(site)
            if (
                want is None
                or want.shape != values.shape
                or want.dtype.itemsize != values.dtype.itemsize
            ):
                raise InputError("answers: known words of other sites: make the bundle again")
            words[site] += values.size
            said = first_difference(None, want.view(values.dtype), values, session.sites[site])
            if said:
                differences[site].append(f"known words at {noise}: {said}")
    return [
        SiteVerdict(
            site.site,
            printable(site.name),
            printable(site.kind),
            site.word_format or "native",
            flips[site.site],
            words[site.site],
            not differences[site.site],
            differences[site.site][0] if differences[site.site] else "",
        )
        for site in session.sites
    ]


def _network_difference(found: SiteFlips, expected: SiteFlips | None) -> str:
    if found.difference:
        return found.difference
    if expected is None:
        return "no such site in the answers"
    if found.flips != expected.flips:
        sample = next(
            (
                i
                for i, (a, b) in enumerate(zip(found.flips, expected.flips, strict=False))
                if a != b
            ),
            0,
        )
        return (
            f"sample {sample}: expected {expected.flips[sample : sample + 1]} flips, got "
            f"{found.flips[sample : sample + 1]}"
        )
    return "" if found.sha256 == expected.sha256 else "other bits flip, as many as expected"
