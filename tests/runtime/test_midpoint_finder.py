# SPDX-License-Identifier: Apache-2.0
"""`find_midpoint` on real annotated models: against a sweep, at any batch size, what it counts."""

import json
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession, find_midpoint, fit_midpoint, sweep
from noisystore.runtime.dataset import Dataset
from noisystore.runtime.evaluate import Evaluator
from noisystore.runtime.interrupt import Interrupted
from noisystore.runtime.midpoint_finder import FoundMidpoint, MidpointFinder, lowest_rate
from noisystore.runtime.midpoint_network import CleanImages, NoisyNetwork, random_order
from noisystore.runtime.noisy_sites import NoisySites

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def session(make_model, tmp_path_factory) -> NoisySession:
    """Two sites on activations, one on a weight."""
    path = make_model(tmp_path_factory.mktemp("midpoint") / "m.onnx", noisy_weight=True)
    return NoisySession(path, threads=1)


@pytest.fixture(scope="module")
def unlabelled(small_data) -> Dataset:
    return Dataset("small/test", small_data.images, None)


def brute(session, data, trials, **options):
    result = sweep(
        session, data, "1e-7:1e-1:4/decade", trials=trials, seed=77, progress=False, **options
    )
    return fit_midpoint(result)


def same(first: FoundMidpoint, second: FoundMidpoint) -> bool:
    return replace(first, seconds=0) == replace(second, seconds=0)


@pytest.mark.parametrize(
    "options",
    [
        {"noisy": "activation"},
        {"noisy": "weight"},
        {},
        {"noisy": "activation", "fixed_rates": {"weight": 1e-3}},
        {"noisy": 0, "bit_mask": "sign"},
    ],
)
def test_it_agrees_with_a_sweep(session, small_data, options):
    found = find_midpoint(session, small_data, precision=0.1, **options)
    fit = brute(session, small_data, 50, **options)
    assert found.interval[0] < found.midpoint < found.interval[1]
    assert found.precision <= 0.1
    assert found.interval[0] < fit.interval[1]
    assert fit.interval[0] < found.interval[1]
    assert found.half_level == pytest.approx(fit.half_level, rel=0.3)
    assert found.sigma == pytest.approx(fit.sigma, rel=0.25)
    assert found.sigma_interval[0] < found.sigma < found.sigma_interval[1]
    assert found.chance_accuracy == 0.1
    assert found.inferences < 157 * 100 * 25 / 10


@pytest.mark.parametrize("noisy", ["activation", "weight"])
def test_ten_seeds_cover_the_value_of_brute_force(session, small_data, noisy):
    expected = brute(session, small_data, 80, noisy=noisy).midpoint
    found = [
        find_midpoint(session, small_data, precision=0.1, noisy=noisy, seed=seed)
        for seed in range(10)
    ]
    assert sum(f.interval[0] <= expected <= f.interval[1] for f in found) >= 8
    assert len({f.midpoint for f in found}) == 10


@pytest.mark.parametrize("noisy", ["activation", "weight", None])
def test_batch_size_and_threads_change_nothing(make_model, small_data, tmp_path, noisy):
    path = make_model(tmp_path / "m.onnx", noisy_weight=True)
    options = {"precision": 0.3, "noisy": noisy, "seed": 3}
    expected = find_midpoint(path, small_data, threads=1, **options)
    for batch_size, threads in ((7, 1), (100, 2), (1000, 2)):
        other = find_midpoint(path, small_data, batch_size=batch_size, threads=threads, **options)
        assert same(other, expected)
    assert not same(find_midpoint(path, small_data, **{**options, "seed": 4}), expected)


def test_images_come_again_with_new_noise_only(session, small_data):
    """Three passes over few images at one rate: every image has three different draws."""
    data = small_data.head(20)
    evaluator = Evaluator(session, data, 8)
    runs = []
    run = evaluator.run

    def watched(rate=0.0, mask=None, seed=0, samples=None, tick=None):
        runs.append((seed, samples))
        return run(rate, mask, seed, samples, tick)

    evaluator.run = watched
    network = NoisyNetwork(
        evaluator,
        CleanImages(evaluator, random_order(0, 20)),
        NoisySites(session.sites, "activation"),
        None,
        seed=5,
    )
    trials = [network.noisy(1e-3, count) for count in (13, 30, 17)]
    assert [sum(count for _, count in part) for part in trials] == [13, 30, 17]
    assert network.inferences == 60
    drawn = [(seed, int(i)) for seed, samples in runs for i in samples]
    assert len(set(drawn)) == 60
    assert sorted(i for _, i in drawn) == sorted(list(range(20)) * 3)
    assert len({seed for seed, _ in drawn}) == 3
    assert any(np.any(np.diff(samples) > 1) for _, samples in runs)


