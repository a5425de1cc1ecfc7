# SPDX-License-Identifier: Apache-2.0
"""Philox, plans and flipped words against tests/data/known_answers.txt, oracle and library."""

import hashlib
import pathlib

import numpy as np
import pytest

from noisystore.ortops import apply, reference

ANSWERS = pathlib.Path(__file__).parents[1] / "data" / "known_answers.txt"
DTYPE_OF_WORD = {8: np.uint8, 16: np.float16, 32: np.float32, 64: np.float64}


def rows(kind):
    lines = [line.split() for line in ANSWERS.read_text().splitlines()]
    found = [line[1:] for line in lines if line[0] == kind]
    assert len(found) >= 3
    return found


def input_words(elements, word_bits):
    state, words = 1, []
    for _ in range(elements):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        words.append(state >> (64 - word_bits))
    return np.array(words, dtype=f"uint{word_bits}")


def test_philox():
    for row in rows("philox"):
        values = [int(word, 16) for word in row]
        counter = np.array(values[:4], dtype=np.uint64)
        assert reference.philox4x32(counter, (values[4], values[5])).tolist() == values[6:]


def test_plans():
    for p, k, m, n, length, *thresholds in rows("plan"):
        plan = reference.sparse_plan(float(p), int(k))
        assert (plan.m, plan.n, len(plan.thresholds)) == (int(m), int(n), int(length))
        assert plan.thresholds == [int(t, 16) for t in thresholds]


@pytest.mark.parametrize("implementation", [apply, reference.apply], ids=["library", "oracle"])
def test_cases(implementation):
    for elements, bits, p01, p10, mask, seed, site, sample, flipped, digest in rows("case"):
        words = input_words(int(elements), int(bits))
        out = implementation(
            words.view(DTYPE_OF_WORD[int(bits)]),
            (float(p01), float(p10)),
            bit_mask=int(mask, 16),
            seed=int(seed),
            site=int(site),
            sample_index=int(sample),
            rows_per_sample=-1,
        ).view(words.dtype)
        little = out.astype(out.dtype.newbyteorder("<")).tobytes()
        assert hashlib.sha256(little).hexdigest() == digest
        assert int(np.bitwise_count(out ^ words).sum()) == int(flipped)


def input_values(elements, element_type):
    if element_type == "bfloat16":
        return input_words(elements, 16)
    dtype = np.dtype(element_type)
    values = input_words(elements, 8 * dtype.itemsize).view(dtype)
    if dtype.itemsize >= 4:
        high = input_words(elements, 32) >> np.uint32(8)
        values[1::2] = ((high.astype(np.int64) - (1 << 23)) / (1 << 19))[1::2]
    return values


@pytest.mark.parametrize("implementation", [apply, reference.apply], ids=["library", "oracle"])
def test_stored(implementation):
    cases = rows("stored")
    assert len({(row[1], row[2]) for row in cases}) == 36
    for (
        elements,
        kind,
        form,
        scale,
        zero_point,
        p01,
        p10,
        mask,
        seed,
        site,
        sample,
        digest,
    ) in cases:
        out = implementation(
            input_values(int(elements), kind),
            (float(p01), float(p10)),
            bit_mask=int(mask, 16),
            seed=int(seed),
            site=int(site),
            sample_index=int(sample),
            storage_format=form,
            scale=float(scale),
            zero_point=int(zero_point),
            rows_per_sample=-1,
        )
        little = out.astype(out.dtype.newbyteorder("<")).tobytes()
        assert hashlib.sha256(little).hexdigest() == digest, (kind, form, p01, p10)
