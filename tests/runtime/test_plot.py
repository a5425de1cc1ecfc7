# SPDX-License-Identifier: Apache-2.0
"""Figures: valid PNG and SVG, several curves, sweeps without a midpoint, nothing half-written."""

import os
import sys
import xml.etree.ElementTree
from dataclasses import replace

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.midpoint import Points, fit_midpoint
from noisystore.runtime.midpoint_curve import logistic
from noisystore.runtime.plot import (
    Curve,
    Mark,
    _draw,
    _label_places,
    describe,
    mean_and_error,
    plot_accuracy,
)

PolyCollection = pytest.importorskip("matplotlib.collections").PolyCollection


def make(mu, label="model", axis="log10"):
    rate = np.repeat(np.logspace(-8, -1, 15), 2)
    random = np.random.default_rng(0)
    correct = random.binomial(500, logistic(np.log10(rate), mu, 0.3, 0.85, 0.1))
    points = Points(rate, np.tile([0, 1], 15), correct, np.full(30, 500))
    return Curve(label, points, fit_midpoint(points, clean_accuracy=0.85, classes=10, axis=axis))


def test_png(tmp_path):
    path = plot_accuracy([make(-5)], tmp_path / "a.png", title="A")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_svg_holds_the_figures_words_and_repeats(tmp_path):
    curves = [make(-5, "first"), make(-3, "second"), make(2, "third")]
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    plot_accuracy(curves, first)
    plot_accuracy(curves, second)
    assert first.read_bytes() == second.read_bytes()
    words = " ".join(xml.etree.ElementTree.parse(first).getroot().itertext())
    for word in ("first: midpoint", "third: midpoint above 0.1", "bit error rate", "chance 10%"):
        assert word in words


def test_linear_axis(tmp_path):
    assert plot_accuracy([make(-5, axis="linear")], tmp_path / "a.png").exists()


