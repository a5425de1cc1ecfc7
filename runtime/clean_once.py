# SPDX-License-Identifier: Apache-2.0
"""An evaluator that remembers the clean network, for many measurements of one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import Dataset
from .evaluate import Evaluator
from .metrics import Scores
from .session import NoisySession


class CleanOnce(Evaluator):
    """An evaluator that runs no image twice without noise; parameters are those of `Evaluator`.

    So that every entry can have a finder of its own, whose result does not depend on what others
    have measured before, and which costs no clean images again.
    """

    def __init__(self, session: NoisySession, data: Dataset, batch_size: int) -> None:
        super().__init__(session, data, batch_size)
        self._known = np.zeros(len(data), dtype=bool)
        self._clean: Scores | None = None

    def run(
        self,
        bit_error_rate: Any = 0.0,
        bit_mask: Any = None,
        seed: int = 0,
        samples: npt.NDArray[np.int64] | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> Scores:
        """Run all samples, or some, as `Evaluator.run` does; clean ones that are known are not run.

        Rates that are all 0 are clean, where `samples` are given.
        """
        if samples is None or np.any(bit_error_rate):
            return super().run(bit_error_rate, bit_mask, seed, samples, tick)
        missing = samples[~self._known[samples]]
        if len(missing):
            new = super().run(0.0, samples=missing, tick=tick)
            self._clean = (self._clean or _each(new, self._empty)).replaced(missing, new)
            self._known[missing] = True
        return _each(self._clean or Scores(), lambda values: values[samples])

    def _empty(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.zeros(len(self), dtype=values.dtype)


def _each(scores: Scores, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Scores:
    arrays = {f.name: getattr(scores, f.name) for f in fields(scores)}
    return Scores(**{name: change(a) for name, a in arrays.items() if a is not None})
