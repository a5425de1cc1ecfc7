# SPDX-License-Identifier: Apache-2.0
"""Runs the examples of the normative page, from the installed package."""

import pathlib
import re

import noisystore.ortops
from noisystore.ortops import formats


def page():
    return (pathlib.Path(noisystore.ortops.__file__).parent / "NoisyStore.md").read_text()


def test_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", page(), re.DOTALL)
    assert len(blocks) >= 5
    names = {}
    for block in blocks:
        exec(compile(block, "NoisyStore.md", "exec"), names)


def test_page_names_every_type_and_format():
    text = page()
    for kind in (*formats.ELEMENT_TYPES, *(f"`{name}`" for name in formats.STORAGE_FORMATS)):
        assert kind in text


def test_page_says_what_masks_mean():
    rows = re.findall(
        r"^\| (`(?:all|sign|exponent|mantissa|msb|0x).*?) \|.*\| (.*) \|$", page(), re.M
    )
    pairs = [
        (name, int(number, 16))
        for names, numbers in rows
        for name, number in zip(re.findall("`(.*?)`", names), numbers.split(", "), strict=True)
    ]
    assert len(pairs) == 13
    for name, number in pairs:
        assert noisystore.ortops.bit_mask(name, "float32") == number
