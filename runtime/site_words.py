# SPDX-License-Identifier: Apache-2.0
"""What the sites of a model store and read: in the network, and fed with known words."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.bit_masks import ALL_BITS
from ..ortops.errors import InputError
from ..ortops.formats import ELEMENT_TYPES, WordFormat, check_storage_format, element_type
from .probe_graphs import ShownStore, shown_graph, shown_stores, site_graph
from .session import NoisySession
from .sites import Site
from .texts import one_line

#: Sample indices of known words: the first, one in the middle, the last that there is.
WORD_SAMPLES = (0, 7, (1 << 32) - 1)
#: Known words of a sample, about: several blocks of the noise model and a tail.
WORDS = 1031

Array = npt.NDArray[Any]
_EVERY_OTHER_BIT = 0x5555555555555555


@dataclass(frozen=True)
class Noise:
    """Rates, seed and noisy bits; each site has others, so that a mix-up of sites shows.

    Attributes
    ----------
    p01, p10 : float
        Of every eighth site; others have less, in steps of a sixteenth.
    seed : int
    bit_mask : int
        Of sites with an even number; others have the other bits, unless it is every bit.
    """

    p01: float
    p10: float
    seed: int
    bit_mask: int = ALL_BITS

    def __str__(self) -> str:
        mask = "" if self.bit_mask == ALL_BITS else f", mask {self.bit_mask:#x}"
        return f"{self.p01:g}/{self.p10:g}{mask}"

    def rates(self, site: int) -> tuple[float, float]:
        """Return (p01, p10) of a site."""
        share = 1 - site % 8 / 16
        return self.p01 * share, self.p10 * share

    def mask(self, site: int) -> int:
        """Return the noisy bits of a site."""
        odd = self.bit_mask ^ ALL_BITS if self.bit_mask != ALL_BITS else ALL_BITS
        return odd if site % 2 else self.bit_mask

    def feed(self, session: NoisySession) -> dict[str, Array]:
        """Return noise inputs 1 to 3."""
        sites = range(len(session.sites))
        rates, masks = [self.rates(i) for i in sites], [self.mask(i) for i in sites]
        return session.noise_feed(np.array(rates), masks, self.seed)


#: In the network: flips that depend on no data, sparse and dense, and others.
NETWORK_NOISE = (
    Noise(1e-3, 1e-3, 1),
    Noise(0.05, 0.05, -(1 << 40) - 2, _EVERY_OTHER_BIT),
    Noise(2e-3, 5e-4, (1 << 33) + 3),
)
#: On known words.
WORD_NOISE = (
    Noise(1e-3, 1e-3, 1),
    Noise(2e-3, 0.01, 2, _EVERY_OTHER_BIT),
    Noise(0.1, 0.1, -3, _EVERY_OTHER_BIT),
    Noise(0.3, 0.04, (1 << 62) + 4),
)


@dataclass(frozen=True)
class SiteFlips:
    """Flips of one site in one run of the network.

    Attributes
    ----------
    site : int
    flips : tuple of int
        Expected of each sample; one value where all is one sample.
    sha256 : str
        Of the flips as words, little-endian. Both empty where p01 and p10 differ, since the flips
        then depend on what is stored.
    difference : str
        The first word that was read otherwise than these flips make it; empty: none.
    """

    site: int
    flips: tuple[int, ...]
    sha256: str
    difference: str


class ShownNetwork:
    """A network whose stores show what they store and what is read.

    Parameters
    ----------
    session : NoisySession

    Attributes
    ----------
    element_types : dict from site to str
        As the tensors are; known after the first run.

    Raises
    ------
    InputError
        ONNX Runtime does not load the model with these outputs, or a store lies in a subgraph.
    """

    def __init__(self, session: NoisySession) -> None:
        self._session = session
        self._stores = shown_stores(session.path)
        shown = {store.site for store in self._stores}
        for site in session.sites:
            if site.site not in shown:
                raise InputError(
                    f"model {session.path}: site {site.site} ({site.name}) lies in a subgraph or "
                    "reads other noise inputs, so that its words cannot be looked at"
                )
        self._shown = session.maker.from_bytes(shown_graph(session.path, self._stores))
        self.element_types: dict[int, str] = {}

    def run(self, x: Array, index: npt.NDArray[np.int64], noise: Noise) -> list[SiteFlips]:
        """Run one batch and look at every store.

        Parameters
        ----------
        x : array [N, ...]
            As the network takes it.
        index : array of int64 [N]
            Sample index of each.
        noise : Noise

        Returns
        -------
        list of SiteFlips
            One a site.
        """
        feeds = {
            self._session.input_name: x,
            **noise.feed(self._session),
            noise_inputs.SAMPLE_INDEX: index,
        }
        names = list(dict.fromkeys(name for s in self._stores for name in (s.stored, s.read)))
        tensors = dict(zip(names, _run(self._session, self._shown, names, feeds), strict=True))
        found = []
        for store in self._stores:
            site = self._session.sites[store.site]
            stored, read = tensors[store.stored], tensors[store.read]
            self.element_types[store.site] = element_type(stored.dtype).name
            found.append(_looked_at(site, store, stored, read, index, noise))
        return found


def _looked_at(
    site: Site, store: ShownStore, stored: Array, read: Array, index: Array, noise: Noise
) -> SiteFlips:
    from .. import ortops
    from ..ortops import reference

    quantization: dict[str, Any] = {
        "storage_format": site.storage_format,
        "scale": store.scale,
        "zero_point": store.zero_point,
    }
    if noise.p01 != noise.p10:
        expected = ortops.apply(
            stored,
            noise.rates(site.site),
            bit_mask=noise.mask(site.site),
            seed=noise.seed,
            site=site.site,
            sample_index=index,
            rows_per_sample=site.rows_per_sample,
            **quantization,
        )
        return SiteFlips(site.site, (), "", first_difference(stored, expected, read, site))
    word = check_storage_format(site.storage_format, element_type(stored.dtype))
    flips = flip_words(site, word, stored.shape, index, noise)
    words = reference.store(stored, **quantization) ^ flips
    expected = reference.load(words, stored.dtype, **quantization)
    samples = samples_of(site, stored.shape[0] if stored.ndim else 1)
    counts = _population(flips).reshape(samples, -1).sum(axis=1)
    return SiteFlips(
        site.site,
        tuple(int(count) for count in counts),
        hashlib.sha256(flips.astype(f"<u{word.word_bits // 8}").tobytes()).hexdigest(),
        first_difference(stored, expected, read, site),
    )


def samples_of(site: Site, rows: int) -> int:
    """Return how many samples a tensor of `rows` rows holds at a site."""
    return rows // site.rows_per_sample if site.rows_per_sample > 0 else 1


def flip_words(
    site: Site, word: WordFormat, shape: Sequence[int], index: Array, noise: Noise
) -> npt.NDArray[np.uint64]:
    """Return the bits that flip where p01 = p10, as words: the library's, on words of zeros."""
    from .. import ortops

    kind = {8: "uint8", 16: "float16", 32: "float32", 64: "float64"}[word.word_bits]
    flips = ortops.apply(
        np.zeros(shape, dtype=kind),
        noise.rates(site.site)[0],
        bit_mask=noise.mask(site.site) & ((1 << word.noisy_bits) - 1),
        seed=noise.seed,
        site=site.site,
        sample_index=index,
        rows_per_sample=site.rows_per_sample,
    )
    return words_of(flips).astype(np.uint64)


