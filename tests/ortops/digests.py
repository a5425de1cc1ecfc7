# SPDX-License-Identifier: Apache-2.0
"""Print a digest of the operator library's words for every element type and storage format.

`python tests/ortops/digests.py` needs noisystore and NumPy only. Two machines print the same text;
.ci/check_arm compares them. A line has sizes, rates, masks and samples of one type and format.
"""

from __future__ import annotations

import hashlib

import numpy as np

from noisystore import ortops
from noisystore.ortops.formats import ELEMENT_TYPES, STORAGE_FORMATS

SIZES = (1, 63, 1031, 20011)
RATES = (0.0, 1e-6, 1e-3, (2e-3, 1e-4), 0.03, 1 / 32, 0.1, (0.2, 0.5), 1.0)
MASKS = ("all", 0x5)
SAMPLES = ((0, 3), (7, (1 << 32) - 1))


def words(kind: str, elements: int) -> np.ndarray:
    """Return two rows of all kinds of values: random words, NaNs and infinities among them."""
    bits = ELEMENT_TYPES[kind].word_bits
    place = np.arange(2 * elements, dtype=np.uint64)
    mixed = (place * np.uint64(0x9E3779B97F4A7C15)) ^ (place << np.uint64(40))
    values = (mixed >> np.uint64(64 - bits)).astype(f"uint{bits}")
    return values.reshape(2, -1) if kind == "bfloat16" else values.view(kind).reshape(2, -1)


def main() -> None:
    for kind in ELEMENT_TYPES:
        floating = kind.startswith(("float", "bfloat"))
        for form in ("native", *STORAGE_FORMATS) if floating else ("native",):
            digest, cases = hashlib.sha256(), 0
            for elements in SIZES:
                x = words(kind, elements)
                for rate in RATES:
                    for mask in MASKS:
                        for samples in SAMPLES:
                            y = ortops.apply(
                                x,
                                rate,
                                bit_mask=mask,
                                seed=cases - 40,
                                site=cases % 7,
                                sample_index=samples,
                                storage_format=form,
                                scale=0.37,
                                zero_point=3,
                            )
                            digest.update(y.view(f"u{y.dtype.itemsize}").tobytes())
                            cases += 1
            print(f"{kind} as {form}: {cases} cases, {digest.hexdigest()}")


if __name__ == "__main__":
    main()
