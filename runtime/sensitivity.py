# SPDX-License-Identifier: Apache-2.0
"""Which site and which bit are sensitive: the midpoint noise level of each of them alone."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops import noise_inputs
from ..ortops.bit_masks import mask_name, mask_value
from ..ortops.errors import InputError
from .clean_once import CleanOnce
from .dataset import Dataset, load
from .evaluate import Evaluator
from .interrupt import Interrupted, terminable
from .midpoint_finder import HIGHEST, FoundMidpoint, MidpointFinder
from .midpoint_search import SEARCH_VERSION
from .noisy_sites import NoisySites
from .notes import session_notes
from .ort_session import Provider
from .progress import Progress
from .sensitivity_file import Entries, Key, read_entries, write_entries
from .session import NoisySession
from .sites import Site, named_mask

CONFIDENCE = 0.95

#: The mask of every bit.
ALL = "all"

#: The half level may lie outside the interval of the midpoint by this factor.
_BEYOND = 1.25


@dataclass(frozen=True)
class Sensitivity:
    """Midpoints of sites and of bits alone.

    Attributes
    ----------
    sites : list of Site
        Those that were taken, alone and together.
    masks : list of str
        Names of the masks that were taken alone, such as ``msb:1``.
    entries : dict from (int or None, str) to FoundMidpoint
        By number of the noisy site (None: all of `sites`) and name of the noisy bits (``all``:
        every bit). A site whose format lacks a mask has no entry for it; all sites together then
        are those that know it.
    model, data : str
    images : int
        Of which random ones are run.
    precision, confidence : float
    cross : bool
        Whether each site was measured with each mask.
    measured, inferences, seconds
        Of this call: entries measured, images run, time.
    path : str or None
        Of the results.
    """

    sites: list[Site]
    masks: list[str]
    entries: Entries
    model: str
    data: str
    images: int
    precision: float
    confidence: float
    cross: bool
    measured: int
    inferences: int
    seconds: float
    path: str | None

    @property
    def clean(self) -> FoundMidpoint:
        """The entry whose clean accuracy rests on the most images."""
        return max(self.entries.values(), key=lambda found: found.clean_images)

    def __str__(self) -> str:
        """Return the tables that the command prints."""
        from .commands.common import table
        from .sensitivity_report import report

        return report(self, table)

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["sites"] = [asdict(site) for site in self.sites]
        values["clean_accuracy"] = self.clean.clean_accuracy
        values["chance_accuracy"] = self.clean.chance_accuracy
        values["entries"] = [
            {"site": site, "mask": mask, "irregular": irregular(found), **found.as_dict()}
            for (site, mask), found in self.entries.items()
        ]
        return values


def irregular(found: FoundMidpoint) -> bool:
    """Whether the accuracy does not fall as eq. 2 does, so that the midpoint says little.

    Then the half level lies far outside the interval of the midpoint: the accuracy falls in two
    steps, or falls and rises again. A search that sees one part of such a curve only does not show
    it: false is no proof of a curve like eq. 2.
    """
    if found.interval is None or found.half_level is None:
        return False
    low, high = found.interval
    return not low / _BEYOND <= found.half_level <= high * _BEYOND


def sensitivity(
    model: str | os.PathLike[str] | NoisySession,
    data: str | Dataset,
    *,
    sites: str | int | Sequence[str | int] | None = None,
    masks: str | Sequence[str] = "bits",
    cross: bool = False,
    precision: float = 0.15,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    providers: Sequence[str | Provider] | str | None = None,
    threads: int | None = None,
    custom_op_libraries: Sequence[str | os.PathLike[str]] = (),
    results: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    split: str = "test",
) -> Sensitivity:
    """Find the midpoint noise level of each site alone, and of each bit alone.

    The entries are: all sites with all bits, each site with all bits, all sites with each mask;
    with `cross` each site with each mask, too.

    Parameters
    ----------
    model : path of an annotated ONNX file, or NoisySession
    data : str or Dataset
        See `noisystore.runtime.dataset.load`.
    sites : str, int, sequence of these, or None
        Sites to take, as `noisystore.runtime.sweep` takes ``noisy``; None: all. The others have no
        noise.
    masks : str or sequence of str
        Names of masks (`noisystore.ortops.bit_mask`), also in one str, separated by commas.
        ``bits`` stands for each bit of the widest word (``msb:0``, the top bit, and so on),
        ``none`` for no mask. At a site whose format lacks a mask no bit is noisy under it.
    cross : bool
        Also each site with each mask. Pairs of which a half alone has no drop are not measured:
        they have none either.
    precision : float
        Largest half width of each interval, as a share of the midpoint.
    images : int, optional
        The first of the data set; None: all. Random ones of these are run.
    seed : int
        64 bits, signed. The same seed gives the same result, interrupted or not.
    batch_size, providers, threads, custom_op_libraries
        As `noisystore.runtime.sweep` takes them.
    results : path, optional
        JSON file that is written after every entry. Entries that it has are not measured again.
    progress : bool, optional
        True: show a progress line on standard error, False: do not; None: on a terminal.
    split : "test" or "train"
        Of the data set.

    Returns
    -------
    Sensitivity

    Raises
    ------
    InputError
        Bad input of any kind, or `results` are of something else, or damaged.
    Interrupted
        Ctrl-C or SIGTERM (the entries are kept).
    """
    begin = time.perf_counter()
    if not isinstance(seed, (int, np.integer)) or not -(1 << 63) <= seed < 1 << 63:
        raise InputError(f"seed: expected an integer of 64 bits with a sign, got {seed!r}")
    session = model
    if not isinstance(session, NoisySession):
        session = NoisySession(session, providers, threads, custom_op_libraries)
    together = NoisySites(session.sites, sites)
    chosen = [site for site in session.sites if together.noisy[site.site]]
    names = _mask_names(masks, chosen)
    dataset = load(data, split, size=session.image_size) if isinstance(data, str) else data
    evaluator = CleanOnce(session, dataset.head(images), batch_size)
    before = session.inferences
    work = _Work(evaluator, chosen, int(seed), precision, together.label, results)
    wanted = _wanted(chosen, names, cross)
    measured = work.measure(wanted, progress)
    return Sensitivity(
        sites=chosen,
        masks=names,
        entries={key: work.entries[key] for key in wanted},
        model=session.path.name,
        data=dataset.name,
        images=len(evaluator),
        precision=precision,
        confidence=CONFIDENCE,
        cross=cross,
        measured=measured,
        inferences=session.inferences - before,
        seconds=time.perf_counter() - begin,
        path=None if results is None else os.fspath(results),
    )


def _mask_names(masks: str | Sequence[str], sites: Sequence[Site]) -> list[str]:
    """Return the names of the masks to take, in their one spelling, each once."""
    given = masks.split(",") if isinstance(masks, str) else list(masks)
    if given == ["none"]:
        return []
    names: list[str] = []
    for name in given:
        if name == "bits":
            names += [f"msb:{bit}" for bit in range(max(site.noisy_bits for site in sites))]
        else:
            names.append(mask_name(name))
    for name in names:
        _knowing(sites, name)
    return [name for name in dict.fromkeys(names) if name != ALL]


def _knowing(sites: Sequence[Site], mask: str) -> list[Site]:
    """Return the sites whose formats know a mask's name.

    Raises
    ------
    InputError
        None does.
    """
    found, problem = [], None
    for site in sites:
        try:
            mask_value(mask, site.word_format, site.site)
            found.append(site)
        except InputError as error:
            problem = problem or error
    if problem is not None and not found:
        raise problem
    return found


def _wanted(sites: Sequence[Site], masks: Sequence[str], cross: bool) -> list[Key]:
    """Return the entries in the order of measuring: what a cross of two depends on comes first."""
    keys: list[Key] = [(None, ALL), *((site.site, ALL) for site in sites)]
    keys += [(None, mask) for mask in masks]
    if cross:
        knowing = {mask: _knowing(sites, mask) for mask in masks}
        keys += [(site.site, mask) for site in sites for mask in masks if site in knowing[mask]]
    return keys


class _Work:
    """Entries of one model, data set and choice of sites: those that are known, and new ones."""

    def __init__(
        self,
        evaluator: Evaluator,
        sites: Sequence[Site],
        seed: int,
        precision: float,
        label: str,
        results: str | os.PathLike[str] | None,
    ) -> None:
        session = evaluator.session
        self._evaluator, self._sites = evaluator, sites
        self._seed, self._precision = seed, precision
        self._results = None if results is None else Path(results)
        self._settings = {
            "model": session.path.name,
            "model_sha256": session.model_sha256,
            "data": evaluator.data.name,
            "data_sha256": evaluator.data.sha256,
            "images": len(evaluator),
            "sites": label,
            "seed": seed,
            "precision": precision,
            "confidence": CONFIDENCE,
            "batch_size": evaluator.batch_size,
            "provider": session.arithmetic,
            "machine": platform.machine(),
            "noise_model": noise_inputs.NOISE_MODEL,
            "search_version": SEARCH_VERSION,
        }
        self.entries: Entries = {}
        if self._results is not None:
            numbers = {site.site for site in sites}
            self.entries = read_entries(self._results, self._settings, numbers)

    def measure(self, wanted: Sequence[Key], show: bool | None) -> int:
        """Measure the wanted entries that are not known; return how many."""
        todo = [key for key in wanted if key not in self.entries]
        bar = Progress(len(todo), len(todo), show if todo else False)
        measured = 0
        try:
            with terminable():
                if todo:
                    bar.say(*session_notes(self._evaluator.session, self._evaluator.data))
                for key in todo:
                    text = self._describe(key)
                    bar.start(text)
                    found = self._known(key) or self._find(key, _shower(bar, text))
                    entries = {**self.entries, key: found}
                    if self._results is not None:
                        write_entries(self._results, self._settings, self._sites, entries)
                    # Not before: what an interruption says to be in the file is there.
                    self.entries = entries
                    measured += found.inferences > 0
                    bar.finish(1, f"{text}: {found.reason}")
        except KeyboardInterrupt as error:
            number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(self._stopped(wanted), number) from None
        finally:
            bar.close()
        return measured

    def _known(self, key: Key) -> FoundMidpoint | None:
        """Return an entry that follows from others."""
        site, mask = key
        if site is None or mask == ALL:
            return None
        for half, why in (
            ((None, mask), "with these bits of all sites noisy there is no drop"),
            ((site, ALL), "with all bits of this site noisy there is no drop"),
        ):
            found = self.entries[half]
            if found.bound == "above":
                return replace(found, inferences=0, seconds=0.0, reason=f"not measured: {why}")
        return None

    def _find(self, key: Key, show: Callable[[str], None]) -> FoundMidpoint:
        number, mask = key
        sites = self._evaluator.session.sites
        noisy = [number] if number is not None else [s.site for s in _knowing(self._sites, mask)]
        chosen = NoisySites(sites, noisy)
        each = [mask if site.site in noisy else ALL for site in sites]
        finder = MidpointFinder(self._evaluator, seed=self._seed, confidence=CONFIDENCE)
        return finder.find(
            chosen,
            named_mask(each, sites)[1],
            label=f"{chosen.label}|{mask}",
            precision=self._precision,
            high=HIGHEST,
            show=show,
        )

    def _describe(self, key: Key) -> str:
        number, mask = key
        name = next((site.name for site in self._sites if site.site == number), "")
        where = "all sites" if number is None else f"site {number} ({name})"
        return f"{where}, {'all bits' if mask == ALL else mask}"

    def _stopped(self, wanted: Sequence[Key]) -> str:
        known = sum(key in self.entries for key in wanted)
        if self._results is None:
            return f"interrupted after {known} of {len(wanted)} entries, which were in memory only"
        return (
            f"interrupted: {known} of {len(wanted)} entries are in {self._results}; "
            "the same command goes on from there"
        )


def _shower(bar: Progress, entry: str) -> Callable[[str], None]:
    return lambda text: bar.start(f"{entry}: {text}")
