# SPDX-License-Identifier: Apache-2.0
"""harden: the same bits flip, no NaN is read, values are clipped, and nothing else changes."""

import functools

import numpy as np
import onnx
import pytest
from hardenable import X, annotated_in, network, ranges_of, run
from onnx import TensorProto
from onnx_models import NODE, model, same, session, stores, value, weight

from noisystore.export import onnx_files
from noisystore.export.harden import harden
from noisystore.runtime import NoisySession
from noisystore.runtime.hardening import HARDENING_KEY, read_hardening
from noisystore.runtime.site_words import NETWORK_NOISE, ShownNetwork

WIDE = (-3e38, 3e38)


@pytest.fixture
def annotated(tmp_path):
    return functools.partial(annotated_in, tmp_path)


@pytest.mark.parametrize("format_", ["native", "float16", "bfloat16", "float8e4m3fn", "float8e5m2"])
def test_without_flips_the_outputs_are_the_same_on_the_data_of_the_ranges(
    annotated, tmp_path, format_
):
    path, hard = annotated(storage_format=format_), tmp_path / "hard.onnx"
    ranges = ranges_of(path)
    done = harden(path, hard, ranges=ranges, source="37 vectors")
    assert done.clipped == done.nan_to_zero == (0, 1)
    assert done.left_alone == {}
    assert done.ranges == ranges
    assert same(run(path), run(hard))
    _, r, _ = run(path)
    assert (float(r.min()), float(r.max())) == ranges[0]
    wider = run(hard, x=3 * X)
    assert wider[1].max() == ranges[0][1] < run(path, x=3 * X)[1].max()
    assert read_hardening(hard).as_dict() == {
        "ranges": {str(site): list(bounds) for site, bounds in ranges.items()},
        "nan_to_zero": [0, 1],
        "source": "37 vectors",
    }


def test_the_same_bits_flip(annotated, tmp_path):
    path, hard = annotated(), tmp_path / "hard.onnx"
    harden(path, hard, ranges=ranges_of(path))
    index = np.arange(len(X), dtype=np.int64)
    for noise in NETWORK_NOISE[:2]:
        plain, after = (
            ShownNetwork(NoisySession(p, threads=1)).run(X, index, noise) for p in (path, hard)
        )
        assert [s.difference for s in after] == ["", ""]
        assert [(s.flips, s.sha256) for s in after] == [(s.flips, s.sha256) for s in plain]
        assert sum(after[0].flips) > 0
    harden(path, hard, ranges={0: WIDE, 1: WIDE})
    for mask in ("mantissa", "sign"):
        noisy = run(path, 0.1, mask)
        assert same(noisy, run(hard, 0.1, mask))
        assert not same(noisy, run(path))


def test_the_stores_and_their_records_stay(annotated, tmp_path):
    path, hard = annotated(), tmp_path / "hard.onnx"
    harden(path, hard, ranges=ranges_of(path))
    before, after = onnx.load(path), onnx.load(hard)
    for a, b in zip(stores(before), stores(after), strict=True):
        assert (list(a.input), list(a.attribute), a.name) == (
            list(b.input),
            list(b.attribute),
            b.name,
        )
    assert after.ir_version == before.ir_version
    assert list(after.opset_import) == list(before.opset_import)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert [p for p in after.metadata_props if p.key != HARDENING_KEY] == list(
        before.metadata_props
    )
    assert NoisySession(hard).sites == NoisySession(path).sites
    assert NoisySession(hard).sizes_confirmed == NoisySession(path).sizes_confirmed


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_no_nan_is_read_and_values_are_clipped(annotated, tmp_path, dtype):
    x = X.astype(dtype)
    path = annotated(network(dtype))
    noise = {"rate": (0.9, 0.1), "mask": "exponent", "x": x}
    y, r, _ = run(path, **noise)
    assert np.isnan(r).any()
    assert np.isnan(y).any()
    nan_only, both = tmp_path / "nan.onnx", tmp_path / "both.onnx"
    assert harden(path, nan_only).clipped == ()
    bounds = {0: (0.0, 1.5), 1: (-0.5, 0.25)}
    harden(path, both, ranges=bounds)
    read = run(nan_only, **noise)[1]
    np.testing.assert_array_equal(read, np.where(np.isnan(r), 0, r).astype(dtype))
    y, read, twice = run(both, **noise)
    assert y.dtype == dtype
    np.testing.assert_array_equal(read, np.clip(np.where(np.isnan(r), 0, r), 0, dtype(1.5)))
    np.testing.assert_array_equal(twice, 2 * read)  # what the subgraph captures
    assert np.isfinite(y).all()
    assert np.abs(y).max() <= 6 * 1.5 * 0.5 * 1.01  # t times the sum of r: both readers


def test_a_site_that_is_flooded_with_nan(tmp_path, annotated):
    """All exponent bits 1: each value is NaN or infinite."""
    made = model([NODE("Relu", ["x"], ["r"])], [value("x")], [value("r")])
    path, hard = annotated(made), tmp_path / "hard.onnx"
    ones = {"bit_error_rate": (1.0, 0.0), "bit_mask": "exponent"}
    x = np.abs(X) + np.float32(0.1)
    flooded = NoisySession(path).run(x, **ones)
    assert not np.isfinite(flooded).any()
    assert np.isnan(flooded).mean() > 0.9
    harden(path, hard)
    np.testing.assert_array_equal(NoisySession(hard).run(x, **ones)[np.isnan(flooded)], 0)
    harden(path, hard, ranges={0: (0.5, 2.0)})
    read = NoisySession(hard).run(x, **ones)
    np.testing.assert_array_equal(read, np.where(np.isnan(flooded), np.float32(0.5), 2))


