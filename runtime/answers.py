# SPDX-License-Identifier: Apache-2.0
"""The answers of a bundle: what its model gives on the machine that makes it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from ..ortops.formats import ELEMENT_TYPES, WORD_FORMATS
from .dataset import Dataset, prepare
from .evaluate import Evaluator
from .metrics import as_logits, predict
from .npz import read_arrays
from .session import NoisySession
from .site_words import (
    NETWORK_NOISE,
    WORD_NOISE,
    Noise,
    ShownNetwork,
    SiteFlips,
    bits_of_an_image,
    close,
    read_known_words,
    words_of,
)

#: Images of the runs that show every site.
SHOWN_IMAGES = 4
#: Flips that an image meets on average where noisy predictions are compared, and the share of
#: images that may end in NaN there.
_FLIPS_AN_IMAGE, _LOST = 4.0, 0.02
#: Share of predictions that the noise is to change, else equal ones say little.
_CHANGED = 0.05
_SEED = 20240717
_TOLERANCE_IMAGES = 64
_VERSION = 1

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Answers:
    """Answers of one model and one data set.

    Attributes
    ----------
    images, batch_size : int
    tolerance : float
        Largest difference of clean logits that other processors may make.
    clean_accuracy, noisy_accuracy : float or None
        None where the data have no labels, or the outputs are no logits.
    bit_error_rate : float
        Of the noisy predictions.
    seed : int
    network : list of list of SiteFlips
        For each of `NETWORK_NOISE`, one a site.
    element_types : dict from site to str
    logits : array [images, ...]
        Outputs of the clean network.
    predictions : array [images] of int32, or None
        Of the noisy network; -1 where an output is NaN.
    words : list of dict from site to array
        For each of `WORD_NOISE`, what stores of `known_words` give, as unsigned integers.
    """

    images: int
    batch_size: int
    tolerance: float
    clean_accuracy: float | None
    noisy_accuracy: float | None
    bit_error_rate: float
    seed: int
    network: list[list[SiteFlips]]
    element_types: dict[int, str]
    logits: Array
    predictions: Array | None
    words: list[dict[int, Array]]

    def files(self) -> dict[str, bytes]:
        """Return the files that `read_answers` reads, by name."""
        record = {
            "version": _VERSION,
            "images": self.images,
            "batch_size": self.batch_size,
            "tolerance": self.tolerance,
            "clean_accuracy": self.clean_accuracy,
            "noisy_accuracy": self.noisy_accuracy,
            "bit_error_rate": self.bit_error_rate,
            "seed": self.seed,
            "element_types": {str(site): kind for site, kind in self.element_types.items()},
            "network": [
                {"noise": asdict(noise), "sites": [_record(flips) for flips in run]}
                for noise, run in zip(NETWORK_NOISE, self.network, strict=True)
            ],
            "words": [asdict(noise) for noise in WORD_NOISE],
        }
        arrays = {"logits": self.logits}
        if self.predictions is not None:
            arrays["predictions"] = self.predictions
        for i, sites in enumerate(self.words):
            arrays.update({f"words.{i}.{site}": array for site, array in sites.items()})
        out = io.BytesIO()
        np.savez(out, **arrays)  # type: ignore[arg-type]
        text = json.dumps(record, indent=1, allow_nan=False)
        return {"answers.json": text.encode(), "answers.npz": out.getvalue()}


def _record(flips: SiteFlips) -> dict[str, Any]:
    return {"site": flips.site, "flips": list(flips.flips), "sha256": flips.sha256}


def make_answers(session: NoisySession, data: Dataset, batch_size: int) -> Answers:
    """Run a model clean, noisy, and with every site shown.

    Parameters
    ----------
    session : NoisySession
        On one thread, so that the same input gives the same bits.
    data : Dataset
    batch_size : int

    Returns
    -------
    Answers

    Raises
    ------
    InputError
        Model and data do not fit together, the clean network gives no finite numbers, or this
        machine's own words are not what the noise model says.
    """
    evaluator = Evaluator(session, data, batch_size)
    clean = outputs(evaluator, 0.0, 0)
    if clean.dtype.kind not in "fiub" or not np.isfinite(clean).all():
        raise InputError(f"model {session.path}: expected finite outputs of the clean network")
    bits = bits_of_an_image(session.sites)
    rate = float(f"{min(_FLIPS_AN_IMAGE / bits, 0.5):.0e}") if bits else 1e-5
    rate, noisy = _telling_rate(evaluator, clean, rate)
    network = ShownNetwork(session)
    runs = shown_runs(network, session, data)
    wrong = [flips for run in runs for flips in run if flips.difference]
    if wrong:
        raise InputError(
            f"model {session.path}: site {wrong[0].site}: this machine differs from the noise "
            f"model: {wrong[0].difference}"
        )
    words = [
        {site: words_of(array) for site, array in read.items()}
        for _, read in read_known_words(session, network.element_types)
    ]
    return Answers(
        images=len(data),
        batch_size=evaluator.batch_size,
        tolerance=_tolerance(evaluator, clean),
        clean_accuracy=accuracy(clean, data),
        noisy_accuracy=accuracy(noisy, data),
        bit_error_rate=rate,
        seed=_SEED,
        network=runs,
        element_types=network.element_types,
        logits=clean,
        predictions=steady_predictions(noisy),
        words=words,
    )


def _telling_rate(evaluator: Evaluator, clean: Array, rate: float) -> tuple[float, Array]:
    """Return a rate at which predictions change here, but hardly an image ends in NaN."""
    expected = steady_predictions(clean)
    noisy = outputs(evaluator, rate, _SEED)
    while np.isnan(noisy).any(axis=-1).mean() > _LOST and rate > 1e-15:
        rate = float(f"{rate / 10:.0e}")
        noisy = outputs(evaluator, rate, _SEED)
    while expected is not None and rate * 10 <= 0.1:
        if np.mean(steady_predictions(noisy) != expected) >= _CHANGED:
            break
        more = float(f"{rate * 10:.0e}")
        found = outputs(evaluator, more, _SEED)
        if np.isnan(found).any(axis=-1).mean() > _LOST:
            break
        rate, noisy = more, found
    return rate, noisy


def shown_runs(
    network: ShownNetwork, session: NoisySession, data: Dataset
) -> list[list[SiteFlips]]:
    """Run the first images with every site shown, once for each of `NETWORK_NOISE`."""
    count = session.batch or min(SHOWN_IMAGES, len(data))
    index = np.minimum(np.arange(count, dtype=np.int64), len(data) - 1)
    x = prepare(data.images[index], session.normalization, session.input_dtype)
    return [network.run(x, index, noise) for noise in NETWORK_NOISE]


def outputs(evaluator: Evaluator, bit_error_rate: float, seed: int) -> Array:
    """Return the first output for all images of an evaluator's data."""
    return np.concatenate([y for _, y in evaluator.outputs(bit_error_rate, None, seed)])