@pytest.mark.parametrize("noisy", ["activation", "weight"])
def test_all_images_that_are_run_are_counted(session, small_data, unlabelled, noisy):
    for data in (small_data, unlabelled):
        before = session.inferences
        found = find_midpoint(session, data, precision=0.5, noisy=noisy)
        assert found.inferences == session.inferences - before
        assert found.inferences == int(np.sum(found.points.images)) + 157


def test_without_labels_the_clean_predictions_are_right(session, unlabelled, small_data):
    found = find_midpoint(session, unlabelled, precision=0.1, noisy="activation")
    assert found.clean_accuracy == 1
    labels = np.concatenate([session.run(unlabelled.images).argmax(1)])
    again = Dataset("small/test", small_data.images, labels)
    by_labels = find_midpoint(session, again, precision=0.1, noisy="activation")
    assert found.midpoint == by_labels.midpoint


def test_a_model_of_a_fixed_batch_runs_whole_batches(make_model, small_data, tmp_path):
    path = make_model(tmp_path / "m.onnx", batch=16)
    found = find_midpoint(path, small_data, precision=0.2, batch_size=5)
    free = find_midpoint(make_model(tmp_path / "n.onnx"), small_data, precision=0.2)
    assert found.midpoint == pytest.approx(free.midpoint, rel=0.4)
    images = np.asarray(found.points.images)
    assert set(images.tolist()) <= {16, 157 % 16, 16 - 157 % 16}


def test_fewer_images_than_a_trial(session, small_data):
    found = find_midpoint(session, small_data, images=30, precision=0.3, noisy="weight")
    assert found.clean_images == 30
    assert found.midpoint is not None
    with pytest.raises(InputError, match="images: expected a number from 1 to 157"):
        find_midpoint(session, small_data, images=158)


def test_no_drop(session, small_data):
    found = find_midpoint(session, small_data, bit_mask="msb:31")
    assert (found.midpoint, found.bound, found.limit) == (None, "above", 0.5)
    assert found.interval is found.sigma is found.half_level is found.precision is None
    assert "no drop to find: accuracy is" in found.reason
    assert found.fit().bound == "above"
    below = find_midpoint(session, small_data, low=0.3)
    assert (below.midpoint, below.bound) == (None, "below")
    assert below.limit <= 0.3
    above = find_midpoint(session, small_data, high=1e-6)
    assert (above.midpoint, above.bound, above.limit) == (None, "above", 1e-6)


def test_the_clean_accuracy_serves_all_searches(session, small_data):
    finder = MidpointFinder(Evaluator(session, small_data, 100))
    sites = [NoisySites(session.sites, site) for site in range(3)]
    first = finder.find(sites[0], label="0", precision=0.5)
    clean = session.inferences
    second = finder.find(sites[1], label="1", precision=0.5)
    assert second.inferences == session.inferences - clean
    assert second.inferences == int(np.sum(second.points.images))
    again = finder.find(sites[0], label="0", precision=0.5)
    assert replace(again, seconds=0, inferences=0) == replace(first, seconds=0, inferences=0)
    other = finder.find(sites[0], label="x", precision=0.5)
    assert other.midpoint != first.midpoint
    assert other.midpoint == pytest.approx(first.midpoint, rel=2)


def test_the_lowest_rate_has_few_flips(session, make_model, tmp_path):
    sites = session.sites
    low = lowest_rate(sites, NoisySites(sites, "activation"), None)
    assert low == pytest.approx(0.1 / ((128 + 24) * 32))
    assert lowest_rate(sites, NoisySites(sites, 1), "sign") == pytest.approx(0.1 / 24)
    fixed = NoisySites(sites, "activation", {"weight": 1e-3})
    assert lowest_rate(sites, fixed, None) == 1e-15
    unknown = NoisySession(make_model(tmp_path / "m.onnx", last_rows=-1), threads=1).sites
    assert lowest_rate(unknown, NoisySites(unknown), None) == 1e-15


def test_sites_of_unknown_rows(make_model, small_data, tmp_path):
    """Their flips may be shared by all images of a trial, so that the spread is measured."""
    session = NoisySession(make_model(tmp_path / "m.onnx", last_rows=-1), threads=1)
    evaluator = Evaluator(session, small_data)
    clean = CleanImages(evaluator, random_order(0, 157))
    for site, independent in ((0, True), (1, False)):
        noisy = NoisySites(session.sites, site)
        assert NoisyNetwork(evaluator, clean, noisy, None, 0).independent == independent
    found = find_midpoint(session, small_data, precision=0.3)
    known = find_midpoint(make_model(tmp_path / "n.onnx"), small_data, precision=0.1, threads=1)
    assert found.midpoint == pytest.approx(known.midpoint, rel=0.5)


