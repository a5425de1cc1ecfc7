# SPDX-License-Identifier: Apache-2.0
"""The demonstration: from training to the midpoint noise level in about a minute."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from ..ortops.files import write_whole

NETWORK, NAME, WIDTH, DATA, SEED = "vgg-a", "VGG-A", 0.125, "digits", 0


@dataclass(frozen=True)
class Plan:
    """How much the demonstration does: epochs, rates, trials, images."""

    epochs: int
    rates: str
    trials: int
    images: int


FULL = Plan(epochs=10, rates="1e-7:1e-1:4/decade", trials=5, images=500)
QUICK = Plan(epochs=3, rates="1e-6:1e-2:2/decade", trials=2, images=100)

SUMMARY = """\
Midpoint noise level of a small network
=======================================

The network: {network} with {width:g} of its channels, trained on {train} scanned digits. On
{images} other scans its clean accuracy is {clean:.1%}. Guessing would reach {chance:.0%}.

What was measured: the outputs of the {sites} activation functions, {bits:,} bits for each image,
are written to a memory that flips every bit with a certain probability, the bit error rate. At
each of {rates} rates from {low:g} to {high:g} the {images} images were classified {trials} times,
each time with fresh flips. A few flips harm little; many leave the network guessing.

{result}

Files in {folder}:
  {model:<14}  the network with a NoisyStore operator at every site; runs in ONNX Runtime
  results.sqlite  every measured point
  midpoint.png    accuracy against bit error rate, with fit and midpoint (midpoint.svg: the same)

Try next:
{activate}  noisystore inspect {folder}/{model} --rate {try_rate:.1e}
  noisystore sweep {folder}/{model} --data {data} --mask mantissa -o {folder}/results.sqlite
  noisystore fit {folder}/results.sqlite --plot {folder}/masks.png
The sweep makes only the 23 mantissa bits of a float32 noisy: see how much more it stands.
"""

FOUND = """\
Midpoint noise level: {midpoint:.3g} (95% interval {low:.3g} to {high:.3g}).
At this bit error rate the accuracy is half way between clean and guessing: of the {bits:,} bits of
one image about {flips:.0f} flip. It is the centre mu of the logistic curve (eq. 2 of the paper)
that fits accuracy against log10 of the rate; its slope sigma is {sigma:.3g} decades. A network
with a larger midpoint stands more noise.
The measured accuracy itself crosses half way at {half:.3g}{r99}."""

NOT_FOUND = """\
The midpoint noise level lies {bound} the rates measured ({limit:g}): there the accuracy is not yet
half way between clean and guessing."""


def run_demo(
    folder: str | os.PathLike[str],
    *,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train, export, sweep, fit and plot into a folder; what is finished is not repeated.

    Parameters
    ----------
    folder : path
        Made if missing. Gets model.onnx (model-quick.onnx, where `quick`), results.sqlite,
        midpoint.png, midpoint.svg and summary.txt.
    quick : bool
        A rougher answer in a few seconds.
    say : callable
        Told what begins.

    Returns
    -------
    dict
        path, clean_accuracy, the group and fit of `midpoint_groups.Group.as_dict`, and summary,
        the text.

    Raises
    ------
    InputError
        An extra of the package is missing, or the folder is not ours or not writable.
    """
    from .commands.common import require
    from .commands.export import EXPORT_MODULES
    from .midpoint_groups import fit_results
    from .plot import Curve, check_matplotlib, plot_accuracy
    from .session import NoisySession
    from .sweep import sweep

    require((*EXPORT_MODULES, "sklearn"), "demo")
    check_matplotlib()
    plan = QUICK if quick else FULL
    path = _folder(folder)
    model = path / ("model.onnx" if not quick else "model-quick.onnx")
    if not model.exists():
        _make_model(model, plan, say)
    session = NoisySession(model)
    say(f"sweep: {plan.rates}, {plan.trials} trials of {plan.images} images")
    swept = sweep(
        session,
        DATA,
        plan.rates,
        trials=plan.trials,
        images=plan.images,
        seed=SEED,
        results=path / "results.sqlite",
        progress=True,
    )
    say("fit and plot")
    (group,) = fit_results(swept.points)
    curve = Curve(group.label, group.points, group.fit)
    for name in ("midpoint.png", "midpoint.svg"):
        plot_accuracy([curve], path / name, title="Narrow VGG-A on digits, noisy activations")
    bits = sum(site.elements * site.noisy_bits for site in session.sites)
    text = summary(group, plan, len(session.sites), bits, model)
    write_whole(path / "summary.txt", text.encode())
    return {"path": str(path), "bits_per_sample": bits, **group.as_dict(), "summary": text}


