# SPDX-License-Identifier: Apache-2.0
"""Which bits of which sites to protect so that a network holds an accuracy at a rate."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .clean_once import CleanOnce
from .dataset import Dataset, load
from .interrupt import Interrupted, terminable
from .noisy_sites import NoisySites
from .notes import session_notes, too_wide
from .ort_session import Provider
from .progress import StatusLine
from .protection_comparison import Compared, compare
from .protection_costs import MEANS, StoredSite, cost
from .protection_graphs import MITIGATIONS, Graphs
from .protection_result import GOALS, Design, Means, Protection
from .protection_runs import Bits, PairedRuns, Run, noisy_bits
from .protection_search import Choice, search
from .session import NoisySession
from .sites import Site, site_masks
from .sweep_masks import swept_masks

#: With more flips left in an inference their effect is measured.
_MOST_LEFT = 1e-3
#: Fewer images verify nothing; a third of the data chooses the bits.
_LEAST_IMAGES, _LEAST_DATA = 100, 150


def protect(
    model: str | os.PathLike[str],
    data: str | Dataset,
    rate: Any,
    target: str | float = "99%",
    *,
    mitigations: Sequence[str] | None = None,
    means: Sequence[str] = MEANS,
    goal: str = "bits",
    compare_with: bool = False,
    images: int = 2000,
    noisy: str | int | Sequence[str | int] | None = None,
    fixed_rates: Mapping[str, Any] | None = None,
    bit_mask: int | str | Sequence[int | str] | None = None,
    save_model: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int = 100,
    providers: Sequence[str | Provider] | str | None = None,
    threads: int | None = None,
    custom_op_libraries: Sequence[str | os.PathLike[str]] = (),
    progress: bool | None = None,
    split: str = "test",
) -> Protection:
    """Find the cheapest protection with which a network holds an accuracy at a bit error rate.

    Each bit of each site is measured alone; then as few as possible are protected that the others
    together do little enough harm, which runs on other images verify.

    Parameters
    ----------
    model : path of an annotated ONNX file
    data : str or Dataset
        See `noisystore.runtime.dataset.load`.
    rate : float or (p01, p10)
    target : str or float
        Accuracy to hold: a number, or a share of the clean accuracy such as ``"99%"``.
    mitigations : sequence of str
        ``none``, ``clip`` to the range that the clean network has on 1,000 training images,
        ``nan`` (reads as 0), ``clip+nan``; each is tried. None: ``none`` and, where a noisy site
        has floats in each inference, ``clip+nan``. All but ``none`` need the `onnx` package
        (`noisystore.export.harden`).
    means : sequence of str
        Ways to protect a bit: ``reliable`` (in reliable memory), ``rewrite`` (written, checked and
        corrected), ``secded`` (a Hamming code (72, 64)); see `protection_costs`.
    goal : {"bits", "area", "energy", "time"}
        What is to cost least; among equals, energy.
    compare_with : bool
        Also compare with protecting all sites equally and greedy by layer, at equal bits.
    images : int
        Random ones that verify a design, 100 or more. Others choose its bits: of these there are a
        third of the data, so that two thirds verify at most.
    noisy, fixed_rates, bit_mask
        As `noisystore.runtime.sweep` takes them.
    save_model : path, optional
        Where the best design's graph goes if it has a mitigation.
    seed : int
        64 bits, signed.
    batch_size, providers, threads, custom_op_libraries
        As `noisystore.runtime.sweep` takes them.
    progress : bool, optional
        True: say on standard error how far it is; None: on a terminal.
    split : "test" or "train"

    Returns
    -------
    Protection

    Raises
    ------
    InputError
        Bad input of any kind; a target outside chance and clean accuracy.
    Interrupted
        Ctrl-C or SIGTERM.
    """
    begin = time.perf_counter()
    pair = _checked_rate(rate)
    if mitigations is not None:
        _check_names("mitigation", mitigations, tuple(MITIGATIONS))
    _check_names("means", means, MEANS)
    _check_names("goal", (goal,), GOALS)
    if images < _LEAST_IMAGES:
        raise InputError(f"images: expected {_LEAST_IMAGES} or more, got {images}")
    session = NoisySession(model, providers, threads, custom_op_libraries)
    chosen = NoisySites(session.sites, noisy, fixed_rates)
    label, asked = swept_masks(bit_mask, session.sites, chosen)
    masks = site_masks(asked, session.sites)
    dataset = load(data, split, size=session.image_size) if isinstance(data, str) else data
    if len(dataset) < _LEAST_DATA:
        raise InputError(
            f"data {dataset.name}: expected {_LEAST_DATA} images or more, got {len(dataset)}: a "
            f"third chooses the bits, and fewer than {_LEAST_IMAGES} verify nothing"
        )
    bits = noisy_bits(session.sites, chosen, masks)
    if not bits.any():
        raise InputError("mask: expected a bit of a noisy site's word, got none: nothing flips")
    line = StatusLine(progress)
    line.say(*too_wide(label, asked, session.sites, chosen), *session_notes(session, dataset))
    designs: list[Design] = []
    compared: list[Compared] = []
    inferences = 0
    try:
        with terminable(), tempfile.TemporaryDirectory() as folder:
            graphs = Graphs(session, data, dataset, Path(folder), line.show)
            names = list(dict.fromkeys(mitigations or _usual(session.sites, bits)))
            graphs.check(names)
            plain = CleanOnce(session, dataset, batch_size)
            for name in names:
                show = _prefixed(line.show, "" if len(names) == 1 else f"{name}: ")
                hardened = graphs.session(name)
                same = hardened is session
                evaluator = plain if same else CleanOnce(hardened, dataset, batch_size)
                runs = PairedRuns(evaluator, chosen, pair, masks, int(seed), reference=plain)
                allowed = _allowed(target, runs)
                choice = search(runs, allowed, images, show)
                designs.append(_design(name, choice, runs, allowed, tuple(means), images, show))
                if compare_with and choice.screen is not None and not compared:
                    compared = compare(runs, choice.screen, images, show)
                inferences += 0 if same else hardened.inferences
            inferences += session.inferences
            best = _best(designs, goal)
            if save_model is not None and best is not None:
                graphs.save(designs[best[0]].mitigation, Path(save_model))
    except KeyboardInterrupt as error:
        number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(f"interrupted: {line.text or 'nothing is known yet'}", number) from None
    finally:
        line.close()
    return Protection(
        model=session.path.name,
        data=dataset.name,
        rate=pair,
        target=str(target),
        stored_bits=sum(
            max(site.elements, 1) * int(mask).bit_count()
            for site, mask in zip(session.sites, bits, strict=True)
        ),
        sites=session.sites,
        swept=[site.site for site in session.sites if bits[site.site]],
        bit_masks=[
            int(mask) & ((1 << site.noisy_bits) - 1)
            for site, mask in zip(session.sites, masks, strict=True)
        ],
        designs=designs,
        best=best,
        goal=goal,
        plain=cost(_stored(session.sites, bits, np.zeros_like(bits)), pair, None),
        compared=compared,
        inferences=inferences,
        seconds=time.perf_counter() - begin,
    )


def parse_target(target: str | float) -> tuple[float, bool]:
    """Return the number of a target, and whether it is a share of the clean accuracy.

    Raises
    ------
    InputError
        It is no number from 0 to 1, and no percentage.
    """
    text = str(target).strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise InputError(
            "target: expected an accuracy such as 0.84, or a share of the clean one such as 99%, "
            f"got {target!r}"
        )
    return value, text.endswith("%")


def _allowed(target: str | float, runs: PairedRuns) -> Callable[[Run], float]:
    """Return how much accuracy a run of some images may lose."""
    value, of_clean = parse_target(target)
    # An accuracy asked for as a number is one over all images: the loss allowed is that from the
    # clean accuracy of all, for any images, since some are harder than others.
    clean = None if of_clean else runs.clean_accuracy()

    def allowed(run: Run) -> float:
        whole = run.clean_accuracy if clean is None else clean
        wanted = value * whole if of_clean else value
        if not runs.chance < wanted <= whole:
            raise InputError(
                f"target: expected an accuracy above chance ({runs.chance:.4g}) and at most the "
                f"clean one ({whole:.4f}), got {wanted:.4g}"
            )
        return whole - wanted

    return allowed


def _usual(sites: Sequence[Site], bits: Bits) -> tuple[str, ...]:
    """Return the mitigations that are tried unless told otherwise."""
    floats = ("", "float16", "float32", "float64")
    hardened = any(
        bits[site.site] and site.rows_per_sample != 0 and site.element_type in floats
        for site in sites
    )
    return ("none", "clip+nan") if hardened else ("none",)


def _design(
    mitigation: str,
    choice: Choice,
    runs: PairedRuns,
    allowed: Callable[[Run], float],
    means: tuple[str, ...],
    images: int,
    show: Callable[[str], None],
) -> Design:
    sites = runs.evaluator.session.sites
    run = choice.run
    target = run.clean_accuracy - allowed(run)
    alone = run
    if choice.bits:
        show("verifying: nothing protected")
        samples = runs.verifying(images)
        alone = runs.run(np.zeros_like(choice.protected), samples, "verify")
    stored = _stored(sites, runs.bits, choice.protected)
    left_loss = _left_loss(runs, choice.protected, images)
    ways: list[Means] = []
    failed: dict[str, str] = {}
    for name in means if choice.bits else (None,):
        try:
            price = cost(stored, runs.rate, name, most_left=_MOST_LEFT)
        except InputError as error:  # at rates near 1 rewriting does not end
            show(f"{name}: {error}")
            failed[str(name)] = str(error)
            continue
        lost = 0.0
        if price.left_flips > _MOST_LEFT:
            show(f"measuring the errors that {name} leaves")
            lost = left_loss(price.left)
        # Of the predictions that the other errors leave, these leave a share.
        kept = max(1 - lost / (run.clean_accuracy - runs.chance), 0.0)
        accuracy = runs.chance + (run.accuracy - runs.chance) * kept
        ways.append(Means(price, accuracy, lost, accuracy >= target))
    return Design(
        mitigation=mitigation,
        bits=choice.bits,
        masks=[int(mask) for mask in choice.protected],
        unprotected=(alone.accuracy, alone.accuracy_interval()),
        accuracy=run.accuracy,
        interval=run.accuracy_interval(),
        clean_accuracy=run.clean_accuracy,
        target=target,
        images=len(run.correct),
        meets=run.accuracy >= target,
        means=ways,
        failed=failed,
    )


def _left_loss(
    runs: PairedRuns, protected: Bits, images: int
) -> Callable[[tuple[float, float]], float]:
    """Return what measures the accuracy that errors left in the protected bits alone cost.

    The run without them is made once, by the first call.
    """
    samples = runs.verifying(images)

    @cache
    def right() -> float:
        # Sites with rates of their own keep them in both runs.
        return runs.run(runs.bits, samples, "left").accuracy

    def loss(left: tuple[float, float]) -> float:
        return max(right() - runs.run(runs.bits & ~protected, samples, "left", left).accuracy, 0)

    return loss


def _stored(sites: Sequence[Site], bits: Bits, protected: Bits) -> list[StoredSite]:
    """Return the noisy sites as the cost model takes them."""
    return [
        StoredSite(
            max(site.elements, 1),
            site.noisy_bits,
            int(protected[site.site]),
            written=site.rows_per_sample != 0,
        )
        for site in sites
        if bits[site.site]
    ]


def _best(designs: Sequence[Design], goal: str) -> tuple[int, int] | None:
    """Return the design and means that meet the target at the least cost."""

    def price(place: tuple[int, int]) -> tuple[float, float]:
        design = designs[place[0]]
        spent = design.means[place[1]].cost
        ranges = {"area": spent.area_f2, "energy": spent.energy_pj, "time": spent.time_ns}
        least = float(design.bits) if goal == "bits" else float(ranges[goal][1])
        return least, spent.energy_pj[1]

    meeting = [
        (i, j)
        for i, design in enumerate(designs)
        for j, means in enumerate(design.means)
        if means.meets
    ]
    return min(meeting, key=price) if meeting else None


def _checked_rate(rate: Any) -> tuple[float, float]:
    p01, p10 = (float(value) for value in noise_inputs.rate_table(rate, 1)[0])
    if max(p01, p10) == 0:
        raise InputError("rate: expected a bit error rate above 0: nothing flips, nothing to do")
    return p01, p10


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    bad = [name for name in given if name not in known]
    if bad or not given:
        got = repr(bad[0]) if bad else "none"
        raise InputError(f"{what}: expected {', '.join(known)}, got {got}")


def _prefixed(show: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda text: show(prefix + text)