def test_the_budget(session, small_data, unlabelled):
    for data in (small_data, unlabelled):
        found = find_midpoint(session, data, precision=0.01, most=1500, noisy="activation")
        assert 1300 < found.inferences <= 1500
        assert found.reason == "the inferences allowed are spent"
        assert found.precision > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": 0}, "precision: expected a share above 0"),
        ({"precision": float("nan")}, "precision: expected a share above 0"),
        ({"most": 999}, "inferences: expected 1000 or more, got 999"),
        ({"low": 0.1, "high": 0.01}, "rates: expected 0 < LOW < HIGH <= 1, got 0.1:0.01"),
        ({"low": 0.0}, "rates: expected 0 < LOW < HIGH <= 1"),
        ({"high": 2.0}, "rates: expected 0 < LOW < HIGH <= 1"),
        ({"confidence": 1.0}, "confidence: expected a number above 0 and at most 0.9999"),
        ({"seed": 1 << 63}, "seed: expected an integer of 64 bits"),
        ({"seed": 0.5}, "seed: expected an integer of 64 bits"),
        ({"noisy": "nothing"}, "noisy: expected a kind of this model's sites"),
        ({"bit_mask": "nothing"}, "bit mask"),
        ({"batch_size": 0}, "batch size: expected a positive integer"),
    ],
)
def test_bad_input(session, small_data, options, message):
    with pytest.raises(InputError, match=message):
        find_midpoint(session, small_data, **options)


def test_a_network_at_chance(session, small_data):
    labels = (session.run(small_data.images).argmax(1) + 1) % 10
    with pytest.raises(InputError, match=r"clearly more than chance \(0.1\), got 0 \(157 images"):
        find_midpoint(session, Dataset("wrong", small_data.images, labels))


def test_a_result_as_json_and_back(session, small_data):
    found = find_midpoint(session, small_data, precision=0.5, noisy="activation")
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert FoundMidpoint.from_dict(values) == found
    nothing = find_midpoint(session, small_data, bit_mask="msb:31")
    assert FoundMidpoint.from_dict(json.loads(json.dumps(nothing.as_dict()))) == nothing
    for name, value in (
        ("midpoint", "x"),
        ("midpoint", -1.0),
        ("interval", [1.0]),
        ("bound", "left"),
        ("reason", 3),
        ("inferences", True),
        ("seconds", float("nan")),
    ):
        with pytest.raises(InputError, match=f"midpoint: field {name} is damaged"):
            FoundMidpoint.from_dict({**values, name: value})
    del values["sigma"]
    with pytest.raises(InputError, match="midpoint: expected the fields"):
        FoundMidpoint.from_dict(values)


def test_the_curve_of_a_result(session, small_data):
    found = find_midpoint(session, small_data, precision=0.2, noisy="activation")
    fit = found.fit()
    half = (found.clean_accuracy + found.chance_accuracy) / 2
    assert fit.accuracy(found.midpoint) == pytest.approx(half)
    assert (fit.midpoint, fit.interval, fit.covers) == (found.midpoint, found.interval, "noise")
    trials = list(zip(found.points.rate, found.points.trial, strict=True))
    assert len(set(trials)) == len(trials) == fit.points


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_what_is_known(session, small_data, monkeypatch, number):
    original = Evaluator.run
    noisy = []

    def run(self, rate=0.0, *arguments, **options):
        noisy.append(rate)
        if len(noisy) == 25:
            os.kill(os.getpid(), number)
        return original(self, rate, *arguments, **options)

    monkeypatch.setattr(Evaluator, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"interrupted: (midpoint|looking)") as caught:
        find_midpoint(session, small_data, precision=0.01)
    assert caught.value.signal == number
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread(session, small_data):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(find_midpoint(session, small_data, precision=0.5))
    )
    thread.start()
    thread.join()
    assert same(found[0], find_midpoint(session, small_data, precision=0.5))


def test_progress_is_said_line_by_line(session, small_data, capsys):
    find_midpoint(session, small_data, precision=0.2, noisy="activation", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("looking for the drop: ")
    assert "midpoint 0.00" in lines[-1]
    assert " inferences  " in lines[-1]
    find_midpoint(session, small_data, precision=0.2, noisy="activation")
    assert capsys.readouterr().err == ""
