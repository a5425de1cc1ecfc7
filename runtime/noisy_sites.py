# SPDX-License-Identifier: Apache-2.0
"""Which sites the rates of a sweep apply to, and the rates of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .sites import Site

#: Kinds of sites, as users name them, and the kinds of the records that they mean.
_KINDS = {
    "activation": ("activation", "layer"),
    "weight": ("weight",),
    "bias": ("bias",),
    "input": ("input",),
}


class NoisySites:
    """The sites of a model, told apart into those with the swept rates and those with their own.

    Parameters
    ----------
    sites : sequence of Site
        Ordered by number.
    noisy : str, int, sequence of these, or None
        Sites that have the swept rates: kinds (``activation``, ``weight``, ``bias``, ``input``),
        names or patterns of names (``features.*``), or numbers; a str may hold several, separated
        by commas. None: all that `fixed` does not name.
    fixed : mapping, optional
        From kind, name, pattern or number to a rate, or (p01, p10), that stays as it is. Sites
        that neither names have the rates 0.

    Attributes
    ----------
    label : str
        Says the same of a model in one way only: empty where all sites are swept.
    noisy : array of bool [sites]
        Which sites can have a rate above 0.

    Raises
    ------
    InputError
        A name that no site has, a rate outside [0, 1], or a site that is named twice.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        noisy: str | int | Sequence[str | int] | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self._fixed = np.zeros((len(sites), 2))
        named: set[int] = set()
        for name, rate in (fixed or {}).items():
            chosen = _chosen(sites, name, "fixed rates")
            if chosen & named:
                raise InputError(
                    f"fixed rates: expected one rate a site, got two for site {min(chosen & named)}"
                )
            named |= chosen
            self._fixed[sorted(chosen)] = noise_inputs.rate_table(rate, 1)[0]
        if noisy is None:
            swept = set(range(len(sites))) - named
        else:
            swept = set().union(*(_chosen(sites, name, "noisy") for name in _names(noisy)))
        if swept & named:
            raise InputError(
                f"fixed rates: site {min(swept & named)} has the swept rates already: expected "
                "sites other than the noisy ones"
            )
        if not swept:
            raise InputError("noisy: expected at least one site for the swept rates, got none")
        self._swept = np.array(sorted(swept), dtype=np.int64)
        self.noisy: npt.NDArray[np.bool_] = np.array(self._fixed.max(axis=1) > 0)
        self.noisy[self._swept] = True
        self.label = _label(sites, swept, self._fixed)

    def table(self, rate: Any) -> npt.NDArray[np.float64]:
        """Return the rates of all sites.

        Parameters
        ----------
        rate : float or (p01, p10)
            Of the swept sites.

        Returns
        -------
        array of float64 [sites, 2]

        Raises
        ------
        InputError
            A rate of another form, or outside [0, 1].
        """
        rates = self._fixed.copy()
        rates[self._swept] = noise_inputs.rate_table(rate, 1)[0]
        return rates


def site_rates(
    sites: Sequence[Site],
    swept: Any,
    *,
    noisy: str | int | Sequence[str | int] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> npt.NDArray[np.float64]:
    """Return a table of rates in which some sites have one rate and the others their own, or 0.

    Parameters
    ----------
    sites : sequence of Site
        ``session.sites``.
    swept : float or (p01, p10)
        Rates of the sites that `noisy` names.
    noisy : str, int, sequence of these, or None
        Kinds (``activation``, ``weight``, ``bias``, ``input``), names or patterns of names, or
        numbers. None: all that `fixed` does not name.
    fixed : mapping, optional
        From kind, name, pattern or number to a rate or (p01, p10).

    Returns
    -------
    array of float64 [sites, 2]
        As `NoisySession.run` takes it.

    Raises
    ------
    InputError
        A name that no site has, a rate outside [0, 1], or a site that is named twice.

    Examples
    --------
    >>> from noisystore.runtime.noisy_sites import site_rates
    >>> from noisystore.runtime.sites import Site
    >>> sites = [Site(0, "conv.weight", "weight", "float32", 9, 32, 0),
    ...          Site(1, "relu", "activation", "float32", 64, 32, 1)]
    >>> site_rates(sites, 1e-5, noisy="weight").tolist()
    [[1e-05, 1e-05], [0.0, 0.0]]
    """
    return NoisySites(sites, noisy, fixed).table(swept)


def _names(noisy: str | int | Sequence[str | int]) -> list[str | int]:
    if isinstance(noisy, str):
        return [name.strip() for name in noisy.split(",")]
    return [noisy] if isinstance(noisy, (int, np.integer)) else list(noisy)


def _chosen(sites: Sequence[Site], name: Any, what: str) -> set[int]:
    if isinstance(name, (int, np.integer)) or (isinstance(name, str) and name.isdecimal()):
        found = {site.site for site in sites if site.site == int(name)}
    elif not isinstance(name, str):
        raise InputError(f"{what}: expected a kind, a name or a number of sites, got {name!r}")
    elif name in _KINDS:
        found = {site.site for site in sites if site.kind in _KINDS[name]}
    else:
        found = {site.site for site in sites if site.name == name or fnmatchcase(site.name, name)}
    if not found:
        kinds = [kind for kind, means in _KINDS.items() if any(s.kind in means for s in sites)]
        raise InputError(
            f"{what}: expected a kind of this model's sites ({', '.join(kinds)}), a name or "
            f"pattern of one (such as {sites[0].name!r}) or a number from 0 to {len(sites) - 1}, "
            f"got {name!r}"
        )
    return found


def _label(sites: Sequence[Site], swept: set[int], fixed: npt.NDArray[np.float64]) -> str:
    if len(swept) == len(sites):
        return ""
    parts = [_of(sites, swept)]
    rates = {tuple(map(float, rate)) for rate in fixed if rate.any()}
    for p01, p10 in sorted(rates):
        same = {site.site for site in sites if tuple(fixed[site.site]) == (p01, p10)}
        rate = f"{p01!r}" if p01 == p10 else f"{p01!r}/{p10!r}"
        parts.append(f"{_of(sites, same)} at {rate}")
    return "; ".join(parts)


def _of(sites: Sequence[Site], chosen: set[int]) -> str:
    """Name a set of sites by its kinds where these say it, else by numbers."""
    kinds = []
    for kind, means in _KINDS.items():
        members = {site.site for site in sites if site.kind in means}
        if members and members <= chosen:
            kinds.append((kind, members))
    if set().union(*(members for _, members in kinds)) == chosen:
        return ",".join(kind for kind, _ in kinds)
    if len(chosen) == 1:
        number = min(chosen)
        return f"site {number} ({sites[number].name})"
    return f"sites {_ranges(sorted(chosen))}"


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