def accuracy(found: Array, data: Dataset) -> float | None:
    """Return the accuracy of outputs; None where there are no labels, or no logits."""
    logits = as_logits(found)
    if logits is None or data.labels is None:
        return None
    return float(np.mean(predict(logits) == data.labels))


def steady_predictions(found: Array) -> Array | None:
    """Return the arg-max of logits, -1 where one is NaN; None where outputs are no logits.

    What comes of a NaN on its way depends on the processor: the largest of (NaN, 1) is NaN for ONNX
    Runtime's MaxPool on Arm, and 1 on x86.
    """
    logits = as_logits(found)
    if logits is None:
        return None
    return np.where(np.isnan(logits).any(axis=1), np.int32(-1), predict(logits))


def _tolerance(evaluator: Evaluator, clean: Array) -> float:
    """Return how far other processors may be from these outputs.

    Four times what the graph as it is written, not rewritten by ONNX Runtime, and inputs moved by
    10^-6 change here: kernels of two architectures differ in order and fusing of sums only. But at
    least 10^-4 of the largest output, or a step of the coarsest format, as which a site that rounds
    may pass a difference on.
    """
    session = evaluator.session
    plain = replace(session.maker, optimized=False).from_file()
    gaps = []
    for chosen, x, _, rows in evaluator.batches():
        if chosen.start >= _TOLERANCE_IMAGES:
            break
        moved = [x] if x.dtype.kind != "f" else [x, x * x.dtype.type(1 + 1e-6)]
        for x in moved:
            gaps.append(close(plain.run(None, {session.input_name: x})[0][:rows], clean[chosen]))
    least = max([1e-4, *(_step(site.word_format) for site in session.sites)])
    return max(4 * max(gaps), least * float(np.abs(clean).max()))


