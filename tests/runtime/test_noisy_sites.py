# SPDX-License-Identifier: Apache-2.0
"""Sweeps in which some sites have the swept rates and others their own, or none."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from parameter_models import small_network

from noisystore.ortops import InputError, noise_inputs
from noisystore.runtime import NoisySession, Results, fit_results, sweep
from noisystore.runtime.dataset import Dataset
from noisystore.runtime.noisy_sites import NoisySites, site_rates
from noisystore.runtime.rates import noise_seed
from noisystore.runtime.sites import Site

VARYING = {"seconds", "run_seconds", "measured", "n_run"}
SITES = [
    Site(0, "conv.weight", "weight", "float32", 72, 32, 0),
    Site(1, "conv.bias", "bias", "float32", 8, 32, 0),
    Site(2, "relu", "activation", "float32", 128, 32, 1),
    Site(3, "linear.weight", "weight", "float32", 1280, 32, 0),
    Site(4, "linear.bias", "bias", "float32", 10, 32, 0),
]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return small_network(tmp_path_factory.mktemp("network") / "small.onnx")


@pytest.fixture(scope="module")
def data(network):
    """157 images whose labels are the network's own predictions, but for every eighth."""
    images = np.random.default_rng(1).normal(size=(157, 1, 6, 6)).astype(np.float32)
    labels = NoisySession(network, threads=1).run(images).argmax(1)
    labels[::8] = (labels[::8] + 1) % 10
    return Dataset("small/test", images, labels)


def run(model, data, rates="1e-4,1e-2", **options):
    options = {"trials": 2, "batch_size": 50, "threads": 1, "progress": False, **options}
    return sweep(model, data, rates, **options)


def stable(rows, *without):
    return [{k: v for k, v in row.items() if k not in VARYING | set(without)} for row in rows]


@pytest.mark.parametrize(
    ("noisy", "swept", "label"),
    [
        (None, [0, 1, 2, 3, 4], ""),
        ("weight", [0, 3], "weight"),
        ("bias,weight", [0, 1, 3, 4], "weight,bias"),
        (["weight", "bias", "activation"], [0, 1, 2, 3, 4], ""),
        ("*.weight", [0, 3], "weight"),
        ("conv.*", [0, 1], "sites 0-1"),
        ("relu", [2], "activation"),
        (3, [3], "site 3 (linear.weight)"),
        ("0, 2,4", [0, 2, 4], "sites 0,2,4"),
        ([np.int64(1), "activation"], [1, 2], "sites 1-2"),
    ],
)
def test_choices(noisy, swept, label):
    chosen = NoisySites(SITES, noisy)
    expected = np.zeros((5, 2))
    expected[swept] = (0.1, 0.2)
    assert np.array_equal(chosen.table((0.1, 0.2)), expected)
    assert np.array_equal(site_rates(SITES, (0.1, 0.2), noisy=noisy), expected)
    assert chosen.label == label


def test_fixed_rates():
    table = site_rates(SITES, 0.5, noisy="activation", fixed={"weight": 1e-6, "1": (0.1, 0.2)})
    assert table.tolist() == [[1e-6] * 2, [0.1, 0.2], [0.5] * 2, [1e-6] * 2, [0, 0]]
    rest = NoisySites(SITES, None, {"weight": 1e-6})
    assert rest.table(0.5).tolist() == [[1e-6] * 2, [0.5] * 2, [0.5] * 2, [1e-6] * 2, [0.5] * 2]
    assert rest.label == "activation,bias; weight at 1e-06"
    both = NoisySites(SITES, "relu", {"conv.*": 0.25, "linear.bias": (0.5, 0), "3": 0})
    assert both.label == "activation; sites 0-1 at 0.25; site 4 (linear.bias) at 0.5/0.0"
    # A rate of 0 is what the others have anyway.
    assert NoisySites(SITES, "weight", {"bias": 0.0}).label == "weight"


