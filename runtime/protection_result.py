# SPDX-License-Identifier: Apache-2.0
"""What `protect` finds: designs, ways to protect their bits, and what they cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..ortops.errors import InputError
from .protection_comparison import Compared
from .protection_costs import Cost
from .sites import Site

GOALS = ("bits", "area", "energy", "time")


@dataclass(frozen=True)
class Means:
    """One way to protect a design's bits.

    Attributes
    ----------
    cost : Cost
    accuracy : float
        Verified accuracy, of which the errors left in the protected bits take their share.
    left_loss : float
        That cost: measured where more than 1e-3 flips are left in an inference, else 0.
    meets : bool
        Whether the accuracy is at least the target.
    """

    cost: Cost
    accuracy: float
    left_loss: float
    meets: bool

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        return {**self.cost.as_dict(), **{k: v for k, v in vars(self).items() if k != "cost"}}


@dataclass(frozen=True)
class Design:
    """Protected bits that hold the target, with one kind of mitigation.

    Attributes
    ----------
    mitigation : str
        One of `protection_graphs.MITIGATIONS`.
    bits : int
        Protected bits of one sample.
    masks : list of int [sites]
        Protected bits of each site's word.
    unprotected : (float, (float, float))
        Accuracy with this mitigation alone, and its 95% interval.
    accuracy : float
        Of the verifying run.
    interval : (float, float)
        95%, that of the loss of accuracy, for other noise and images of the same clean accuracy.
    clean_accuracy : float
        Of the same images, without mitigation.
    target : float
        Accuracy asked for, on the same images.
    images : int
    meets : bool
        Whether the accuracy is at least the target.
    means : list of Means
        Ways to protect the bits; one without protection where there are none.
    failed : dict from str to str
        Ways that cannot protect them at this rate, and why.
    """

    mitigation: str
    bits: int
    masks: list[int]
    unprotected: tuple[float, tuple[float, float]]
    accuracy: float
    interval: tuple[float, float]
    clean_accuracy: float
    target: float
    images: int
    meets: bool
    means: list[Means]
    failed: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        values = {**vars(self), "means": [means.as_dict() for means in self.means]}
        return {**values, "interval": list(self.interval), "unprotected": list(self.unprotected)}


@dataclass(frozen=True)
class Protection:
    """Result of `protect`.

    Attributes
    ----------
    model, data : str
    rate : (float, float)
    target : str
        As it was asked for.
    stored_bits : int
        Noisy bits of one sample, all sites together.
    sites : list of Site
    swept : list of int
        Sites that have the rate.
    bit_masks : list of int [sites]
        Bits of each site's word that are noisy without protection.
    designs : list of Design
        One a mitigation.
    best : (int, int) or None
        Design and means that cost least among those that meet the target; None: none does.
    goal : str
        What "least" means.
    plain : Cost
        Of the memory without protection.
    compared : list of Compared
        This way to choose bits, all sites equally and greedy by layer, at equal bits.
    inferences : int
    seconds : float
    """

    model: str
    data: str
    rate: tuple[float, float]
    target: str
    stored_bits: int
    sites: list[Site]
    swept: list[int]
    bit_masks: list[int]
    designs: list[Design]
    best: tuple[int, int] | None
    goal: str
    plain: Cost
    compared: list[Compared]
    inferences: int
    seconds: float

    def __str__(self) -> str:
        """Return the tables that the command prints."""
        from .commands.common import table
        from .protection_report import report

        return report(self, table)

    def noise(self, design: int | None = None) -> dict[str, Any]:
        """Return what `sweep` and `find_midpoint` take to make only unprotected bits noisy.

        Parameters
        ----------
        design : int, optional
            Which of `designs`; None: the best.

        Returns
        -------
        dict
            ``noisy`` and ``bit_mask``, as ``sweep(model, data, rates, **found.noise())`` takes
            them, for the graph with the design's mitigation.

        Raises
        ------
        InputError
            No design holds the target, or this one protects all bits.
        """
        if design is None and self.best is None:
            raise InputError("protection: no design holds the target: name one of `designs`")
        number = self.best[0] if design is None and self.best is not None else design or 0
        protected = self.designs[number].masks
        left = {
            site: self.bit_masks[site] & ~protected[site]
            for site in self.swept
            if self.bit_masks[site] & ~protected[site]
        }
        if not left:
            raise InputError("protection: all bits are protected: nothing is noisy")
        masks = [left.get(site, mask) or 1 for site, mask in enumerate(self.bit_masks)]
        return {"noisy": list(left), "bit_mask": masks}

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        return {
            **vars(self),
            "rate": list(self.rate),
            "sites": [asdict(site) for site in self.sites],
            "designs": [design.as_dict() for design in self.designs],
            "best": None if self.best is None else list(self.best),
            "plain": self.plain.as_dict(),
            "compared": [compared.as_dict() for compared in self.compared],
        }