def _step(name: str | None) -> float:
    """Return a format's spacing, relative to a float's value or to an integer's quarter range."""
    word = WORD_FORMATS.get(name or "")
    if word is None or word.name == "int32":
        return 0.0
    return 4.0 / (1 << word.noisy_bits) if word.is_integer else 2.0**-word.mantissa_bits


def read_answers(folder: Path) -> Answers:
    """Read what `Answers.files` gave.

    Parameters
    ----------
    folder : path

    Raises
    ------
    InputError
        A file is missing, damaged, or of another version.
    """
    path = folder / "answers.json"
    try:
        record = json.loads(path.read_text())
        version = record["version"]
        if version != _VERSION:
            raise InputError(
                f"answers {path}: expected version {_VERSION}, got {version!r}: make the bundle "
                "again"
            )
        if [Noise(**run["noise"]) for run in record["network"]] != list(NETWORK_NOISE) or [
            Noise(**noise) for noise in record["words"]
        ] != list(WORD_NOISE):
            raise InputError(f"answers {path}: made by another version: make the bundle again")
        types = {int(site): str(kind) for site, kind in record["element_types"].items()}
        wanted = [f"words.{i}.{site}" for i in range(len(WORD_NOISE)) for site in types]
        arrays = read_arrays(folder / "answers.npz", ["logits", "predictions", *wanted])
        answers = Answers(
            images=int(record["images"]),
            batch_size=int(record["batch_size"]),
            tolerance=float(record["tolerance"]),
            clean_accuracy=_number(record["clean_accuracy"]),
            noisy_accuracy=_number(record["noisy_accuracy"]),
            bit_error_rate=float(record["bit_error_rate"]),
            seed=int(record["seed"]),
            network=[[_flips(site) for site in run["sites"]] for run in record["network"]],
            element_types=types,
            logits=arrays["logits"],
            predictions=arrays.get("predictions"),
            words=[
                {
                    site: arrays[f"words.{i}.{site}"]
                    for site in types
                    if f"words.{i}.{site}" in arrays
                }
                for i in range(len(WORD_NOISE))
            ],
        )
    except OSError as error:
        raise InputError(f"answers {path}: {error.strerror}") from None
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise InputError(f"answers {path}: damaged: make the bundle again") from None
    if not _is_sound(answers):
        raise InputError(f"answers {path}: damaged: make the bundle again")
    return answers


def _is_sound(answers: Answers) -> bool:
    """Return whether types, shapes and ranges are those that `make_answers` gives."""
    predictions, logits = answers.predictions, answers.logits
    shares = (answers.clean_accuracy, answers.noisy_accuracy)
    words = [array for sites in answers.words for array in sites.values()]
    return (
        math.isfinite(answers.tolerance)
        and answers.tolerance >= 0
        and 0 <= answers.bit_error_rate <= 1
        and answers.batch_size > 0
        and all(share is None or 0 <= share <= 1 for share in shares)
        and logits.dtype.kind in "fiub"
        and logits.shape[:1] == (answers.images,)
        and (predictions is None) == (as_logits(logits) is None)
        and (
            predictions is None
            or (predictions.dtype == np.int32 and predictions.shape == (answers.images,))
        )
        and set(answers.element_types.values()) <= set(ELEMENT_TYPES)
        and all(array.dtype.kind == "u" for array in words)
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _flips(record: dict[str, Any]) -> SiteFlips:
    counts: Sequence[Any] = record["flips"]
    return SiteFlips(int(record["site"]), tuple(int(n) for n in counts), str(record["sha256"]), "")
