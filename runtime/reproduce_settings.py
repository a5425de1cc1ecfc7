# SPDX-License-Identifier: Apache-2.0
"""Which curves each figure and table of the paper needs, and at which rates they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import reproduce_paper as paper
from .dataset import Dataset
from .rates import parse_rates

#: Rates a decade; those of every curve lie on one grid, so that a finer run adds to a rougher one.
PER_DECADE = 4
#: Where the drop is looked for: so far below and above the paper's midpoint.
BELOW, ABOVE = 30.0, 10.0
#: Where the paper has no midpoint (fig. 4, mantissa), the drop is looked for from here on.
MASKED_FROM = 1e-3

EXPERIMENTS = ("fig3", "table2", "fig4", "table5", "fig5", "fig6", "table4", "fig7", "a2")


@dataclass(frozen=True)
class Retraining:
    """Noisy re-training before a sweep (appendix A.2).

    Attributes
    ----------
    mask : str
    rate : float
    epochs : int
    images : int or None
        Of the training set; None: all.
    """

    mask: str
    rate: float
    epochs: int
    images: int | None

    @property
    def label(self) -> str:
        """Short name, which a file name may hold."""
        images = "all" if self.images is None else str(self.images)
        return f"{self.mask.replace(':', '')}-{self.rate:g}-{self.epochs}x{images}"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    trials : int
        Runs a rate.
    whole_range : bool
        All rates of the paper, not only those around the drop.
    retrainings : tuple of Retraining
        Of appendix A.2.
    images : int or None
        Of the test set, the first; None: all, or `most_images` of them.
    most_images : int or None
    """

    trials: int
    whole_range: bool
    retrainings: tuple[Retraining, ...]
    images: int | None = None
    most_images: int | None = None

    def images_of(self, data: Dataset) -> int:
        """Return the number of images that are taken of a data set.

        Raises
        ------
        InputError
            It has fewer than `images`.
        """
        most = len(data) if self.most_images is None else min(self.most_images, len(data))
        return len(data.head(self.images or most))


#: As much of A.2 as a CPU does in minutes: the best mask and rate of the paper.
_ONE = Retraining(paper.RETRAINED_MASK, paper.RETRAINED_RATE, 2, 10_000)
_ALL = tuple(
    Retraining(mask, rate, paper.RETRAIN_EPOCHS, None)
    for mask in paper.RETRAIN_MASKS
    for rate in paper.RETRAIN_RATES
)
_QUICK_RETRAINING = Retraining(paper.RETRAINED_MASK, paper.RETRAINED_RATE, 2, 2_000)


def effort(quick: bool, device: str) -> Effort:
    """Return what a run does: the paper's own, or `quick`: 1,000 images, 2 trials, near the drop.

    On a CPU, re-training (A.2) is one mask and one rate, two epochs on 10,000 images; on a GPU the
    paper's whole grid.
    """
    if quick:
        return Effort(2, False, (_QUICK_RETRAINING,), most_images=1_000)
    return Effort(paper.TRIALS, True, (_ONE,) if device == "cpu" else _ALL)


@dataclass(frozen=True)
class Curve:
    """What one curve measures: accuracy against bit error rate of one network.

    Attributes
    ----------
    network : str
        A, B, D or E.
    storage : str
        float16, bfloat16, float32, float64, or int8 for the quantized network.
    mask : str
        Noisy bits of a word.
    retraining : Retraining or None
    """

    network: str
    storage: str = "float32"
    mask: str = "all"
    retraining: Retraining | None = None

    @property
    def model(self) -> str:
        """Stem of the name of its annotated graph."""
        stem = f"vgg-{self.network.lower()}-{self.storage}"
        return stem if self.retraining is None else f"{stem}-{self.retraining.label}"

    @property
    def expected(self) -> float | None:
        """The paper's midpoint; None where it has none."""
        bit = first_bit(self.mask)
        if bit == 0:
            return paper.MIDPOINTS[self.storage][self.network]
        if bit < paper.FIRST_MANTISSA_BIT:
            return paper.EXPONENT_MIDPOINTS[self.network][bit - 1]
        return None

    def rates(self, whole: bool) -> list[float]:
        """Rates to measure: the paper's range, or only those around the drop that it reports."""
        masked = self.mask != "all"
        highest = paper.HIGHEST_MASKED if masked else paper.HIGHEST
        grid = [rate for rate, _ in parse_rates(f"{paper.LOWEST}:{highest}:{PER_DECADE}/decade")]
        if whole:
            return grid
        middle = self.expected
        if middle is None:
            return [rate for rate in grid if rate >= MASKED_FROM]
        return [rate for rate in grid if middle / BELOW <= rate <= middle * ABOVE]


def first_bit(mask: str) -> int:
    """Return the first noisy bit of a float32, 0 being the sign (figure 4's cases)."""
    if mask == "all":
        return 0
    kind, _, bits = mask.partition(":")
    return int(bits.partition("-")[0]) if kind in ("exponent", "msb") else paper.FIRST_MANTISSA_BIT


def mask_from(bit: int) -> str:
    """Return the name of the mask whose first noisy bit of a float32 is `bit`."""
    if bit == 0:
        return "all"
    return f"exponent:{bit}-" if bit < paper.FIRST_MANTISSA_BIT else f"msb:{bit}-31"


#: First noisy bits of figure 4; of those from 12 on, where nothing is lost, two are looked at.
FIGURE_4_BITS = (*range(13), 16)


def curves_of(
    experiment: str, networks: Sequence[str], retrainings: Sequence[Retraining]
) -> list[Curve]:
    """Return the curves of an experiment, those of the given networks alone.

    Parameters
    ----------
    experiment : str
        One of `EXPERIMENTS`.
    networks : sequence of str
        A, B, D, E: those whose weights are there.
    retrainings : sequence of Retraining
        Of the experiment a2.
    """
    first = [n for n in networks if n == "A"]
    if experiment == "fig3":
        return [Curve(n) for n in networks]
    if experiment == "table2":
        return [Curve(n, f) for n in networks for f in ("float16", "float32", "float64")]
    if experiment == "fig4":
        return [Curve(n, mask=mask_from(bit)) for n in first for bit in FIGURE_4_BITS]
    if experiment == "table5":
        return [Curve(n, mask=mask_from(bit)) for n in networks for bit in range(1, 9)]
    if experiment == "fig5":
        return [Curve(n, f) for n in first for f in ("float16", "bfloat16", "float32", "float64")]
    if experiment == "fig6":
        return [Curve(n, f) for n in first for f in ("float32", "float16", "int8")]
    if experiment == "table4":
        return [Curve(n, f) for n in networks for f in ("float32", "int8")]
    if experiment == "fig7":
        formats = ("float16", "float32", "float64", "int8")
        return [Curve(n, f) for n in networks for f in formats]
    return [Curve(n, retraining=r) for n in first for r in (None, *retrainings)]