@pytest.mark.parametrize(
    ("noisy", "fixed", "message"),
    [
        ("input", None, r"noisy: expected a kind .* \(activation, weight, bias\).* got 'input'"),
        ("nothing*", None, "got 'nothing.'"),
        (5, None, "a number from 0 to 4, got 5"),
        (-1, None, "got -1"),
        ("", None, "got ''"),
        ([], None, "at least one site"),
        (None, {"*": 0.1}, "at least one site"),
        ([1.5], None, "got 1.5"),
        ("weight", {"conv.*": 0.1}, "site 0 has the swept rates already"),
        ("relu", {"weight": 0.1, "3": 0.1}, "two for site 3"),
        ("relu", {"weight": 1.5}, r"values in \[0, 1\], got 1.5"),
        ("relu", {"weight": "high"}, "bit error rate: expected a number"),
        ("relu", {"weights": 0.5}, "fixed rates: expected a kind"),
    ],
)
def test_bad_choices(noisy, fixed, message):
    with pytest.raises(InputError, match=message) as caught:
        NoisySites(SITES, noisy, fixed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("noisy", ["weight", "bias", "activation"])
def test_each_kind_alone(network, data, noisy):
    summary = run(network, data, "1e-5,1e-3,0.2", noisy=noisy, seed=3)
    assert summary.noisy == noisy
    assert {row["noisy"] for row in summary.points} == {noisy}
    assert summary.seconds > summary.run_seconds + summary.prepare_seconds > 0
    session = NoisySession(network, threads=1)
    clean = session.run(data.images)
    changed = 0
    for row in summary.points:
        rates = np.zeros((5, 2))
        rates[[site.site for site in session.sites if site.kind == noisy]] = row["p01"]
        seed = noise_seed(3, row["trial"], row["p01"], row["p10"])
        logits = session.run(data.images, rates, seed=seed)
        assert row["correct"] == (logits.argmax(1) == data.labels).sum()
        changed += not np.array_equal(logits, clean, equal_nan=True)
        if noisy != "activation" and row["p01"] < 0.2:
            # One network for all samples: it has flips, or none.
            assert row["n_run"] in (0, 157)
    assert changed >= 2


def test_rates_of_their_own(network, data):
    options = {"noisy": "activation", "fixed_rates": {"weight": (2e-4, 0), "bias": 0.01}}
    summary = run(network, data, "1e-4", seed=1, trials=3, **options)
    session = NoisySession(network, threads=1)
    rates = np.array([(2e-4, 0), (0.01, 0.01), (1e-4, 1e-4), (2e-4, 0), (0.01, 0.01)])
    for row in summary.points:
        logits = session.run(data.images, rates, seed=noise_seed(1, row["trial"], 1e-4, 1e-4))
        assert row["correct"] == (logits.argmax(1) == data.labels).sum()
        assert (
            row["noisy"] == "activation; weight at 0.0002/0.0; bias at 0.01"
            or row["noisy"] == "activation; sites 0,3 at 0.0002/0.0; sites 1,4 at 0.01"
        )
    assert summary.points[0]["clean_accuracy"] == run(network, data).clean_accuracy


@pytest.mark.parametrize(
    "options", [{}, {"noisy": "weight"}, {"noisy": "relu", "fixed_rates": {"bias": 1e-3}}]
)
def test_skipping_changes_nothing_but_time(network, data, options):
    rates = [1e-7, 1e-6, 1e-5, 1e-4, (1e-4, 1e-5), 0.0]
    every = run(network, data, rates, trials=5, skip_clean=False, **options)
    fewer = run(network, data, rates, trials=5, **options)
    assert stable(every.points) == stable(fewer.points)
    assert {row["n_run"] for row in every.points} == {157}
    assert sum(row["n_run"] for row in fewer.points) < 0.8 * 157 * 30


def test_kept_apart_and_resumed(network, data, tmp_path):
    path = tmp_path / "r.sqlite"
    first = run(network, data, results=path)
    choices = ("weight", "bias", "activation")
    keys = {first.sweep}
    for noisy in choices:
        half = run(network, data, results=path, noisy=noisy, trials=1)
        assert half.measured == 2
        whole = run(network, data, results=path, noisy=noisy, trials=2)
        assert (whole.measured, whole.rows, whole.sweep) == (2, 4, half.sweep)
        again = run(network, data, results=path, noisy=noisy)
        assert (again.measured, again.inferences) == (0, 0)
        assert again.points == whole.points
        fresh = run(network, data, noisy=noisy)
        skipped = ("library_version", "host")
        assert stable(fresh.points, *skipped) == stable(whole.points, *skipped)
        keys.add(whole.sweep)
    # The same sites, said in other words, are the same sweep.
    assert run(network, data, results=path, noisy="*.weight").measured == 0
    assert run(network, data, results=path, noisy="weight,bias,activation").measured == 0
    fixed = run(network, data, results=path, noisy="weight", fixed_rates={"bias": 0.1})
    assert fixed.measured == 4
    assert len(keys) == 4
    with Results(path, readonly=True) as results:
        assert (
            results.rows(noisy="weight") == run(network, data, results=path, noisy="weight").points
        )
        assert {row["noisy"] for row in results.rows()} == {
            "", *choices, "weight; bias at 0.1",
        }  # fmt: skip


def test_a_mask_need_suit_the_noisy_sites_alone(data, tmp_path):
    model = small_network(tmp_path / "m.onnx", storage_format="bfloat16", bias_format="native")
    scaled = onnx.load(model)
    for node in scaled.graph.node:
        for attribute in node.attribute:
            if attribute.name == "storage_format" and node.output[0] == "r.read":
                attribute.s = b"uint8"
                node.attribute.append(onnx.helper.make_attribute("scale", 0.1))
    (entry,) = [p for p in scaled.metadata_props if p.key == noise_inputs.SITES_KEY]
    records = json.loads(entry.value)
    records[2] |= {"storage_format": "uint8", "bits_per_word": 8}
    entry.value = json.dumps(records)
    model.write_bytes(scaled.SerializeToString())
    with pytest.raises(InputError, match="sign"):
        run(model, data, bit_mask="sign")
    row = run(model, data, "0.3", bit_mask="sign", noisy="weight").points[0]
    assert row["mask"] == "sign"
    every = "0xffffffffffffffff"
    assert json.loads(row["bit_mask"]) == ["0x8000", every, every, "0x8000", every]
    numbers = [0x8000, 0, 0, 0x8000, 0]
    other = run(model, data, "0.3", bit_mask=numbers, noisy="weight").points[0]
    assert other["correct_bits"] == row["correct_bits"]
    assert row["agreement"] < 157


def test_a_sweep_of_all_sites_has_the_key_it_always_had(network, data):
    row = run(network, data).points[0]
    identity = [
        *(row["model_sha256"], row["data_sha256"], 157, 0, 50, "0xffffffffffffffff", ""),
        *("CPUExecutionProvider", row["machine"], "1"),
    ]
    text = json.dumps(identity, separators=(",", ":"))
    assert row["sweep"] == hashlib.sha256(text.encode()).hexdigest()
    assert "noisy" not in json.loads(row["sites"])


def test_curves_are_fitted_apart(network, data, tmp_path):
    path = tmp_path / "r.sqlite"
    for noisy in (None, "weight", "activation"):
        run(network, data, "1e-5:0.1:2/decade", results=path, noisy=noisy, trials=3)
    groups = {group.keys["noisy"]: group for group in fit_results(path)}
    assert set(groups) == {"", "weight", "activation"}
    assert groups["weight"].label == "small.onnx, weight"
    assert groups[""].label == "small.onnx"
    assert {group.points.rate.size for group in groups.values()} == {27}


def test_command_line(network, small_npz, tmp_path, ok, error):
    path = tmp_path / "r.sqlite"
    words = ["sweep", network, "--data", f"npz:{small_npz}", "--rates", "1e-3", "--trials", 2]
    words += ["--threads", 1, "-o", path]
    result = ok(*words, "--noisy", "relu,conv.bias", "--fixed-rate", "weight=1e-4/1e-5")
    assert result["noisy"] == "sites 1-2; weight at 0.0001/1e-05"
    assert result["measured"] == 2
    assert result["prepare_seconds"] > 0
    assert ok(*words)["noisy"] == ""
    assert "got 'input'" in error(*words, "--noisy", "input")
    for bad in ("weight", "weight=2", "=0.1", "weight=1e-3,1e-4", "weight="):
        assert "--fixed-rate: expected SITES=R" in error(*words, "--fixed-rate", bad)
    twice = error(*words, "--fixed-rate", "weight=0.1", "--fixed-rate", "weight=0.2")
    assert "got some twice" in twice
