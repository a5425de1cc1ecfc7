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
    for path in (ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").glob("*.md"))
]


def commands(text):
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line.split("  #")[0].strip() for line in joined.splitlines() if line[:4] == "    "]
    return [shlex.split(line)[1:] for line in lines if line.startswith("noisystore ")]


def test_commands_parse():
    found = [words for page in PAGES for words in commands((ROOT / page).read_text())]
    assert {words[0] for words in found} >= {"export", "inspect", "sweep", "fit", "train"}
    for words in found:
        build_parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
