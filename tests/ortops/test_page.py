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


def test_page_names_every_type():
    text = page()
    for kind in formats.ELEMENT_TYPES:
        assert kind in text
