# SPDX-License-Identifier: Apache-2.0
"""Sweeps on a small model: rates, seeds, what is recorded, and samples that are not run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sqlite3

import numpy as np
import pytest
from small_sweeps import run

from noisystore.ortops import InputError, count_flips
from noisystore.runtime import NoisySession, Results
from noisystore.runtime import environment as runtime_environment
from noisystore.runtime.dataset import Dataset
from noisystore.runtime.evaluate import Evaluator, affected_samples, expected_flips
from noisystore.runtime.rates import noise_seed, parse_rates
from noisystore.runtime.results import unpack_bits

VARYING = {"seconds", "run_seconds", "measured", "n_run"}


def stable(rows):
    return [{k: v for k, v in row.items() if k not in VARYING} for row in rows]


def test_rates():
    def one(text):
        return [p01 for p01, _ in parse_rates(text)]

    assert one("1e-8:1e-1:4/decade")[:5] == [1e-8, 1.77828e-8, 3.16228e-8, 5.62341e-8, 1e-7]
    assert len(one("1e-8:1e-1:4/decade")) == 29
    assert one("1e-8:1e-1:4/decade")[-1] == 0.1
    assert one("1e-3:2e-3:1/decade") == [1e-3, 2e-3]
    assert one("1e-3:1e-3:4/decade") == [1e-3]
    assert one("0.123456789:0.2:1/decade") == [0.123457, 0.2]
    assert one(" 1e-6, 1e-5,1e-6") == [1e-6, 1e-5]
    assert one(0.5) == [0.5]
    assert one(np.array([0.1, 0.2])) == [0.1, 0.2]
    assert parse_rates("1e-3/2e-3, 0") == [(1e-3, 2e-3), (0.0, 0.0)]
    assert parse_rates([0.1, (0.2, 0.3)]) == [(0.1, 0.1), (0.2, 0.3)]


@pytest.mark.parametrize(
    "rates",
    [
        *("", "a", "1e-3:1e-2", "1e-3:1e-2:4", "1e-3:1e-2:4/octave", "1e-3:1e-2:0/decade"),
        *("1e-2:1e-3:4/decade", "0:1e-3:4/decade", "1e-3:2:4/decade", "nan", "-0.1", "1.1"),
        *(
            "nan:1:4/decade",
            "1e-300:1:999999/decade",
            "1e-320:1:1/decade",
            "1/2/3",
            [],
            [(0.1, 0.2, 0.3)],
            ["x"],
        ),
        *(None, {}, [None], 10**400, f"1e-3:1:{10**400}/decade"),
    ],
)
def test_bad_rates(rates):
    with pytest.raises(InputError, match="rates: expected"):
        parse_rates(rates)


def test_noise_seed_is_the_operator_pages():
    text = f"1|-3|7|{float.hex(1e-6)}|{float.hex(0.25)}".encode()
    digest = hashlib.sha256(text).digest()
    assert noise_seed(-3, 7, 1e-6, 0.25) == int.from_bytes(digest[:8], "little")


def test_a_sweep(model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    summary = run(model_path, small_data, "1e-6,1e-4,0.5", results=path, seed=7)
    clean = 1 - len(small_data.labels[::8]) / 157
    assert summary.rows == len(summary.points) == summary.measured == 6
    assert summary.clean_accuracy == pytest.approx(clean)
    assert summary.chance_accuracy == 0.1
    assert summary.images == 157
    assert summary.inferences == 157 + sum(point["n_run"] for point in summary.points)
    assert summary.skipped == 6 * 157 - (summary.inferences - 157) > 0
    assert summary.seconds > summary.run_seconds > 0
    assert str(summary).splitlines() == [
        f"6 points of 157 images in {path} (6 measured now)",
        f"clean accuracy {clean:.4f}, {summary.inferences:,} inferences, {summary.seconds:.1f} s",
    ]
    first = summary.points[0]
    assert (first["p01"], first["p10"], first["trial"]) == (1e-6, 1e-6, 0)
    assert first["noise_seed"] % 2**64 == noise_seed(7, 0, 1e-6, 1e-6)
    assert first["n_run"] < 10
    assert summary.points[-1]["accuracy"] < 0.4
    assert (first["model"], first["data"], first["classes"]) == ("small.onnx", "small/test", 10)
    assert first["data_sha256"] == small_data.sha256
    with Results(path, readonly=True) as results:
        assert results.rows() == summary.points
        clean_bits = results.clean_bits(summary.sweep)
        assert clean_bits.mean() == summary.clean_accuracy
    for point in summary.points:
        right, same = (unpack_bits(point[k], 157) for k in ("correct_bits", "agree_bits"))
        assert right.sum() == point["correct"]
        assert same.sum() == point["agreement"]
        assert np.array_equal(right[same], clean_bits[same])
        assert point["top5"] >= point["correct"]


def test_points_are_what_the_session_says(model_path, small_data):
    summary = run(model_path, small_data, [(1e-3, 4e-3)], trials=1, seed=2, bit_mask=0xFF800000)
    session = NoisySession(model_path, threads=1)
    logits = session.run(
        small_data.images, (1e-3, 4e-3), bit_mask=0xFF800000, seed=noise_seed(2, 0, 1e-3, 4e-3)
    )
    assert summary.points[0]["correct"] == (logits.argmax(1) == small_data.labels).sum()
    assert summary.points[0]["mask"] == summary.points[0]["bit_mask"] == "0xff800000"


@pytest.mark.parametrize("noisy_weight", [False, True])
def test_skipping_changes_nothing_but_time(make_model, small_data, tmp_path, noisy_weight):
    model = make_model(tmp_path / "m.onnx", noisy_weight=noisy_weight)
    rates = [1e-7, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, (1e-4, 1e-5), 0.0]
    every = run(model, small_data, rates, trials=6, skip_clean=False)
    fewer = run(model, small_data, rates, trials=6)
    assert stable(every.points) == stable(fewer.points)
    assert {p["n_run"] for p in every.points} == {157}
    assert 0 < sum(p["n_run"] for p in fewer.points) < 0.8 * 157 * 48
    assert fewer.inferences < every.inferences
    assert {p["n_run"] for p in fewer.points if p["p01"] == 0} == {0}


def test_some_samples_have_the_logits_of_all(model_path, small_data):
    session = NoisySession(model_path, threads=1)
    seed, rate = 12, 1e-4
    samples = affected_samples(session.sites, 157, rate, None, seed)
    assert 0 < len(samples) < 157
    everything = session.run(small_data.images, rate, seed=seed)
    some = session.run(small_data.images[samples], rate, seed=seed, sample_index=samples)
    assert np.array_equal(some, everything[samples])
    clean = session.run(small_data.images)
    others = np.setdiff1d(np.arange(157), samples)
    assert np.array_equal(everything[others], clean[others])


def test_counting_agrees_with_the_library(model_path):
    sites = NoisySession(model_path).sites
    expected = count_flips((50, 128), 32, 1e-4, seed=3, site=0) > 0
    expected |= count_flips((50, 24), 32, 1e-4, seed=3, site=1) > 0
    assert affected_samples(sites, 50, 1e-4, None, 3).tolist() == np.flatnonzero(expected).tolist()
    assert affected_samples(sites, 50, 0.5, None, 3) is None
    assert affected_samples(sites, 50, 0.5, 0, 3).tolist() == []
    assert affected_samples(sites, 50, 1e-4, [0, 1], 3).size < 5
    assert expected_flips(sites, (1e-4, 2e-4), [0, 0x3]) == pytest.approx(24 * 2 * 2e-4)


def test_off_the_cpu_every_batch_has_one_size(model_path, small_data, monkeypatch):
    """What is filled up changes nothing: neither in sweeps nor where few samples are run."""
    expected = stable(run(model_path, small_data, trials=3).points)
    session = NoisySession(model_path, threads=1)
    session.provider = "CUDAExecutionProvider"
    sizes, run_feed = [], session.run_feed

    def counted(feeds, index, rows):
        sizes.append(len(feeds[session.input_name]))
        return run_feed(feeds, index, rows)

    monkeypatch.setattr(session, "run_feed", counted)
    assert stable(run(session, small_data, trials=3, threads=None).points) == expected
    assert len(sizes) > 8
    assert set(sizes) == {50}
    sizes.clear()
    few = Evaluator(session, small_data.head(20), batch_size=50)
    few.run(1e-3)
    assert sizes == [20]
    sizes.clear()
    # What is filled up would change the others of a batch.
    session.sites = [dataclasses.replace(session.sites[0], rows_per_sample=-1), *session.sites[1:]]
    Evaluator(session, small_data, batch_size=50).run(1e-3)
    assert sizes == [50, 50, 50, 7]


def test_runs_on_a_gpu_name_it(model_path, monkeypatch):
    monkeypatch.setattr(runtime_environment, "gpus", lambda top: ("NVIDIA H100", "NVIDIA H100"))
    session = NoisySession(model_path, threads=1)
    alone = runtime_environment.environment(session)["cpu"]
    assert "NVIDIA" not in alone
    session.provider = "CUDAExecutionProvider"
    assert runtime_environment.environment(session)["cpu"] == f"{alone} + NVIDIA H100"


def test_sites_without_a_batch_axis_skip_nothing(make_model, small_data, tmp_path):
    model = make_model(tmp_path / "m.onnx", last_rows=-1)
    summary = run(model, small_data, "1e-7")
    assert [point["n_run"] for point in summary.points] == [157, 157]
    other = run(model, small_data, "1e-3", batch_size=20)
    assert stable(other.points) == stable(run(model, small_data, "1e-3", batch_size=20).points)


def test_a_fixed_batch_size(make_model, small_data, tmp_path):
    model = make_model(tmp_path / "m.onnx", batch=8)
    free = make_model(tmp_path / "free.onnx")
    fixed = run(model, small_data, "1e-5,1e-3,0.1", batch_size=50)
    assert {point["batch_size"] for point in fixed.points} == {8}
    loose = run(free, small_data, "1e-5,1e-3,0.1", batch_size=8)
    for name in ("correct", "top5", "agreement", "correct_bits", "n_run"):
        assert [p[name] for p in fixed.points] == [p[name] for p in loose.points]


def test_large_data_are_prepared_batch_by_batch(model_path, monkeypatch):
    rng = np.random.default_rng(3)
    data = Dataset("u8", rng.integers(0, 256, (60, 1, 6, 6), dtype=np.uint8))
    at_once = run(model_path, data)
    monkeypatch.setattr("noisystore.runtime.evaluate.PREPARED_BYTES", 100)
    assert stable(run(model_path, data).points) == stable(at_once.points)


def test_data_without_labels(model_path, small_data):
    summary = run(model_path, Dataset("bare", small_data.images))
    assert summary.clean_accuracy is None
    assert summary.chance_accuracy == 0.1
    for point in summary.points:
        assert point["correct"] is point["top5"] is point["accuracy"] is None
        assert point["correct_bits"] is None
        assert point["agreement"] == unpack_bits(point["agree_bits"], 157).sum()


def test_a_metric_of_the_users_own(model_path, small_data):
    def margin(outputs, labels):
        return np.take_along_axis(outputs, labels[:, None], 1)[:, 0] > 0

    with Results() as results:
        summary = run(model_path, small_data, results=results, metric=margin)
        run(model_path, small_data, results=results)
        assert len(results.sweeps()) == 2
    clean = summary.points[0]["clean_metric"]
    assert 0.5 < clean <= 1
    assert all(0 < point["metric"] <= 1 for point in summary.points)
    assert {point["metric_name"] for point in summary.points} == {"margin"}
    every = run(model_path, small_data, metric=margin, skip_clean=False)
    assert [p["metric"] for p in every.points] == [p["metric"] for p in summary.points]


def test_a_metric_without_a_name_needs_one(model_path, small_data):
    class Sum:
        def __call__(self, outputs, labels):
            return outputs.sum(1)

    for metric in (lambda outputs, labels: labels, functools.partial(Sum()), Sum()):
        with Results() as results:
            with pytest.raises(InputError, match="expected metric_name"):
                run(model_path, small_data, results=results, metric=metric)
            run(model_path, small_data, results=results, metric=metric, metric_name="own")
            assert {row["metric_name"] for row in results.rows()} == {"own"}
        assert run(model_path, small_data, metric=metric).rows == 4


def test_a_metric_that_is_nan(model_path, small_data):
    def lost(outputs, labels):
        return np.where(labels == 0, np.nan, 1.0)

    point = run(model_path, small_data, metric=lost).points[0]
    assert np.isnan(point["metric"])
    assert np.isnan(point["clean_metric"])
    assert run(model_path, small_data).points[0]["metric"] is None


def test_damaged_clean_scores(model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    run(model_path, small_data, results=path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE sweeps SET clean_scores = zeroblob(99)")
    with pytest.raises(InputError, match=r"r\.sqlite: damaged: the clean scores"):
        run(model_path, small_data, results=path, trials=3)


@pytest.mark.parametrize("change", ["points SET correct = 'x'", "bits SET agree_bits = x'00'"])
def test_a_damaged_point_is_told_before_more_are_measured(model_path, small_data, tmp_path, change):
    path = tmp_path / "r.sqlite"
    run(model_path, small_data, results=path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        (before,) = database.execute("SELECT count(*) FROM points").fetchone()
        database.execute(f"UPDATE {change} WHERE rowid = (SELECT max(rowid) FROM points)")
    session = NoisySession(model_path, threads=1)
    with pytest.raises(InputError, match=r"r\.sqlite: damaged: column"):
        run(session, small_data, results=path, trials=3, threads=None)
    assert session.inferences == 0
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM points").fetchone() == (before,)


def test_more_trials_and_rates_extend_a_sweep(model_path, small_data):
    with Results() as results:
        run(model_path, small_data, "1e-3", trials=2, results=results)
        longer = run(model_path, small_data, "1e-4,1e-3", trials=3, results=results)
        assert longer.measured == 4
        assert longer.rows == len(results) == 6
        again = run(model_path, small_data, "1e-4,1e-3", trials=3, results=results)
        assert (again.measured, again.inferences, again.rows) == (0, 0, 6)
        assert again.clean_accuracy == longer.clean_accuracy
        assert run(model_path, small_data, "1e-3", trials=1, results=results).rows == 1


def test_noise_differs_between_trials_rates_and_seeds(model_path, small_data):
    blobs = [
        point["agree_bits"]
        for seed in (0, 1)
        for point in run(model_path, small_data, [1e-3, 1.001e-3], seed=seed).points
    ]
    assert len(set(blobs)) == 8


def test_model_and_data_by_name(model_path, small_npz, tmp_path):
    summary = run(str(model_path), f"npz:{small_npz}", images=20, results=tmp_path / "r.sqlite")
    assert summary.images == 20
    assert summary.points[0]["data"] == "npz/small.npz"
    assert summary.path == tmp_path / "r.sqlite"


def test_bad_arguments(model_path, small_data, tmp_path):
    for options in (
        {"trials": 0},
        {"trials": 1.5},
        {"images": 158},
        {"images": 0},
        {"batch_size": 0},
        {"seed": 2**63},
        {"seed": 0.5},
        {"bit_mask": [1, 2, 3]},
        {"bit_mask": 2**64},
        {"results": tmp_path},
        {"threads": 0},
        {"providers": "tpu"},
    ):
        with pytest.raises(InputError) as caught:
            run(model_path, small_data, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="data set: expected"):
        run(model_path, "mnist")


def test_data_that_do_not_fit(model_path, small_data):
    wide = Dataset("wide", np.zeros((4, 3, 6, 6), np.float32))
    with pytest.raises(InputError, match=r"expected shape \[N, 1, 6, 6\], got \[4, 3, 6, 6\]"):
        run(model_path, wide)
    labels = small_data.labels.copy()
    labels[3] = 10
    with pytest.raises(InputError, match=r"labels from 0 to 9 .* got 10 at sample 3"):
        run(model_path, Dataset("over", small_data.images, labels))


def test_evaluator_wants_one_output_row_a_sample(model_path, small_data, monkeypatch):
    evaluator = Evaluator(NoisySession(model_path), small_data, 50)
    whole = evaluator.session.run_feed
    monkeypatch.setattr(evaluator.session, "run_feed", lambda *a: [whole(*a)[0][:1]])
    with pytest.raises(InputError, match=r"expected an output \[50, ...\]"):
        evaluator.run()