def test_a_bound_beyond_the_type_still_catches_infinity(annotated, tmp_path):
    made = model(
        [NODE("Relu", ["x"], ["r"])],
        [value("x", TensorProto.FLOAT16)],
        [value("r", TensorProto.FLOAT16)],
    )
    path, hard = annotated(made), tmp_path / "hard.onnx"
    assert harden(path, hard, ranges={0: (0, 1e9)}).ranges == {0: (0.0, 65504.0)}
    read = NoisySession(hard).run(X.astype(np.float16), (1.0, 0.0), bit_mask="exponent")
    assert set(np.unique(read)) <= {0.0, 65504.0}


def test_some_sites_and_one_measure(annotated, tmp_path):
    path, hard = annotated(), tmp_path / "hard.onnx"
    done = harden(path, hard, ranges={0: (0, 1), 1: (-1, 1)}, nan_to_zero=False, sites=[1])
    assert (done.clipped, done.nan_to_zero) == ((1,), ())
    kinds = [n.op_type for n in onnx.load(hard).graph.node]
    assert (kinds.count("Clip"), kinds.count("IsNaN"), kinds.count("Where")) == (1, 0, 0)
    done = harden(path, hard, ranges={1: (-1, 1)})
    assert (done.clipped, done.nan_to_zero) == ((1,), (0, 1))


def test_inputs_and_layers(annotated, tmp_path):
    path, hard = annotated(sites="input,layer"), tmp_path / "hard.onnx"
    ranges = ranges_of(path)
    assert ranges[0] == (float(X.min()), float(X.max()))
    assert len(harden(path, hard, ranges=ranges).clipped) == len(NoisySession(path).sites) == 5
    assert same(run(path), run(hard))


def test_weights_stay_constants_of_a_trial(annotated, tmp_path):
    path, hard = annotated(sites="weight,activation"), tmp_path / "hard.onnx"
    ranges = ranges_of(path)
    assert sorted(ranges) == [1, 3]
    done = harden(path, hard, ranges={**ranges, 0: (0, 1)})
    assert done.clipped == (1, 3)
    assert done.left_alone == {0: "weights and biases", 2: "weights and biases"}
    plain, after = NoisySession(path, threads=1), NoisySession(hard, threads=1)
    assert plain.prepared_sites == after.prepared_sites == (0, 2)
    np.testing.assert_allclose(after.run(X)[0], plain.run(X)[0], rtol=1e-5, atol=1e-6)
    wide = harden(path, tmp_path / "wide.onnx", ranges={1: WIDE, 3: WIDE})
    rates = [[1e-2, 1e-2], [0, 0], [1e-2, 1e-2], [0, 0]]
    noisy = plain.run(X, rates, "mantissa", seed=4)
    assert same(noisy, NoisySession(wide.path, threads=1).run(X, rates, "mantissa", seed=4))
    assert not same(noisy, plain.run(X))


def test_names_that_are_taken(annotated, tmp_path):
    made = network()
    made.graph.node.extend(
        [NODE("Neg", ["r"], ["r.read"]), NODE("Neg", ["r.read"], ["harden.zero.float32"])]
    )
    branch = made.graph.node[4].attribute[0].g
    branch.node[0].input[0] = "r.is_nan"
    branch.node.insert(0, NODE("Abs", ["r"], ["r.is_nan"]))
    made.graph.output.append(value("harden.zero.float32", shape=("n", 6)))
    path, hard = annotated(made), tmp_path / "hard.onnx"
    harden(path, hard, ranges=ranges_of(path))
    assert same(run(path), run(hard))


@pytest.mark.parametrize("large", [False, True])
def test_weights_in_other_files(annotated, tmp_path, monkeypatch, large):
    folder = tmp_path / "in"
    folder.mkdir()
    made = model(
        [NODE("Gemm", ["x", "w"], ["g"], transB=1), NODE("Relu", ["g"], ["r"])],
        [value("x", shape=("n", 256))],
        [value("r", shape=("n", 160))],
        [weight("w", 160, 256)],
    )
    whole = annotated(made)
    onnx.save(
        onnx.load(whole),
        folder / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    if large:
        monkeypatch.setattr(onnx_files, "MAX_BYTES", 100_000)
    hard = tmp_path / "hard.onnx"
    harden(folder / "m.onnx", hard, ranges={0: (0, 100)})
    assert (tmp_path / "hard.onnx.data").exists() == large
    for rate, mask in ((0.0, None), (0.05, "mantissa")):
        x = np.random.default_rng(0).standard_normal((5, 256)).astype(np.float32)
        a, b = (NoisySession(p, threads=1).run(x, rate, bit_mask=mask) for p in (whole, hard))
        np.testing.assert_array_equal(a, b)


def test_other_programs_run_the_file(annotated, tmp_path):
    path, hard = annotated(), tmp_path / "hard.onnx"
    harden(path, hard, ranges=ranges_of(path))
    assert same(session(hard).run(None, {"x": X}), session(path).run(None, {"x": X}))
