# SPDX-License-Identifier: Apache-2.0
"""Contrast of a page's colours (WCAG 2 AA) in all themes, and that figures keep to them."""

from __future__ import annotations

import re

import pytest

from noisystore.runtime.report_figure import COLORS, style
from noisystore.runtime.report_html import _asset

CSS = _asset("page.css")
THEMES = [
    dict(re.findall(r"--(\w+):(#[0-9a-f]{6})", block))
    for block in re.findall(r":root[^{]*\{([^}]*--paper[^}]*)\}", CSS)
]


def contrast(one, other):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_themes_are_whole():
    light, dark, system_dark, printed = THEMES
    assert dark == system_dark
    assert set(light) == set(dark) == set(printed) | {"link", "focus"}
    assert {f"c{i}" for i in range(COLORS)} < set(light)
    assert {light[f"c{i}"] == printed[f"c{i}"] for i in range(COLORS)} == {True}


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark", "system dark", "print"])
def test_contrast(theme):
    for text in {"ink", "soft", "link"} & set(theme):
        for ground in ("paper", "tint"):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    for line in [f"c{i}" for i in range(COLORS)]:
        assert contrast(theme[line], theme["paper"]) >= 3, line


def test_contrast_in_maps():
    cells = re.findall(r"\.q\d\{background:(#[0-9a-f]{6});color:(#[0-9a-f]{3})\}", CSS)
    assert len(cells) == 10
    for ground, text in cells:
        assert contrast(ground, "#" + "".join(c * 2 for c in text[1:])) >= 4.5, ground


def test_saved_figures_have_the_light_theme():
    fallbacks = dict(re.findall(r"var\(--(\w+),(#[0-9a-f]{6})\)", style()))
    assert fallbacks == {name: THEMES[0][name] for name in fallbacks}
    assert len(fallbacks) >= COLORS + 4
    assert "var(" not in style(plain=True)
