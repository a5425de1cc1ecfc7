# SPDX-License-Identifier: Apache-2.0
"""Pages of results without a browser: what they hold, what they leave out, what they refuse."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from report_results import HOSTILE, IMAGES, RATES, page_data, several, write

from noisystore.ortops import InputError
from noisystore.runtime import report, report_curves, report_html, report_tables
from noisystore.runtime.cli import build_parser, main
from noisystore.runtime.midpoint_groups import fit_results
from noisystore.runtime.rates import parse_rates
from noisystore.runtime.report import read_all, write_report
from noisystore.runtime.report_curves import network_of, read_curves
from noisystore.runtime.report_figure import Scale, draw
from noisystore.runtime.report_tables import commands
from noisystore.runtime.report_views import views_of
from noisystore.runtime.results import Results
from noisystore.runtime.rram_rates import accuracy_interval


def test_curves_are_those_of_fit(tmp_path):
    path = several(tmp_path / "r.sqlite")
    write(path, -5, description={"model": "uneven.onnx"}, ratio=0.5)
    write(path, -5, description={"model": "unlabelled.onnx"}, labels=False, images=150)
    curves, groups = read_curves(path), fit_results(path)
    assert [curve.fit for curve in curves] == [group.fit for group in groups]
    assert [curve.seeds for curve in curves] == [group.keys["seeds"] for group in groups]
    assert [curve.measure for curve in curves] == [group.keys["metric"] for group in groups]
    assert {curve.names["directions"] for curve in curves} == {"1:1", "1:0.5"}
    assert sum(curve.points for curve in curves) == 8 * 3 * len(RATES)


def test_means_and_intervals_are_those_of_all_trials(tmp_path):
    path = write(tmp_path / "r.sqlite")
    write(path, seed=1)
    (curve,) = read_curves(path)
    with Results(path, readonly=True) as results:
        rows = results.rows()
    assert np.array_equal(curve.rate, RATES)
    for i, rate in enumerate(RATES):
        correct = [row["correct"] for row in rows if row["p01"] == rate]
        assert sorted(curve.trials[i]) == sorted(correct)
        assert curve.accuracy[i] == pytest.approx(np.mean(correct) / IMAGES)
        assert tuple(curve.interval[i]) == accuracy_interval(curve.trials[i], [IMAGES] * 6)


def test_a_network_that_guesses_has_no_fit(tmp_path):
    path = write(tmp_path / "r.sqlite", images=50, description={"clean_accuracy": 0.12})
    write(path, description={"model": "good.onnx"})
    curves, _ = report.read_all([path])
    guesses, good = curves
    assert (guesses.fit, good.reason) == (None, "")
    assert "clearly more than chance (0.1), got 0.12 (50 images)" in guesses.reason
    assert write_report(path, tmp_path / "r.html")["midpoints"] == 1
    assert "got 0.12 (50 images)" in (tmp_path / "r.html").read_text()


def test_curves_that_cannot_be_fitted_are_shown_with_the_reason(tmp_path):
    path = write(tmp_path / "r.sqlite", rates=[1e-6, 1e-5], description={"model": "few.onnx"})
    write(path, description={"model": "metric.onnx"}, metric="iou", labels=False)
    write(path, 0.0, description={"model": "strong.onnx"}, images=100)
    found = {curve.names["network"]: curve for curve in read_curves(path)}
    assert "3 distinct rates" in found["few"].reason
    assert "a metric only" in found["metric"].reason
    assert found["metric"].clean_accuracy is None
    assert "above the highest rate, 0.01" in found["strong"].reason
    page = tmp_path / "r.html"
    write_report(path, page)
    text = page.read_text()
    for curve in found.values():
        assert html.escape(curve.reason) in text
    assert ">above 0.01<" in text


def test_only_new_points_are_fitted_again(tmp_path, monkeypatch):
    path, known = several(tmp_path / "r.sqlite"), {}
    before = read_curves(path, known=known)
    write(path, -5, description={"model": "new.onnx"}, seed=9)
    fitted = []
    real = report_curves.fit_curve
    monkeypatch.setattr(
        report_curves, "fit_curve", lambda *a, **k: fitted.append(a) or real(*a, **k)
    )
    after = read_curves(path, known=known)
    assert len(after) == len(before) + 1
    assert len(fitted) == 1
    assert all(any(new is old for new in after) for old in before)
    write(path, -5, description={"model": "new.onnx"}, seed=10)
    read_curves(path, known=known)
    assert len(known) == len(after)


def test_too_many_predictions_are_only_counted(tmp_path, monkeypatch):
    path = write(tmp_path / "r.sqlite")
    assert read_curves(path)[0].fit.covers == "noise and images"
    monkeypatch.setattr(report_curves, "MOST_PREDICTIONS", 100)
    (curve,) = read_curves(path)
    assert curve.fit.covers == "noise"
    assert "other noise only" in curve.reason


def test_views(tmp_path):
    curves, _ = read_all([several(tmp_path / "r.sqlite")])
    views = {view.key: view for view in views_of(curves)}
    assert list(views) == ["all", "network", "format", "mask", "board"]
    assert sorted(i for panel in views["all"].panels for i in panel.curves) == list(range(5))
    (panel,) = views["format"].panels
    assert panel.labels == ["float16", "float32"]
    assert panel.title == "a, a cpu (x86_64, CPU)"
    assert views["format"].alone == 3
    (panel,) = views["mask"].panels
    assert panel.labels == ["all bits", "bits exponent"]


def test_a_label_looks_the_same_in_all_figures_of_a_view(tmp_path):
    path = tmp_path / "r.sqlite"
    for name in ("a-float16", "a-bfloat16", "a-float32", "b-float16", "b-float32"):
        write(path, description={"model": name, "storage_format": name[2:]}, model_sha256=name)
    curves, _ = read_all([path])
    panels = next(view for view in views_of(curves) if view.key == "format").panels
    looks = [dict(zip(panel.labels, panel.styles, strict=True)) for panel in panels]
    assert looks == [
        {"float16": 0, "bfloat16": 1, "float32": 2},
        {"float16": 0, "float32": 2},
    ]


def test_more_curves_than_a_figure_tells_apart(tmp_path):
    path = tmp_path / "r.sqlite"
    for bit in range(13):
        write(path, description={"mask_name": f"msb:{bit}"}, bit_mask=hex(1 << bit), trials=1)
    curves, _ = read_all([path])
    assert [curve.names["mask"] for curve in curves] == [f"msb:{bit}" for bit in range(13)]
    panels = views_of(curves)[-1].panels
    assert [len(panel.curves) for panel in panels] == [6, 7]
    assert [panel.styles for panel in panels] == [list(range(6)), list(range(6, 13))]


def test_models_and_files_of_one_name_are_told_apart(tmp_path):
    for folder, sha in (("1", "a" * 64), ("2", "b" * 64)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "r.sqlite", model_sha256=sha)
    curves, _ = read_all([tmp_path / "1" / "r.sqlite", tmp_path / "2" / "r.sqlite"])
    assert [curve.names["network"] for curve in curves] == [
        "a (SHA-256 aaaaaaaa)",
        "a (SHA-256 bbbbbbbb)",
    ]


def test_boards_are_compared_though_their_files_and_batch_sizes_differ(tmp_path):
    paths = [tmp_path / "here.sqlite", tmp_path / "there.sqlite"]
    write(paths[0], cpu="one")
    write(paths[1], cpu="two", machine="aarch64", batch_size=1, images=100)
    curves, _ = read_all(paths)
    views = {view.key: view for view in views_of(curves)}
    assert views["board"].panels[0].labels == ["one (x86_64, CPU)", "two (aarch64, CPU)"]
    write(paths[0], cpu="one", images=100)
    curves, _ = read_all(paths)
    assert len({tuple(curve.names.values()) for curve in curves}) == 3
    assert "settings" in {view.key for view in views_of(curves)}
    # The same sweep in two files.
    copies = [write(tmp_path / name, seed=3) for name in ("1.sqlite", "2.sqlite")]
    curves, _ = read_all(copies)
    assert [view.key for view in views_of(curves)] == ["all", "file"]


@pytest.mark.parametrize(
    ("model", "network"),
    [
        ("vgg-a-float8e4m3fn.onnx", "vgg-a"),
        ("int8.onnx", "int8"),
        ("resnet_int8_noisy.onnx", "resnet_noisy"),
        ("point8.onnx", "point8"),
        (".onnx", ".onnx"),
    ],
)
def test_network_of(model, network):
    assert network_of(model) == network


def test_page_holds_all_and_asks_for_nothing(tmp_path):
    path, page = several(tmp_path / "r.sqlite"), tmp_path / "r.html"
    before = path.read_bytes()
    found = write_report(path, page)
    assert path.read_bytes() == before
    assert found["curves"] == found["midpoints"] == 5
    assert found["files"] == [str(page)]
    text = page.read_text()
    marked = text.partition("<script")[0]
    outside = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"'>) ]+)""", marked)
    assert {link for link in outside if link[0] != "#"} <= {"data:,"}
    for kind, tag in (("style", "style"), ("script", "script")):
        digest = hashlib.sha256(re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)[1].encode())
        allowed = base64.b64encode(digest.digest()).decode()
        assert f"{kind}-src 'sha256-{allowed}'" in text
    assert not re.search(r"<[^>]* (?:style|on[a-z]+)=", text)
    data = page_data(text)
    assert sum(sum(curve["count"]) for curve in data["curves"]) == found["points"]
    fits = {curve.fit.midpoint for curve in read_curves(path)}
    column = data["csv"]["midpoints"][0].index("midpoint")
    assert {row[column] for row in data["csv"]["midpoints"][1:]} == fits


