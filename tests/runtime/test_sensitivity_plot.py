# SPDX-License-Identifier: Apache-2.0
"""Figures of sensitivities: a cell or a point for every entry, any mask, any name, no midpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime import sensitivity_plot
from noisystore.runtime.midpoint import Points
from noisystore.runtime.midpoint_finder import FoundMidpoint
from noisystore.runtime.plot import STYLE
from noisystore.runtime.sensitivity import Sensitivity
from noisystore.runtime.sensitivity_plot import plot_sensitivity
from noisystore.runtime.sites import Site

matplotlib = pytest.importorskip("matplotlib")


def entry(midpoint):
    above = midpoint is None
    return FoundMidpoint(
        midpoint=midpoint,
        bound="above" if above else None,
        limit=0.5 if above else None,
        half_level=midpoint,
        interval=None if above else (midpoint / 1.15, min(midpoint * 1.15, 1.0)),
        sigma=None if above else 0.3,
        sigma_interval=None if above else (0.2, 0.4),
        clean_accuracy=0.9,
        chance_accuracy=0.1,
        clean_images=200,
        confidence=0.95,
        precision=None if above else 0.15,
        inferences=1000,
        seconds=1.0,
        reason="the interval is as narrow as asked",
        points=Points([], [], [], []),
    )


def made(masks, cross, formats=("float32", "float32"), name="a$b^{"):
    """A sensitivity of two sites, of which site 1 lacks the last mask."""
    sites = [Site(i, f"{name}{i}", "activation", f, 64, 32, 1) for i, f in enumerate(formats)]
    entries = {(None, "all"): entry(1e-5), (0, "all"): entry(2e-5), (1, "all"): entry(3e-2)}
    entries |= {
        (None, mask): entry(10.0 ** (i - 4) if i < 3 else None) for i, mask in enumerate(masks)
    }
    if cross:
        entries |= {(0, mask): entry(1e-3 if i < 2 else None) for i, mask in enumerate(masks)}
        entries |= {(1, mask): entry(None) for mask in masks[:-1]}
    return Sensitivity(
        sites, list(masks), entries, "m.onnx", "d", 9, 0.15, 0.95, cross, 0, 0, 0.0, None
    )


BITS = [f"msb:{bit}" for bit in range(32)]


@pytest.fixture
def draw():
    def call(found):
        with matplotlib.rc_context(STYLE):
            whole = found.cross and found.masks
            return (sensitivity_plot._heat_map if whole else sensitivity_plot._strips)(found)

    return call


def test_the_heat_map_has_a_cell_an_entry(draw):
    found = made(BITS, cross=True)
    figure = draw(found)
    meshes = [axes.collections[0] for axes in figure.axes if axes.collections][:4]
    shapes = [mesh.get_array().shape for mesh in meshes]
    assert shapes == [(1, 32), (1, 1), (2, 32), (2, 1)]
    inside = meshes[2].get_array()
    assert (inside.mask == (np.arange(32) >= 2)[None].repeat(2, 0) | [[False], [True]]).all()
    np.testing.assert_allclose(inside[0, :2], 1e-3)
    np.testing.assert_allclose(meshes[3].get_array()[:, 0], [2e-5, 3e-2])
    # Hatched: 30 and 31 of the sites, of which one has no such bit, and 29 of all sites.
    hatched = sum(bool(p.get_hatch()) for axes in figure.axes for p in axes.patches)
    assert hatched == 30 + 31 + 29
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["no drop up to 0.5", "no such bit"]
    # Dark is sensitive.
    colors = meshes[3].cmap(meshes[3].norm([2e-5, 3e-2]))[:, :3].sum(axis=1)
    assert colors[0] < colors[1]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"sign", "exponent", "mantissa", "1.0e-5", "3.0e-2"} <= set(texts)


def test_the_strips_have_a_point_an_entry(draw):
    figure = draw(made(BITS, cross=False))
    sites, bits = figure.axes
    assert [label.get_text() for label in sites.get_xticklabels()][1].startswith("1")
    assert (len(sites.containers), len(bits.containers)) == (2, 3)
    triangles = [line for line in bits.lines if line.get_marker() == "^"]
    assert len(triangles) == 29
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["all sites, all bits", "sign bit", "exponent bit", "no drop up to 0.5"]


@pytest.mark.parametrize(
    ("masks", "cross", "formats"),
    [
        (BITS, True, ("float32", "float16")),
        (["sign", "exponent", "mantissa", "exponent:3-"], True, ("float32", "float32")),
        ([f"0x{1 << bit:x}" for bit in range(20)], True, ("float32", "float32")),
        (BITS[:8], True, ("int8", "int8")),
        (BITS[:8], False, ("int8", "uint4")),
        (["sign"], False, ("float32", "float32")),
        ([], True, ("float32", "float32")),
        ([], False, ("float32", "float32")),
    ],
)
def test_figures_are_written_and_repeat(tmp_path, masks, cross, formats):
    found = made(masks, cross, formats, name="很 long.name.of.a.site.in.a.deep.module$")
    first = plot_sensitivity(found, tmp_path / "a.svg")
    second = plot_sensitivity(found, tmp_path / "b.svg")
    assert first.read_bytes() == second.read_bytes()
    png = plot_sensitivity(found, tmp_path / "a.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"ends in \.png or \.svg"):
        plot_sensitivity(found, tmp_path / "a.jpg")


def test_a_figure_without_any_midpoint(tmp_path):
    for cross in (True, False):
        found = made(["sign", "mantissa"], cross)
        none = replace(found, entries=dict.fromkeys(found.entries, entry(None)))
        assert plot_sensitivity(none, tmp_path / "a.png").exists()


def test_curves_unlike_eq_2_are_marked(draw):
    found = made(BITS, cross=True)
    odd = replace(found.entries[0, "msb:1"], half_level=1e-1)
    site = replace(found.entries[1, "all"], half_level=1e-4)
    found = replace(found, entries={**found.entries, (0, "msb:1"): odd, (1, "all"): site})
    figure = draw(found)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("?") == 1
    assert "3.0e-2?" in texts
    assert "does not fall like eq. 2" in [t.get_text() for t in figure.legends[0].get_texts()]
    strips = draw(replace(found, cross=False))
    hollow = [box.lines[0].get_markerfacecolor() == "white" for box in strips.axes[0].containers]
    assert hollow == [False, True]
    assert "does not fall like eq. 2" in [t.get_text() for t in strips.legends[0].get_texts()]
