# SPDX-License-Identifier: Apache-2.0
"""Write known_answers.txt with the NumPy oracle: `python tests/data/make_known_answers.py`.

The file is committed; C++ and Python tests read it. Its Philox rows are the published vectors of
Random123 (kat_vectors, philox4x32 10), not computed here.
"""

import hashlib
import itertools
import pathlib

import numpy as np

from noisystore.ortops import reference
from noisystore.ortops.formats import ELEMENT_TYPES

PHILOX = """\
00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""

PLANS = [
    (1e-20, 32), (1e-14, 32), (1e-9, 32), (1e-8, 32), (2.2e-6, 32), (1e-5, 8), (1e-4, 16),
    (0.00123, 8), (0.01, 32), (0.02, 64), (0.031, 1), (0.03124999, 23), (1e-3, 3),
    (0.01, 1), (0.03, 64), (0.031249, 23), (0.02, 2),
]  # fmt: skip

EDGES = (  # around the regimes' border, long samples, single fields, unequal and certain rates
    (517, 8, 0.03124, 0.03124, 0xFF, 20240112, 3, 7),
    (517, 8, 0.03125, 0.03125, 0xFF, 20240112, 3, 7),
    (517, 16, 0.03124, 0.03124, 0xFFFF, 20240112, 3, 7),
    (517, 16, 0.03125, 0.03125, 0xFFFF, 20240112, 3, 7),
    (517, 32, 0.03124, 0.03124, 0xFFFFFFFF, 20240112, 3, 7),
    (517, 32, 0.03125, 0.03125, 0xFFFFFFFF, 20240112, 3, 7),
    (517, 64, 0.03124, 0.03124, 0xFFFFFFFFFFFFFFFF, 20240112, 3, 7),
    (517, 64, 0.03125, 0.03125, 0xFFFFFFFFFFFFFFFF, 20240112, 3, 7),
    (200000, 32, 1e-07, 1e-07, 0xFFFFFFFF, 1, 0, 0),
    (70001, 32, 1e-06, 1e-06, 0xFFFFFFFF, 5, 2, 9999),
    (1, 32, 0.5, 0.5, 0xFFFFFFFF, 0, 0, 0),
    (129, 32, 0.01, 0.01, 0x7F800000, 42, 1, 3),
    (151, 32, 0.01, 0.01, 0x80000000, 42, 1, 3),
    (4096, 32, 0.001, 0.001, 0x7FFFFF, 42, 1, 3),
    (300, 16, 0.2, 0.2, 0x7C00, 42, 1, 3),
    (4099, 32, 0.001, 0, 0xFFFFFFFF, -1, 4, 4294967295),
    (4099, 32, 0, 0.001, 0xFFFFFFFF, -1, 4, 1),
    (4099, 32, 0.002, 0.0005, 0xFFFFFFFF, 123456789012345, 4, 1),
    (517, 32, 0.2, 1e-06, 0xFFFFFFFF, 77, 4, 1),
    (517, 8, 0.05, 0.3, 0xFF, 77, 4, 1),
    (64, 64, 1.0, 1.0, 0xFFFFFFFFFFFFFFFF, 1, 1, 1),
    (64, 32, 1.0, 0.0, 0xFFFFFFFF, 1, 1, 1),
    (64, 32, 0.0, 0.0, 0xFFFFFFFF, 1, 1, 1),
    (4099, 32, 0.03, 0.001, 0xFFFFFFFF, 11, 4, 1),
    (4099, 32, 0.001, 0.03, 0xFFFFFFFF, 11, 4, 1),
    (2000, 8, 0.03, 0.0003, 0xFF, 12, 4, 1),
    (3000, 64, 0.015, 0.03, 0xFFFFFFFFFFFFFFFF, 13, 4, 1),
    (1000, 16, 0.031249999, 0.01, 0x7FFF, 14, 4, 1),
)

#: Storage formats by element type, each with scale and zero point.
STORED = {
    "float32": ("float16", "bfloat16", "float64", "float8e4m3fn", "float8e5m2"),
    "float16": ("bfloat16", "float32", "float64", "float8e4m3fn", "float8e5m2"),
    "bfloat16": ("float16", "float32", "float64", "float8e4m3fn", "float8e5m2"),
    "float64": ("float16", "bfloat16", "float32", "float8e4m3fn", "float8e5m2"),
}
STORED_INTEGERS = (("int8", 0.125, 0), ("uint8", 0.07, 128), ("int4", 2.0, -1), ("uint4", 1.7, 7))
STORED_RATES = ((0.0, 0.0), (1e-5, 1e-5), (0.002, 0.0005), (0.3, 0.05))

ALL = (1 << 64) - 1
SEED, SITE, SAMPLE = 20240112, 3, 7


def cases():
    """Yield (elements, word_bits, p01, p10, mask, seed, site, sample)."""
    yield from EDGES
    for bits, p in itertools.product((8, 16, 32, 64), (1e-5, 1e-3, 0.02, 0.1, 0.5, 1.0)):
        yield 4099 if p < 0.01 else 517, bits, p, p, ALL & (1 << bits) - 1, SEED, SITE, SAMPLE
    for p01, p10 in ((1e-3, 1e-4), (0.0, 1e-3), (1e-3, 0.0), (0.3, 0.05), (1.0, 0.0), (0.0, 0.5)):
        yield 1031, 32, p01, p10, 0xFFFFFFFF, SEED, SITE, SAMPLE
        yield 1031, 16, p01, p10, 0xFFFF, SEED, SITE, SAMPLE
    for mask in (0x80000000, 0x7F800000, 0x007FFFFF, 0x1, 0xFFFFFFFE, 0x55555555):
        for p in (1e-3, 0.2):
            yield 1031, 32, p, p, mask, SEED, SITE, SAMPLE
    for elements in (1, 2, 129, 151, 4096, 65537):
        for p in (1e-4, 0.01, 0.25):
            yield elements, 32, p, p, 0xFFFFFFFF, SEED, SITE, SAMPLE
    yield 257, 8, 0.03, 0.03, 0x0F, -1, 0xFFFFFFFF, 0xFFFFFFFF
    yield 257, 64, 0.03, 0.01, 0xFFF0000000000000, -(1 << 63), 0, 0
    # A word of each of these is rejected because its position would not be uniform.
    for seed in (5734, 6837, 10336):
        yield 32768, 32, 4.7607421875e-06, 4.7607421875e-06, 0x1FFFFFF, seed, 9, 0


def input_words(elements, word_bits):
    """High bits of a linear congruential sequence (Knuth's MMIX constants)."""
    state, words = 1, []
    for _ in range(elements):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        words.append(state >> (64 - word_bits))
    return np.array(words, dtype=np.uint64)


def input_values(elements, element_type):
    """Any bits at even places; at odd ones, where they are exact, multiples of 2^-19 within 16."""
    word_bits = ELEMENT_TYPES[element_type].word_bits
    words = input_words(elements, word_bits).astype(f"uint{word_bits}")
    if element_type == "bfloat16":
        return words
    values = words.view(element_type)
    if word_bits >= 32:
        steps = (input_words(elements, 24).astype(np.int64) - (1 << 23))[1::2]
        values[1::2] = steps / (1 << 19)
    return values


def stored_cases():
    """Yield (elements, element_type, storage_format, scale, zero_point, p01, p10, mask)."""
    for element_type, floats in STORED.items():
        formats = [(name, 1.0, 0) for name in floats]
        for storage_format, scale, zero_point in (*formats, *STORED_INTEGERS):
            for p01, p10 in STORED_RATES:
                elements = 40961 if 0 < p01 < 1e-4 else 1031
                yield elements, element_type, storage_format, scale, zero_point, p01, p10, ALL
            yield (
                257,
                element_type,
                storage_format,
                scale,
                zero_point,
                0.01,
                0.01,
                0xA5A5A5A5A5A5A5A6,
            )


def main():
    lines = [
        "# Known answers of noise model 1. Read by the C++ and the Python tests; written by "
        "make_known_answers.py.",
        "# philox c0 c1 c2 c3 k0 k1 -> w0 w1 w2 w3",
        *(f"philox {row}" for row in PHILOX.splitlines()),
        "# plan p k m n L T[1] .. T[L]",
    ]
    for p, k in PLANS:
        plan = reference.sparse_plan(p, k)
        thresholds = " ".join(f"{t:x}" for t in plan.thresholds)
        lines.append(f"plan {p!r} {k} {plan.m} {plan.n} {len(plan.thresholds)} {thresholds}")
    lines.append(
        "# case elements word_bits p01 p10 mask seed site sample flipped_bits sha256 "
        "(of the output words, little-endian)"
    )
    for elements, bits, p01, p10, mask, seed, site, sample in cases():
        words = input_words(elements, bits)
        flipped = reference.flip_words(words, bits, (p01, p10), mask, seed, site, sample)
        count = sum(int(x).bit_count() for x in words ^ flipped)
        digest = hashlib.sha256(flipped.astype(f"<u{bits // 8}").tobytes()).hexdigest()
        lines.append(
            f"case {elements} {bits} {p01!r} {p10!r} {mask:x} {seed} {site} {sample} "
            f"{count} {digest}"
        )
    lines.append(
        "# stored elements element_type storage_format scale zero_point p01 p10 mask seed site "
        "sample sha256 (of the output's words, little-endian)"
    )
    for elements, element_type, storage_format, scale, zero_point, p01, p10, mask in stored_cases():
        out = reference.apply(
            input_values(elements, element_type),
            (p01, p10),
            bit_mask=mask,
            seed=SEED,
            site=SITE,
            sample_index=SAMPLE,
            storage_format=storage_format,
            scale=scale,
            zero_point=zero_point,
            rows_per_sample=-1,
        )
        digest = hashlib.sha256(out.astype(out.dtype.newbyteorder("<")).tobytes()).hexdigest()
        lines.append(
            f"stored {elements} {element_type} {storage_format} {scale!r} {zero_point} "
            f"{p01!r} {p10!r} {mask:x} {SEED} {SITE} {SAMPLE} {digest}"
        )
    path = pathlib.Path(__file__).with_name("known_answers.txt")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