def summary(group: Any, plan: Plan, sites: int, bits: int, model: Path) -> str:
    """Explain the result in words.

    Parameters
    ----------
    group : midpoint_groups.Group
    plan : Plan
    sites, bits : int
        Of the model; bits for each image.
    model : Path

    Returns
    -------
    str
    """
    import numpy as np

    from .dataset import load

    fit = group.fit
    rates = np.asarray(group.points.rate)
    if fit.midpoint is None:
        result = NOT_FOUND.format(bound=fit.bound, limit=fit.limit)
    else:
        r99 = (
            ""
            if fit.rate_99 is None
            else f",\nand 99% of the clean accuracy is left at {fit.rate_99:.3g}"
        )
        result = FOUND.format(
            midpoint=fit.midpoint,
            low=fit.interval[0],
            high=fit.interval[1],
            bits=bits,
            flips=bits * fit.midpoint,
            sigma=fit.sigma,
            half=fit.half_level,
            r99=r99,
        )
    return SUMMARY.format(
        network=NAME,
        width=WIDTH,
        data=DATA,
        train=len(load(DATA, "train")),
        images=plan.images,
        clean=fit.clean_accuracy,
        chance=fit.chance_accuracy,
        sites=sites,
        bits=bits,
        rates=fit.rates,
        low=rates.min(),
        high=rates.max(),
        trials=plan.trials,
        result=result,
        folder=model.parent,
        model=model.name,
        try_rate=fit.midpoint or fit.limit,
        activate=_activation(),
    )


def _activation() -> str:
    """Return the line that puts this program's environment onto the path, if it is not there."""
    script = Path(sys.executable).parent / "activate"
    if shutil.which("noisystore") is not None or not script.is_file():
        return ""
    return f"  . {shlex.quote(os.path.relpath(script))}\n"


def _make_model(model: Path, plan: Plan, say: Callable[[str], None]) -> None:
    import torch

    from ..export import export_onnx, load_model

    # One thread: the same weights on every number of cores, and no threads that wait for each
    # other where the cores are busy (an epoch took up to 9 s instead of 0.2 s then).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    weights = model.with_suffix(".safetensors")
    checkpoint = weights.with_name(weights.name + ".checkpoint")
    try:
        if not weights.exists():
            _train(weights, checkpoint, plan, say)
        say("export: sites activation")
        network, example = load_model(NETWORK, weights=weights, width=WIDTH)
        export_onnx(network, example, model, sites="activation")
        for path in (weights, checkpoint):
            path.unlink(missing_ok=True)
    finally:
        torch.set_num_threads(threads)


def _train(weights: Path, checkpoint: Path, plan: Plan, say: Callable[[str], None]) -> None:
    from .commands.train import train_network

    say(f"train: {NETWORK}, width {WIDTH:g}, on {DATA}")
    train_network(
        NETWORK,
        DATA,
        weights,
        width=WIDTH,
        recipe=DATA,
        settings={"epochs": plan.epochs},
        seed=SEED,
        resume=checkpoint.exists(),
        checkpoint=checkpoint,
        on_checkpoint=lambda text: None,
    )


def _folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"output {path}: expected a folder, got a file")
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise InputError(f"output {path}: no permission to write there: choose another -o")
    return path
