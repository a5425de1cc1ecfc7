# SPDX-License-Identifier: Apache-2.0
"""The experiments of the paper, run again: measured, kept, set beside what it reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..ortops.errors import InputError
from .progress import clock
from .reproduce_models import RetrainingFailed
from .reproduce_run import Reproduction
from .reproduce_settings import EXPERIMENTS, Curve, Effort, effort
from .reproduce_tables import Measured, NotFitted, Row, fitted, rows_of


def reproduce(
    experiments: str | Sequence[str],
    data: str,
    weights: str | os.PathLike[str],
    folder: str | os.PathLike[str] = "noisystore-reproduce",
    *,
    quick: bool = False,
    amount: Effort | None = None,
    **options: Any,
) -> list[Row]:
    """Run experiments of the paper, and set their figures beside the paper's.

    Every point is kept as it is measured: the same call goes on where one was interrupted, and a
    larger effort adds to a smaller one of the same images.

    Parameters
    ----------
    experiments : str or sequence of str
        fig3, table2, fig4, table5, fig5, fig6, table4, fig7, a2; or "all".
    data, weights, folder
        As `Reproduction` takes them. The folder gets reproduce.sqlite, and of each experiment
        NAME.csv (its points), NAME.png and .svg (its figure) and NAME.md (its table).
    quick : bool
        1,000 images, 2 trials, rates around the drop.
    amount : Effort, optional
        Of one's own.
    **options
        Further ones of `Reproduction`.

    Returns
    -------
    list of Row
        paper, here and ratio of each figure; of a curve that cannot be fitted, why.

    Raises
    ------
    InputError
        Bad input of any kind, or no curve can be fitted.
    Interrupted
        Ctrl-C or SIGTERM (the points are kept).
    """
    from .reproduce_report import write_experiment

    names = [experiments] if isinstance(experiments, str) else list(experiments)
    every = names == ["all"]
    if every:
        names = list(EXPERIMENTS)
    for name in names:
        if name not in EXPERIMENTS:
            raise InputError(f"reproduce: expected all or {', '.join(EXPERIMENTS)}, got {name!r}")
    if amount is None:
        amount = effort(quick, options.get("device", "cpu"))
    run = Reproduction(data, weights, folder, amount, **options)
    wanted = run.curves(names, leave_out=every)
    run.open()
    _announce(run, wanted)
    rows: list[Row] = []
    measured: dict[Curve, Measured | NotFitted] = {}
    begun = 0
    number = len({curve for curves in wanted.values() for curve in curves})
    for name, curves in wanted.items():
        for curve in curves:
            if curve not in measured:
                begun += 1
                run.say(f"[{begun}/{number}] {describe(curve)}")
                try:
                    measured[curve] = known = run.measure(curve)
                except RetrainingFailed as error:
                    run.say(f"left out: {error}")
                    continue
                if isinstance(known, NotFitted):
                    run.say(f"noisystore: warning: not fitted: {describe(curve)}: {known.reason}")
        found = {curve: measured[curve] for curve in curves if curve in measured}
        write_experiment(run.folder, name, found, run.images == len(run.data))
        figure = ", .png, .svg" if fitted(found) else ""
        run.say(f"wrote {run.folder / name}.md{figure} and .csv")
        rows += rows_of(name, found)
    failed = [found for found in measured.values() if isinstance(found, NotFitted)]
    if failed and len(failed) == len(measured):
        raise InputError(f"{describe(failed[0].curve)}: {failed[0].reason}")
    return rows


def describe(curve: Curve) -> str:
    """Name of a curve, for people."""
    mask = "" if curve.mask == "all" else f", mask {curve.mask}"
    plan = curve.retraining
    retrained = "" if plan is None else f", re-trained with mask {plan.mask} at {plan.rate:g}"
    return f"VGG-{curve.network} {curve.storage}{mask}{retrained}"


def _announce(run: Reproduction, wanted: dict[str, list[Curve]]) -> None:
    curves = list(dict.fromkeys(curve for curves in wanted.values() for curve in curves))
    lacking = run.missing(curves)
    points = sum(lacking.values())
    if not points:
        run.say(f"{len(curves)} curves: all points are in {run.results}")
        return
    seconds = run.seconds(lacking)
    training = [c for c in curves if not run.models.has_weights(c)]
    more = f", with {len(training)} re-training{'s' * (len(training) > 1)}" if training else ""
    number = f"{len(curves)} curves lack" if len(curves) > 1 else "1 curve lacks"
    run.say(
        f"{number} {points:,} points of {run.images:,} images: about "
        f"{clock(max(1.0, seconds))} on this machine{more}; every point is kept, so the same "
        "command goes on after an interruption"
    )