def test_hostile_names_are_text(tmp_path):
    path, page = tmp_path / "r.sqlite", tmp_path / "r.html"
    said = {name: f"{name} {HOSTILE}" for name in ("model", "data", "mask_name", "storage_format")}
    said["sites"] = json.dumps({"number": 2, "kinds": [HOSTILE], "noisy": HOSTILE})
    write(path, description=said, cpu=HOSTILE, machine=HOSTILE, provider=HOSTILE)
    write(path, description={"model": HOSTILE})
    figures = tmp_path / "figures"
    write_report(path, page, title=f"my {HOSTILE}", figures=figures)
    text = page.read_text()
    assert text.count("<script") == 2
    assert not set("\u2028\u202e\x1b\x00") & set(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in text
    assert page_data(text)["curves"][0]["model"].startswith(("model <script>", "<script>"))
    for drawn in figures.glob("*.svg"):
        assert ElementTree.parse(drawn).getroot().find(".//{*}script") is None


def test_figures_hold_the_band_of_each_fit(tmp_path):
    path = tmp_path / "r.sqlite"
    write(path, images=60)
    write(path, images=200_000, trials=1, bits=False, description={"model": "sure.onnx"})
    write(path, 0.0, description={"model": "strong.onnx"}, images=100)
    curves, _ = read_all([path])
    scale = Scale.of(curves)
    (panel,) = views_of(curves)[0].panels
    root = ElementTree.fromstring(draw(panel, curves, scale, "name"))
    # Nobody would see that of 200,000 images; that of no midpoint is not known.
    (band,) = root.findall(".//{*}path[@class='band c0']")
    (number,) = (i for i, c in enumerate(curves) if c.keys["images"] == 60)
    assert band.get("data-i") == str(number)
    xs, ys = np.array(re.findall(r"([\d.]+) ([\d.]+)", band.get("d")), dtype=float).T
    assert len(xs) > 20
    axis = scale.as_dict()
    share = (xs - axis["left"]) / (axis["right"] - axis["left"])
    low, high = curves[number].fit.band(10 ** (scale.low + share * (scale.high - scale.low)))
    accuracy = axis["highest"] * (axis["bottom"] - ys) / (axis["bottom"] - axis["top"])
    edges = np.r_[low[: len(xs) // 2], high[len(xs) // 2 :]]
    np.testing.assert_allclose(accuracy, edges, atol=2e-3)
    assert np.max(high - low) > 0.1


def test_figures_are_svg_and_png(tmp_path):
    pytest.importorskip("matplotlib")
    path, folder = several(tmp_path / "r.sqlite"), tmp_path / "new" / "figures"
    found = write_report(path, None, figures=folder)
    assert sorted(found["files"]) == sorted(map(str, folder.iterdir()))
    assert {name.suffix for name in folder.iterdir()} == {".svg", ".png"}
    for drawn in folder.glob("*.svg"):
        text = drawn.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "var(" not in text
        assert drawn.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_long_labels_of_a_png_are_whole(tmp_path, monkeypatch):
    plot = pytest.importorskip("noisystore.runtime.plot")
    pytest.importorskip("matplotlib")
    path, drawn = tmp_path / "r.sqlite", []
    for seed, rate in enumerate(("1e-07", "2e-07")):
        noisy = f"the weights of each of the first three blocks; activation at {rate}"
        write(path, seed=seed, description={"sites": json.dumps({"noisy": noisy})})
    monkeypatch.setattr(plot, "save_figure", lambda figure, path: drawn.append(figure))
    write_report(path, None, figures=tmp_path / "f")
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    for text, rate in zip(texts, ("1e-07", "2e-07"), strict=True):
        assert f"activation at {rate}: midpoint" in " ".join(text.split())


def test_figures_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    found = write_report(write(tmp_path / "r.sqlite"), None, figures=tmp_path / "f")
    assert [name[-4:] for name in found["files"]] == [".svg"]


def test_much_is_thinned_and_the_page_says_so(tmp_path, monkeypatch):
    path, page = tmp_path / "r.sqlite", tmp_path / "r.html"
    for number in range(3):
        write(path, description={"model": f"{number}.onnx"}, model_sha256=str(number), trials=4)
    monkeypatch.setattr(report, "MOST_CURVES", 2)
    monkeypatch.setattr(report, "MOST_RATES", 5)
    monkeypatch.setattr(report_tables, "MOST_ROWS", 6)
    monkeypatch.setattr(report_html, "MOST_ROWS", 6)
    monkeypatch.setattr(report_html, "_MOST_NUMBERS", 10)
    found = write_report(path, page)
    assert found["curves"] == 2
    text = page.read_text()
    assert "the first 2 of 3 curves are shown" in text
    assert "2 curves have more than 5 rates" in text
    assert "The table has the first 6." in text
    assert "The CSV file has 10 of 88 trials." in text
    data = page_data(text)
    assert [len(curve["rate"]) for curve in data["curves"]] == [5, 5]
    assert data["curves"][0]["rate"][0] == RATES[0]
    assert data["curves"][0]["rate"][-1] == RATES[-1]
    assert data["curves"][0]["count"] == [4] * 5


def test_commands_measure_the_same_again(tmp_path):
    curves, _ = read_all([several(tmp_path / "r.sqlite")])
    lines = commands(curves)
    assert len(lines) == 5  # that of the other board is the same
    for line in lines:
        args = build_parser().parse_args(shlex.split(line)[1:])
        assert [p01 for p01, _ in parse_rates(args.rates)] == list(RATES)
        assert (args.trials, args.images, args.batch_size) == (3, IMAGES, 100)


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, error):
    good = write(tmp_path / "good.sqlite")
    empty = tmp_path / "empty.sqlite"
    Results(empty).close()
    (tmp_path / "text.sqlite").write_text("no database")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "r.html"
    for words, says in (
        ((good,), "expected -o FILE.html, --figures FOLDER or --live"),
        ((tmp_path / "none.sqlite", "-o", out), "no such file"),
        ((tmp_path / "text.sqlite", "-o", out), "another kind of file"),
        ((good, tmp_path / "text.sqlite", "-o", out), "another kind of file"),
        ((empty, "-o", out), "none at a rate above 0"),
        ((good, "-o", tmp_path / "r.pdf"), "ends in .html"),
        ((good, "-o", tmp_path), "got a folder"),
        ((good, "-o", tmp_path / "no" / "r.html"), "does not exist"),
        ((good, "--figures", tmp_path / "file"), "cannot be made"),
        ((good, "-o", out, "--confidence", "0.99999"), "at most 0.9999"),
        ((good, "-o", out, "--confidence", "2"), "between 0 and 1"),
        ((good, good, "-o", out), "expected each file once"),
        ((good, "-o", out, "--live-port", "8000"), "expected --live beside them"),
        ((good, "--live", "-o", out), "expected no -o"),
        ((good, "--live", "--live-port", "70000"), "a port from 0 to 65535"),
        ((good, "--live", "--live-host", "192.0.2.1"), "cannot listen at 192.0.2.1:0"),
        ((good, "--live", "--live-host", "no such host"), "cannot listen"),
        ((tmp_path / "none.sqlite", "--live"), "no such file"),
    ):
        assert says in error("report", *words), words
        assert sorted(tmp_path.iterdir()) == before


def test_output_is_no_file_that_is_read(tmp_path, error):
    path = write(tmp_path / "r.html")  # a results file that is named as a page
    before = path.read_bytes()
    assert "expected another file" in error("report", path, "-o", path)
    with pytest.raises(InputError, match="expected another file"):
        write_report(path, path)
    assert path.read_bytes() == before


def test_disk_full_leaves_the_old_page(tmp_path, error, monkeypatch):
    path, page = write(tmp_path / "r.sqlite"), tmp_path / "r.html"
    page.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in error("report", path, "-o", page)
    assert page.read_text() == "old"
    assert [name for name in tmp_path.iterdir() if name.suffix == ".tmp"] == []


def test_command(tmp_path, ok, capsys):
    path = several(tmp_path / "r.sqlite")
    found = ok("report", path, "-o", tmp_path / "r.html", "--axis", "linear")
    assert found["files"] == [str(tmp_path / "r.html")]
    assert "over the rate," in (tmp_path / "r.html").read_text()
    assert main(["report", str(path), "-o", str(tmp_path / "r.html"), "--title", "A title"]) == 0
    assert capsys.readouterr().out.startswith("5 curves, 5 midpoints, 198 points: ")
    assert "<title>A title</title>" in (tmp_path / "r.html").read_text()


def test_same_results_give_the_same_page(tmp_path):
    path = several(tmp_path / "r.sqlite")
    for name in ("1.html", "2.html"):
        write_report(path, tmp_path / name)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_options_are_checked(tmp_path):
    with pytest.raises(InputError, match="axis"):
        write_report(write(tmp_path / "r.sqlite"), tmp_path / "r.html", axis="log")
    assert not (tmp_path / "r.html").exists()