def words_of(values: Array) -> Array:
    """Return the words of an array's elements as unsigned integers of the same size."""
    return np.ascontiguousarray(values).view(f"uint{values.dtype.itemsize * 8}")


def _population(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the number of set bits of each word."""
    octets = np.ascontiguousarray(words.reshape(-1, 1)).view(np.uint8)
    return np.unpackbits(octets, axis=1).sum(axis=1, dtype=np.int64)


def first_difference(stored: Array | None, expected: Array, read: Array, site: Site) -> str:
    """Return where two arrays first differ in a word, for people; empty: nowhere.

    NaNs of float16 are equal: on x86 ONNX Runtime converts them from and to float32, which changes
    their payload.
    """
    want, got = words_of(expected), words_of(read)
    different = want != got
    if expected.dtype == np.float16:
        different &= ~(np.isnan(expected) & np.isnan(read))
    if not different.any():
        return ""
    place = int(np.flatnonzero(different.reshape(-1))[0])
    digits = expected.dtype.itemsize * 2
    each = max(expected.size // samples_of(site, expected.shape[0] if expected.ndim else 1), 1)
    was = (
        ""
        if stored is None
        else f"stored {int(words_of(stored).reshape(-1)[place]):#0{digits + 2}x}, "
    )
    return (
        f"sample {place // each} of the batch, element {place % each}: {was}expected "
        f"{int(want.reshape(-1)[place]):#0{digits + 2}x}, got "
        f"{int(got.reshape(-1)[place]):#0{digits + 2}x} ({int(different.sum())} of "
        f"{different.size} words differ)"
    )


def known_words(site: Site, kind: str) -> Array:
    """Return the words that a site is fed with: of all sizes, and none a NaN.

    Parameters
    ----------
    site : Site
    kind : str
        Element type of the tensor.

    Returns
    -------
    array [rows, columns]
        Rows of as many samples as `WORD_SAMPLES` has, of about `WORDS` words each.
    """
    each = max(site.rows_per_sample, 1)
    rows, columns = len(WORD_SAMPLES) * each, max(WORDS // each, 1)
    bits = ELEMENT_TYPES[kind].word_bits
    place = np.arange(rows * columns, dtype=np.uint64) + np.uint64(site.site)
    words = (place * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
    values = words.astype(f"uint{bits}").view(kind)
    if values.dtype.kind == "f":
        # Half of them of the sizes that networks have.
        usual = ((place % np.uint64(4001)).astype(np.float64) - 2000) / 256
        values = np.where(np.isnan(values) | (place % 2 == 0), usual.astype(kind), values)
    return values.reshape(rows, columns)


def read_known_words(
    session: NoisySession, element_types: Mapping[int, str], noises: Sequence[Noise] = WORD_NOISE
) -> Iterator[tuple[Noise, dict[int, Array]]]:
    """Feed the model's own stores with `known_words`, in ONNX Runtime, and yield what is read.

    Parameters
    ----------
    session : NoisySession
    element_types : mapping from site to element type
        Of the sites to take; bfloat16 ones are left out, NumPy has no such arrays.
    noises : sequence of Noise

    Yields
    ------
    (Noise, dict from site to array)

    Raises
    ------
    InputError
        ONNX Runtime does not load the graph of stores.
    """
    types = {site: kind for site, kind in element_types.items() if kind != "bfloat16"}
    stores = session.maker.from_bytes(site_graph(session.path, types))
    x = {f"x.{i}": known_words(session.sites[i], kind) for i, kind in types.items()}
    index = noise_inputs.sample_index_array(WORD_SAMPLES)
    names = [f"y.{i}" for i in types]
    for noise in noises:
        feeds = {
            **x,
            **noise.feed(session),
            noise_inputs.SAMPLE_INDEX: index,
        }
        yield noise, dict(zip(types, _run(session, stores, names, feeds), strict=True))


def _run(session: NoisySession, graph: Any, names: list[str], feeds: dict[str, Array]) -> Any:
    try:
        return graph.run(names, feeds)
    except Exception as error:  # ONNX Runtime's own classes
        raise InputError(f"model {session.path}: ONNX Runtime: {one_line(error)}") from None


def bits_of_an_image(sites: Sequence[Site]) -> int:
    """Return the noisy bits that one sample stores, those of parameters aside; 0: unknown."""
    return sum(s.elements * s.noisy_bits for s in sites if s.rows_per_sample > 0)


def close(a: Array, b: Array) -> float:
    """Return the largest difference of two arrays, in which equal infinities and NaNs are equal."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a.astype(np.float64) - b))
    largest = float(gap.max(initial=0.0))
    return math.inf if math.isnan(largest) else largest
