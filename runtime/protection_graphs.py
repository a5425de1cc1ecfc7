# SPDX-License-Identifier: Apache-2.0
"""The graph of a model without mitigation, and the hardened ones that are made of it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from ..ortops.errors import InputError
from .clean_ranges import clean_ranges
from .dataset import SPLIT, Dataset, load
from .hardening import read_hardening
from .session import NoisySession

#: What can be done without protecting bits, by name: clipping, and NaN to 0.
MITIGATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "nan": ("nan",),
    "clip": ("clip",),
    "clip+nan": ("clip", "nan"),
}
_RANGE_IMAGES = 1000


class Graphs:
    """A model, and its hardened graphs in a folder.

    Parameters
    ----------
    session : NoisySession
        Of the model without mitigation.
    data : str or Dataset
        What the user named.
    dataset : Dataset
        The same, loaded.
    folder : path
        Where hardened graphs are written.
    show : callable
        Called with what is being done.
    """

    def __init__(
        self,
        session: NoisySession,
        data: str | Dataset,
        dataset: Dataset,
        folder: Path,
        show: Callable[[str], None],
    ) -> None:
        self._plain, self._folder, self._show = session, folder, show
        self._data, self._dataset = data, dataset
        self._ranges: dict[int, tuple[float, float]] | None = None
        self._source = ""

    def check(self, mitigations: list[str]) -> None:
        """Check that these can be made.

        Raises
        ------
        InputError
            The onnx package is missing, or the model is hardened already.
        """
        if mitigations == ["none"]:
            return
        if importlib.util.find_spec("onnx") is None:
            raise InputError(
                "mitigations need onnx, which is not installed: pip install noisystore[export], "
                "or choose the mitigation none"
            )
        if read_hardening(self._plain.path) is not None:
            raise InputError(
                f"model {self._plain.path}: it is hardened already: choose the mitigation none, or "
                "the file that it was made from"
            )

    def session(self, mitigation: str) -> NoisySession:
        """Return a session of the graph with a mitigation."""
        if not MITIGATIONS[mitigation]:
            return self._plain
        path = self._path(mitigation)
        self._harden(mitigation, path)
        maker = self._plain.maker
        return NoisySession(path, maker.providers, self._plain.threads, maker.libraries)

    def save(self, mitigation: str, path: Path) -> None:
        """Write the graph with a mitigation to a file of its own; ``none`` has none."""
        if MITIGATIONS[mitigation]:
            self._harden(mitigation, path)

    def _path(self, mitigation: str) -> Path:
        return self._folder / f"{mitigation}.onnx"

    def _harden(self, mitigation: str, path: Path) -> None:
        from ..export.harden import harden

        kinds = MITIGATIONS[mitigation]
        self._show(f"hardening: {mitigation}")
        harden(
            self._plain.path,
            path,
            ranges=self._clean_ranges() if "clip" in kinds else None,
            nan_to_zero="nan" in kinds,
            source=self._source if "clip" in kinds else "",
            custom_op_libraries=self._plain.maker.libraries,
        )

    def _clean_ranges(self) -> dict[int, tuple[float, float]]:
        if self._ranges is None:
            images = self._images()
            self._source = f"{len(images):,} images of {images.name}"
            self._show(f"clean ranges of {self._source}")
            self._ranges = clean_ranges(self._plain, images)
        return self._ranges

    def _images(self) -> Dataset:
        """The train split where there is one, so that the images measured are others."""
        if isinstance(self._data, str) and self._data.partition(":")[0] in SPLIT:
            with contextlib.suppress(InputError):
                train = load(self._data, "train", size=self._plain.image_size)
                return train.head(min(_RANGE_IMAGES, len(train)))
        return self._dataset.head(min(_RANGE_IMAGES, len(self._dataset)))
