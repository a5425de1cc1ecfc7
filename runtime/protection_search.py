# SPDX-License-Identifier: Apache-2.0
"""The cheapest protection of one network that holds its accuracy at a rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .protection_choice import Screen, bits_at, cheapest, screen
from .protection_runs import Bits, PairedRuns, Run

#: A first guess: accuracy lost is about half of the harm, as a share of what can be lost.
_HARM_A_LOSS = 2.0
#: One step changes the harm allowed by this factor at most; it ends when the two sides of the
#: target are so near.
_STEP, _NEAR = 4.0, 1.15
_MOST_TRIES = 10
#: So often less harm is allowed where a design fails on fresh images, down to a 20th.
_STRICTER = 12


@dataclass(frozen=True)
class Choice:
    """Protected bits, and the run that verified them.

    Attributes
    ----------
    protected : array of uint64 [sites]
    bits : int
        Of one sample.
    run : Run
        On other images, with other noise than the search had.
    screen : Screen or None
        None: nothing needed protection.
    """

    protected: Bits
    bits: int
    run: Run
    screen: Screen | None


def search(
    runs: PairedRuns,
    allowed: Callable[[Run], float],
    images: int,
    show: Callable[[str], None],
) -> Choice:
    """Find the fewest bits to protect.

    Bits are screened alone; then the harm that the others may do together is halved or doubled
    until the accuracy lost on `images` / 2 images is just what is allowed. The choice is verified
    on `images` others (two thirds of the data at most); where it fails there, less harm is allowed
    until it holds.

    Parameters
    ----------
    runs : PairedRuns
    allowed : callable
        From a run to the loss of accuracy that is allowed on its images.
    images : int
    show : callable
        Called with what is measured.

    Returns
    -------
    Choice
        Verified: its loss is at most the allowed one, unless even all bits protected are not
        enough, because other sites have a rate of their own.
    """
    sites = len(runs.bits)
    nothing = np.zeros(sites, dtype=np.uint64)
    samples, fresh = runs.choosing(images // 2), runs.verifying(images)
    known: dict[tuple[str, bytes], Run] = {}

    def measured(protected: Bits, purpose: str) -> Run:
        key = purpose, protected.tobytes()
        if key not in known:
            known[key] = runs.run(protected, samples if purpose == "search" else fresh, purpose)
        return known[key]

    show("nothing protected")
    run = measured(nothing, "search")
    # What may do is verified: of more images, one look at them.
    if run.loss_interval()[0] <= allowed(run):
        show("verifying: nothing protected")
        run = measured(nothing, "verify")
        if run.loss <= allowed(run):
            return Choice(nothing, 0, run, None)
    screened = screen(runs, show=lambda text: show(f"alone: {text}"))

    def design(harm: float) -> Bits:
        return screened.protected(cheapest(screened.units, harm), sites)

    def tried(harm: float) -> Run:
        protected = design(harm)
        run = measured(protected, "search")
        show(f"{screened.bits(protected):,} bits protected: accuracy {run.accuracy:.4f}")
        return run

    ranked = sorted(screened.by_bit, key=lambda place: -screened.by_bit[place])
    positions = [bits_at(runs, place) for place in ranked]
    for protected in _stricter(design, _boundary(tried, allowed, run), positions):
        show(f"verifying {screened.bits(protected):,} protected bits")
        run = measured(protected, "verify")
        if run.loss <= allowed(run):
            break
    return Choice(protected, screened.bits(protected), run, screened)


def _stricter(
    design: Callable[[float], Bits], harm: float, positions: Sequence[Bits]
) -> Iterator[Bits]:
    """Yield different designs that allow less and less harm, at last all bits."""
    last = first = design(harm)
    yield first
    for _ in range(_STRICTER):
        harm /= 1.3
        protected = design(harm)
        if not np.array_equal(protected, last):
            yield protected
        last = protected
    # The screen sees no harm where no flip of its few images did any: whole bit positions then.
    protected = first
    for number, position in enumerate(positions, 1):
        protected = protected | position
        wide = number == len(positions) or number & (number - 1) == 0
        if wide and not np.array_equal(protected, last):
            yield protected
            last = protected


def _boundary(
    tried: Callable[[float], Run], allowed: Callable[[Run], float], nothing: Run
) -> float:
    """Return the largest harm found with which the loss is allowed, or a guess below all tried."""
    span = nothing.clean_accuracy - min(nothing.accuracy, 0.5 * nothing.clean_accuracy)
    harm = _HARM_A_LOSS * max(allowed(nothing), 1e-4) / span
    good, bad = 0.0, np.inf
    for _ in range(_MOST_TRIES):
        run = tried(harm)
        if run.loss <= allowed(run):
            good = max(good, harm)
        else:
            bad = min(bad, harm)
        if good > 0 and bad < good * _NEAR:
            break
        if good > 0 and np.isfinite(bad):
            harm = float(np.sqrt(good * bad))
        else:
            aim = max(allowed(run), 1e-5) / max(run.loss, 1e-5)
            harm *= float(np.clip(aim, 1 / _STEP, _STEP)) if good == 0 else _STEP
    return good or bad / _STEP