@pytest.mark.parametrize("axis", ["log10", "linear"])
def test_the_band_of_each_fit_is_drawn(axis):
    unsure = replace(make(-4).fit, covariance=None, degrees=None)
    curves = [make(-5, axis=axis), make(2), replace(make(-4), fit=unsure)]
    (axes,) = _draw(curves, "", "accuracy", [], "").axes
    (band,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    rate, accuracy = band.get_paths()[0].vertices.T
    low, high = curves[0].fit.band(rate)
    on_edge = np.minimum(np.abs(accuracy - low), np.abs(accuracy - high))
    np.testing.assert_allclose(on_edge, 0, atol=1e-12)
    assert np.any(accuracy == low)
    assert np.any(accuracy == high)


def test_legends_of_long_labels_stay_inside(tmp_path):
    curves = [make(-5, f"a network of a long name, number {i}") for i in range(9)]
    figure = _draw(curves, "", "accuracy", [], "")
    figure.savefig(tmp_path / "a.png")
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1
    (axes,) = figure.axes
    assert axes.get_window_extent().height > 0.4 * whole.height


def test_labels_of_marks_beyond_the_edges_are_drawn(tmp_path):
    rates = [0.0, 1e-30, 1e-9, 1e-4, 0.2, 0.3, 0.4]
    for accuracy in (0.85, 0.1):
        marks = [Mark(f"cell {r}", r, accuracy, (accuracy, accuracy)) for r in rates]
        path = plot_accuracy([make(-5)], tmp_path / "a.svg", marks=marks)
        words = " ".join(xml.etree.ElementTree.parse(path).getroot().itertext())
        for rate in rates:
            arrow = "\u2190 " if rate < 1e-8 else "\u2192 " if rate > 0.1 else ""
            assert f"{arrow}cell {rate}: {rate:.2g}" in words


@pytest.mark.parametrize("count", [1, 2, 5, 34, 100])
@pytest.mark.parametrize("rate", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("accuracy", [0.1, 0.9])
def test_labels_of_marks_stand_side_by_side(count, rate, accuracy):
    low, high = 1e-6, 1e-1
    marks = [Mark("a", rate, accuracy, (0.0, 1.0))] * count
    at = np.array(_label_places(marks, [min(max(rate, low), high)] * count, low, high))
    line = (high / low) ** min(0.029, 1 / (count + 1))
    assert at.min() >= low * (1 - 1e-9)
    assert at.max() * line <= high * (1 + 1e-9)
    assert (at[1:] / at[:-1] >= line * (1 - 1e-9)).all()


def test_describe():
    assert describe(make(-5).fit).endswith("× 10⁻⁵") or describe(make(-5).fit).endswith("× 10⁻⁶")
    assert describe(make(2).fit) == "midpoint above 0.1"


@pytest.mark.parametrize(
    ("midpoint", "words"),
    [
        (9.9996e-6, "1.00 [0.90, 1.10] × 10⁻⁵"),
        (9.99e-6, "9.99 [8.99, 10.99] × 10⁻⁶"),
        (0.99999, "1.00 [0.90, 1.10] × 10⁰"),
        (1.0004e-5, "1.00 [0.90, 1.10] × 10⁻⁵"),
    ],
)
def test_the_power_of_ten_is_that_of_the_rounded_midpoint(midpoint, words):
    fit = replace(make(-5).fit, midpoint=midpoint, interval=(0.9 * midpoint, 1.1 * midpoint))
    assert describe(fit) == f"midpoint {words}"


def test_long_labels_and_titles_have_lines_and_are_not_cut():
    short, long = "a$b$", f"{'weight, ' * 12}activation at 1e-07"
    figure = _draw([make(-5, short), make(-4, long)], long, "accuracy", [], "")
    (legend,), (axes,) = figure.legends, figure.axes
    first, second = (text.get_text() for text in legend.get_texts())
    assert first.startswith(r"a\$b\$: midpoint")
    named, _, found = second.rpartition(":\n")
    assert found.startswith("midpoint")
    for text in (named, axes.get_title(loc="left")):
        assert text.split() == long.split()
        assert max(map(len, text.splitlines())) <= 60
    figure.canvas.draw()
    assert legend.get_window_extent().x1 <= figure.bbox.width
    assert axes.get_window_extent().height > 0.4 * figure.bbox.height
    (endless,) = _draw([make(-5, "x" * 1000), make(-5)], "", "", [], "").legends
    assert endless.get_texts()[0].get_text().partition(":")[0].endswith("…")


def dashes(curves):
    (axes,) = _draw(curves, "", "accuracy", [], "").axes
    across = [line for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    lines = [(line.get_ydata()[0], line.get_color()) for line in across]
    words = [text.get_text() for text in axes.texts]
    return [line for line in lines if line[0] != 0.1], [w for w in words if w[:5] == "clean"]


def test_each_clean_accuracy_is_drawn_once():
    lower = replace(make(-5), fit=replace(make(-5).fit, clean_accuracy=0.6))
    grey, blue, orange, green = "0.45", "#0072B2", "#D55E00", "#009E73"
    assert dashes([make(-5)]) == ([(0.85, blue)], ["clean 85%"])
    assert dashes([make(-5), make(-4)]) == ([(0.85, grey)], ["clean 85%"])
    assert dashes([make(-5), lower]) == ([(0.85, blue), (0.6, orange)], ["clean"])
    assert dashes([make(-5), make(-3), lower]) == ([(0.85, grey), (0.6, green)], ["clean"])


def test_error_bars_hold_binomial_error_and_spread():
    points = Points([0.1, 0.1, 0.2, 0.2], [0, 1, 0, 1], [50, 50, 20, 80], [100] * 4)
    rate, accuracy, error = mean_and_error(points)
    np.testing.assert_allclose(rate, [0.1, 0.2])
    np.testing.assert_allclose(accuracy, [0.5, 0.5])
    np.testing.assert_allclose(error, [np.sqrt(0.25 / 200), 0.3])


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.png or \.svg"):
        plot_accuracy([make(-5)], tmp_path / "a.jpg")
    with pytest.raises(InputError, match="at least one curve"):
        plot_accuracy([], tmp_path / "a.png")
    with pytest.raises(InputError, match="No such file"):
        plot_accuracy([make(-5)], tmp_path / "missing" / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="No space"):
        plot_accuracy([make(-5)], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install noisystore\[report\]"):
        plot_accuracy([make(-5)], tmp_path / "a.png")
