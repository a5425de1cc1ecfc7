# SPDX-License-Identifier: Apache-2.0
"""The pages' commands parse, their links lead somewhere, the README's make targets exist."""

import pathlib
import re
import shlex

import pytest

from noisystore.runtime.cli import build_parser

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").rglob("*.md"))
]


def commands(text):
    """Arguments of `noisystore`, with or without its path, in lines that start with four spaces."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^    (?:\S+/)?noisystore (.*)", joined, re.MULTILINE)
    return [shlex.split(re.split(r"  #| [|>] ", line)[0]) for line in lines]


def test_commands_parse():
    found = [words for page in PAGES for words in commands((ROOT / page).read_text())]
    assert {words[0] for words in found} >= {"export", "inspect", "sweep", "fit", "train", "verify"}
    assert any("boards" in page.parts for page in PAGES)
    for words in found:
        build_parser().parse_args(words)


def headings(text):
    """Names that links to the headings of a page have on GitHub."""
    lines = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links(page):
    text = (ROOT / page).read_text()
    for target, heading in re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", text):
        if "://" not in target:
            path = (ROOT / page).parent / target
            assert path.exists(), target
            assert not heading or heading in headings(path.read_text()), f"{target}#{heading}"


def test_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
