# SPDX-License-Identifier: Apache-2.0
"""`noisystore harden` and the ranges of the clean network that it clips to."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession, fit_midpoint, sweep
from noisystore.runtime.clean_ranges import clean_ranges
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import Dataset, load
from noisystore.runtime.evaluate import Evaluator

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def hard(model, tmp_path_factory):
    """The trained network, hardened with both measures."""
    path = tmp_path_factory.mktemp("hard") / "hard.onnx"
    assert main(["harden", str(model), "--data", "digits", "--threads", "1", "-o", str(path)]) == 0
    return path


def relu_outputs(path, x):
    """What sites 0 and 1 of a model of `build_model` hold, without NoisyStore."""
    made = onnx.load(path)
    weights = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    first = np.maximum(np.einsum("ncijkl,ockl->noij", windows, weights["w0"]), 0)
    return first, np.maximum(first.reshape(len(x), -1) @ weights["w1"].T, 0)


# Ranges


@pytest.mark.parametrize("batch", ["N", 20])
def test_ranges_are_those_of_all_batches(make_model, tmp_path, small_data, batch):
    path = make_model(tmp_path / "m.onnx", batch=batch)
    session, ticks = NoisySession(path, threads=1), []
    ranges = clean_ranges(session, small_data, batch_size=32, tick=ticks.append)
    assert sum(ticks) == len(small_data) == 157
    assert ticks[-1] == (157 % 20 if batch == 20 else 157 % 32)
    for site, values in enumerate(relu_outputs(path, small_data.images)):
        np.testing.assert_allclose(ranges[site], (values.min(), values.max()), rtol=1e-5)
    assert ranges.keys() == {0, 1}
    assert clean_ranges(session, small_data, batch_size=32, sites=[1]) == {1: ranges[1]}
    # The extremes may lie in the last image.
    order = np.r_[1:157, 0]
    turned = Dataset("turned", small_data.images[order])
    np.testing.assert_allclose(clean_ranges(session, turned)[0], ranges[0], rtol=1e-6)


def test_ranges_are_finite_and_of_activations(make_model, tmp_path, small_data):
    path = make_model(tmp_path / "m.onnx", noisy_weight=True)
    session = NoisySession(path, threads=1)
    assert clean_ranges(session, small_data).keys() == {0, 1}  # site 2 is a weight
    made = onnx.load(path)
    relu = next(n for n in made.graph.node if n.op_type == "Relu")
    relu.op_type = "Log"  # of negative numbers NaN, of 0 -Inf
    onnx.save(made, path)
    ranges = clean_ranges(NoisySession(path, threads=1), small_data)
    with np.errstate(invalid="ignore", divide="ignore"):
        made = onnx.load(path)
        weights = numpy_helper.to_array(made.graph.initializer[0])
        windows = np.lib.stride_tricks.sliding_window_view(small_data.images, (3, 3), axis=(2, 3))
        values = np.log(np.einsum("ncijkl,ockl->noij", windows, weights))
    finite = values[np.isfinite(values)]
    assert finite.size < values.size
    assert ranges[0][1] == pytest.approx(finite.max(), rel=1e-5)
    assert np.isfinite(ranges[0]).all()
    assert 1 not in ranges  # behind it all is NaN


def test_ranges_of_images_that_do_not_fit(model_path):
    with pytest.raises(InputError, match="expected shape"):
        clean_ranges(NoisySession(model_path), Dataset("x", np.zeros((4, 1, 5, 5), np.float32)))


# The command


def test_harden(model, hard, ok, capsys):
    session = NoisySession(model, threads=1)
    ranges = clean_ranges(session, load("digits", "train", 1000), batch_size=37)
    shown = ok("inspect", hard)["hardening"]
    assert shown["source"] == "1,000 images of digits/train"
    assert shown["nan_to_zero"] == list(range(8))
    for site, bounds in ranges.items():
        np.testing.assert_allclose(shown["ranges"][str(site)], bounds, rtol=1e-5)
    assert main(["inspect", str(hard)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "hardened: 8 sites clipped to the range of 1,000 images of digits/train, NaN reads as 0 at "
        "8 sites"
    )
    assert ok("inspect", model)["hardening"] is None
    evaluators = [
        Evaluator(NoisySession(path, threads=1), load("digits", "train", 1000), 50)
        for path in (model, hard)
    ]
    for (_, before), (_, after) in zip(*(e.outputs() for e in evaluators), strict=True):
        assert before.tobytes() == after.tobytes()


def test_a_hardened_network_stands_more(model, hard):
    points = {}
    for path in (model, hard):
        points[path] = sweep(path, "digits", "1e-6:3e-2:2/decade", trials=2, images=200, threads=1)
    plain, hardened = (points[path] for path in (model, hard))
    assert hardened.clean_accuracy == pytest.approx(plain.clean_accuracy, abs=0.01)
    midpoints = [fit_midpoint(result).midpoint for result in (plain, hardened)]
    assert midpoints[1] > 10 * midpoints[0]


def test_what_it_prints(model_path, small_npz, tmp_path, capsys):
    out = tmp_path / "hard.onnx"
    words = ["harden", model_path, "--data", f"npz:{small_npz}", "-o", out]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    assert printed.out == (
        f"wrote {out}, 2 sites: 2 sites clipped to the range of 157 images of npz/small.npz, NaN "
        "reads as 0 at 2 sites\n"
    )
    assert "measure on other images" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["hard.onnx"]


def test_parts_of_it(make_model, small_npz, tmp_path, ok, capsys):
    path, out = make_model(tmp_path / "m.onnx", noisy_weight=True), tmp_path / "hard.onnx"
    result = ok("harden", path, "--no-clip", "-o", out)
    assert (result["clipped"], result["nan_to_zero"]) == ([], [0, 1])
    assert result["left_alone"] == {"2": "weights and biases"}
    assert result["source"] == ""
    data = ["--data", f"npz:{small_npz}", "--images", 20]
    result = ok("harden", path, *data, "--no-nan-to-zero", "--sites", "hid*,2", "-o", out)
    assert (result["clipped"], result["nan_to_zero"]) == ([1], [])
    assert result["ranges"].keys() == {"1"}
    assert ok("inspect", out)["hardening"]["source"] == "20 images of npz/small.npz"
    assert main(["harden", str(path), "--no-clip", "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "left alone (weights and biases): 2"


def test_bad_input(model_path, small_npz, tmp_path, error, ok):
    hard, out, data = tmp_path / "hard.onnx", tmp_path / "out.onnx", ["--data", f"npz:{small_npz}"]
    ok("harden", model_path, "--no-clip", "-o", hard)
    for words, message in (
        ([hard, *data], "hardened already"),
        ([model_path], "--data: expected images"),
        ([model_path, *data, "--no-clip", "--no-nan-to-zero"], "nothing to do"),
        ([model_path, *data, "--sites", "weight"], "--sites: expected a kind"),
        ([model_path, *data, "--images", 158], "from 1 to 157"),
        ([model_path, "--data", "digits"], "expected shape"),
        ([model_path, "--data", "npz:missing.npz"], "missing.npz"),
        ([tmp_path / "no.onnx", *data], "no.onnx"),
    ):
        assert message in error("harden", *words, "-o", out)
    assert "expected another file" in error("harden", model_path, *data, "-o", model_path)
    assert "does not exist" in error("harden", model_path, *data, "-o", tmp_path / "no" / "o.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["hard.onnx"]


def test_without_onnx(model_path, tmp_path, error, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = error("harden", model_path, "--no-clip", "-o", tmp_path / "m.onnx")
    assert "pip install noisystore[export]" in line


def test_only_integers(tmp_path, small_npz, error):
    from noisystore.export import annotate

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Flatten", ["d"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", 1, ["n", 1, 6, 6])],
        [value("y", 1, ["n", 36])],
        [
            numpy_helper.from_array(np.array(0.05, np.float32), "scale"),
            numpy_helper.from_array(np.array(128, np.uint8), "zero"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "q.onnx"
    annotate(helper.make_model(graph, opset_imports=opset, ir_version=8), path, sites="input")
    assert {site.word_format for site in NoisySession(path).sites} == {"uint8"}
    line = error("harden", path, "--data", f"npz:{small_npz}", "-o", tmp_path / "h.onnx")
    assert "nothing to harden" in line
    assert "integers" in line
    assert not (tmp_path / "h.onnx").exists()
