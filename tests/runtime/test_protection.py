# SPDX-License-Identifier: Apache-2.0
"""`protect`, called from Python: what its designs promise, on networks of many kinds."""

from dataclasses import replace

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession, protection, sweep
from noisystore.runtime.clean_once import CleanOnce
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import Dataset
from noisystore.runtime.noisy_sites import NoisySites
from noisystore.runtime.protection import protect
from noisystore.runtime.protection_runs import PairedRuns, noisy_bits
from noisystore.runtime.protection_search import _stricter, search

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RATE = 5e-3


def designed(model, data, rate=RATE, target="95%", **options):
    """The only design, with no mitigation and no errors left in protected bits."""
    options = {"mitigations": ["none"], "means": ["reliable"], "images": 150, **options}
    found = protect(model, data, rate, target, **options)
    assert len(found.designs) == 1
    return found.designs[0]


def stored_bits(path):
    return sum(site.elements * site.noisy_bits for site in NoisySession(path).sites)


def runs_of(path, data, fixed=None, rate=0.02):
    session = NoisySession(path)
    masks = np.full(len(session.sites), 2**64 - 1, dtype=np.uint64)
    noisy = NoisySites(session.sites, None, fixed)
    return PairedRuns(CleanOnce(session, data, 50), noisy, (rate, rate), masks, 3)


def test_a_sweep_with_the_design_has_its_accuracy(model):
    """Noise at the unprotected bits, on all images, with seeds that the search never had."""
    options = {"mitigations": ["none"], "means": ["reliable"], "images": 300}
    found = protect(model, "digits", 3e-3, "95%", **options)
    (design,) = found.designs
    assert design.meets
    assert design.unprotected[1][1] < design.target  # the rate ruins it
    assert 0 < design.bits < stored_bits(model)
    sites = NoisySession(model).sites
    masks = [(1 << s.noisy_bits) - 1 & ~m for s, m in zip(sites, design.masks, strict=True)]
    assert all(mask >> site.noisy_bits == 0 for site, mask in zip(sites, design.masks, strict=True))
    noise = found.noise()
    assert noise["noisy"] == [site for site, mask in enumerate(masks) if mask]
    assert [noise["bit_mask"][site] for site in noise["noisy"]] == [mask for mask in masks if mask]
    result = sweep(model, "digits", [3e-3], trials=3, seed=99, **noise)
    accuracy = float(np.mean([point["accuracy"] for point in result.points]))
    low, high = design.interval
    assert low - 0.03 <= accuracy <= high + 0.03


def test_noise_of_a_design(model_path, small_data):
    """Sites with rates of their own are left out, and masks of the user's are kept."""
    options = {"mitigations": ["none"], "means": ["reliable"], "images": 105}
    found = protect(
        *(model_path, small_data, 0.02, "90%"),
        bit_mask=[0xFFFFF000, 0x80000000],
        fixed_rates={"1": 1e-5},
        **options,
    )
    assert (found.swept, found.bit_masks) == ([0], [0xFFFFF000, 0x80000000])
    left = 0xFFFFF000 & ~found.designs[0].masks[0]
    assert left
    assert found.noise() == {"noisy": [0], "bit_mask": [left, 0x80000000]}
    everything = replace(found.designs[0], masks=[0xFFFFFFFF, 0])
    with pytest.raises(InputError, match="all bits are protected"):
        replace(found, designs=[everything]).noise(0)
    with pytest.raises(InputError, match="no design holds the target"):
        replace(found, best=None).noise()
    assert replace(found, best=None).noise(0) == found.noise()


def test_the_same_seed_gives_the_same_design(model_path, small_data):
    first, again, other = (designed(model_path, small_data, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.accuracy != other.accuracy or first.masks != other.masks


def test_more_noise_and_higher_targets_need_more_bits(model_path, small_data):
    bits = [designed(model_path, small_data, target=t).bits for t in ("70%", "90%", "100%")]
    assert bits == sorted(bits)
    assert bits[0] < bits[-1]
    bits = [designed(model_path, small_data, rate).bits for rate in (1e-4, 5e-3, 5e-2)]
    assert bits == sorted(bits)
    assert bits[0] < bits[-1]


@pytest.mark.parametrize(
    ("rate", "seed"), [(1e-5, 2), (1e-5, 20), (3e-5, 12), (1e-4, 11), (0.05, 0)]
)
def test_a_target_of_all_is_held(model_path, small_data, rate, seed):
    """If need be by all bits, also those that no flip of the screen's few images hit."""
    design = designed(model_path, small_data, rate, "100%", seed=seed)
    assert design.meets
    assert design.accuracy >= design.clean_accuracy == design.target


def test_no_design_is_measured_twice(model_path, small_data):
    class Recorded(PairedRuns):
        def run(self, protected, samples, purpose, rate=None):
            measured.append((purpose, protected.tobytes()))
            return super().run(protected, samples, purpose, rate)

    for rate, seed, allowed in ((1e-4, 0, 0.0), (1e-4, 3, 0.03), (3e-4, 1, 0.0), (0.02, 0, 0.03)):
        measured: list[tuple[str, bytes]] = []
        plain = runs_of(model_path, small_data)
        runs = Recorded(plain.evaluator, plain.noisy, (rate, rate), plain.bits, seed)
        choice = search(runs, lambda run, allowed=allowed: allowed, 150, lambda text: None)
        assert choice.run.loss <= allowed
        assert len(measured) == len(set(measured)) > 2


def test_the_plot_shows_where_the_designs_lie(model_path, small_data):
    pytest.importorskip("matplotlib")
    from noisystore.runtime.protection_plot import _draw

    options = {"mitigations": ["none"], "means": ["reliable"], "images": 105}
    found = protect(model_path, small_data, RATE, "95%", **options)
    (axes,) = (figure := _draw(found)).axes
    low, high = axes.get_ylim()
    (design,) = found.designs
    edges = (*design.interval, design.target, design.clean_accuracy)
    assert low < min(edges) < max(edges) < high
    assert high - low < 1.3 * (max(edges) - min(edges))
    figure.draw_without_rendering()
    assert all(tick.get_text().endswith("%") for tick in axes.get_yticklabels())


def test_stricter_designs_end_with_all_bits():
    everything = np.array([0b111, 0b11], dtype=np.uint64)
    positions = [np.array(bits, dtype=np.uint64) for bits in ([4, 2], [2, 1], [1, 0])]

    def design(harm):
        return np.array([0b100 if harm > 0.1 else 0b110, 0], dtype=np.uint64)

    masks = [each.tolist() for each in _stricter(design, 1.0, positions)]
    assert masks == [[0b100, 0], [0b110, 0], [0b100, 0b10], [0b110, 0b11], [0b111, 0b11]]
    assert [each.tolist() for each in _stricter(lambda _: everything, 0.0, positions)] == [[7, 3]]


def test_a_fixed_rate_of_1_is_not_the_swept_one(model_path):
    sites = NoisySession(model_path).sites
    masks = np.full(len(sites), 2**64 - 1, dtype=np.uint64)
    assert noisy_bits(sites, NoisySites(sites, 0, {1: 1.0}), masks).tolist() == [0xFFFFFFFF, 0]


def test_few_images_verify_nothing(model_path, small_data):
    with pytest.raises(InputError, match="expected 150 images or more, got 149: a third chooses"):
        protect(model_path, small_data.head(149), 1e-3)


def test_images_that_verify_did_not_choose(model_path, small_data, monkeypatch):
    """Whatever was asked for; with 157 images 52 choose, and up to 105 verify."""
    runs = runs_of(model_path, small_data)
    chosen, verified = runs.choosing(1000), runs.verifying(1000)
    assert sorted([*chosen, *verified]) == list(range(157))
    assert (len(chosen), len(verified)) == (52, 105)
    assert set(runs.choosing(20)) < set(chosen)
    assert set(runs.verifying(20)) < set(verified)
    seen = {}
    run, harm = PairedRuns.run, PairedRuns.harm

    def noted_run(self, protected, samples, purpose, rate=None):
        seen.setdefault(purpose, set()).update(samples.tolist())
        return run(self, protected, samples, purpose, rate)

    def noted_harm(self, noisy, samples, purpose):
        seen.setdefault(purpose, set()).update(samples.tolist())
        return harm(self, noisy, samples, purpose)

    monkeypatch.setattr(PairedRuns, "run", noted_run)
    monkeypatch.setattr(PairedRuns, "harm", noted_harm)
    options = {"means": ["reliable", "secded"], "compare_with": True, "mitigations": ["none"]}
    found = protect(model_path, small_data, 0.02, "95%", images=1000, **options)
    assert found.designs[0].images == 105
    assert seen.keys() == {"search", "screen", "verify", "left", "compare"}
    choosing = seen["search"] | seen["screen"]
    assert choosing.isdisjoint(seen["verify"] | seen["left"] | seen["compare"])


def test_means_that_cannot_are_named(model_path, small_data):
    """At 0.97 no number of rewrites ends: the reason is in the result, and in the report."""
    found = protect(
        *(model_path, small_data, 0.97, "95%"), mitigations=["none"], means=["rewrite"], images=105
    )
    assert found.best is None
    assert found.designs[0].means == []
    assert "after 100 rewrites" in found.designs[0].failed["rewrite"]
    said = str(found)
    assert "none: rewrite: expected at most 0.001 flips left" in said
    assert said.endswith("no design holds the target")
    assert found.as_dict()["designs"][0]["failed"] == found.designs[0].failed


def test_a_number_is_a_target_for_all_images(model_path, small_data):
    """Clean accuracy of all images is 137 of 157; any images may lose as much as all."""
    clean = float(np.mean(np.arange(157) % 8 > 0))
    design = designed(model_path, small_data, target=clean - 0.05, images=100)
    assert design.clean_accuracy - design.target == pytest.approx(0.05)
    with pytest.raises(InputError, match="at most the clean one"):
        designed(model_path, small_data, target=0.9)


def test_images_without_labels(model_path, small_data):
    design = designed(model_path, Dataset("unlabelled", small_data.images))
    assert design.clean_accuracy == 1
    assert design.meets
    assert design.target == pytest.approx(0.95)


def test_stored_weights(make_model, tmp_path, small_data):
    """Images of a trial share the flips of weights, so their number says less."""
    path = make_model(tmp_path / "w.onnx", noisy_weight=True)
    design = designed(path, small_data, noisy="weight")
    assert design.masks[:2] == [0, 0]
    assert 0 < design.masks[2].bit_count() < 32
    assert design.bits == 240 * design.masks[2].bit_count()
    runs = runs_of(path, small_data)
    assert not runs.independent
    run = runs.run(None, runs.verifying(100), "a")
    assert np.bincount(run.trial).tolist() == [20] * 5


@pytest.fixture(scope="module")
def integers(model, tmp_path_factory):
    """The network quantized: words of 8 bits."""
    folder = tmp_path_factory.mktemp("int8")
    plain, path = folder / "plain.onnx", folder / "int8.onnx"
    words = ["--weights", model.parent / "w.safetensors", "--width", "0.0625"]
    words += ["--sites", "none", "-o", plain]
    assert main(["export", "vgg-a", *map(str, words)]) == 0
    words = [plain, "--data", "digits", "--normalization", "cifar10", "-o", path]
    assert main(["quantize", *map(str, words)]) == 0
    return path


def test_words_of_eight_bits(integers):
    design = designed(integers, "digits", 0.05)
    assert design.meets
    assert 0 < design.bits < stored_bits(integers)
    assert max(design.masks) >= 0x40
    assert max(design.masks) <= 0xFF


@pytest.mark.parametrize("mitigation", ["clip", "nan", "clip+nan"])
def test_mitigations(model, mitigation, tmp_path):
    saved = tmp_path / "saved.onnx"
    found = protect(
        *(model, "digits", 3e-3, "90%"),
        mitigations=["none", mitigation],
        means=["reliable"],
        images=200,
        save_model=saved,
    )
    plain, other = found.designs
    assert plain.meets
    assert other.meets
    # Alone it does not harm; NaN to 0 hardly helps where flips ruin more than NaN does.
    assert other.unprotected[1][1] >= plain.unprotected[0]
    if mitigation != "nan":
        assert other.bits < plain.bits
    assert found.best == (min((0, 1), key=lambda i: found.designs[i].bits), 0)
    assert saved.exists() == (found.best[0] == 1)


def test_what_a_mitigation_costs_without_noise_counts(model_path, small_data):
    """The ranges are those of the first 1,000 images, which are dim: the others are clipped."""
    bright = small_data.images
    images = np.concatenate([np.repeat(bright / 100, 7, axis=0)[:1000], bright])
    data = Dataset("dim", images, NoisySession(model_path).run(images).argmax(1))
    found = protect(
        *(model_path, data, 1e-3, "98%"),
        mitigations=["none", "clip"],
        means=["reliable"],
        images=len(data),
    )
    plain, clipped = found.designs
    assert clipped.clean_accuracy == plain.clean_accuracy == 1
    assert plain.meets
    assert not clipped.meets
    assert clipped.bits == found.stored_bits
    assert found.best == (0, 0)


def test_errors_left_are_told_from_those_of_other_sites(model_path, small_data):
    """Site 1 has a rate that ruins much; what is left at site 0 takes from the rest only."""
    runs = runs_of(model_path, small_data, {1: 0.02})
    protected = runs.bits
    assert runs.run(protected, runs.verifying(157), "left").loss > 0.05
    session, losses, counts = runs.evaluator.session, [], []
    loss = protection._left_loss(runs, protected, 157)
    for left in (0.0, 1e-4, 0.05):
        before = session.inferences
        losses.append(loss((left, left)))
        counts.append(session.inferences - before)
    assert losses[0] == 0
    assert losses[1] < losses[2]
    # What the others cost is measured the first time only.
    assert counts[0] == 2 * counts[1] == 2 * counts[2] > 0


def test_protected_bits_have_no_rate(model_path, small_data):
    runs = runs_of(model_path, small_data)
    rates, masks = runs._noise(np.array([2**32 - 1, 1 << 31], dtype=np.uint64), (0.02, 0.03))
    assert rates.tolist() == [[0, 0], [0.02, 0.03]]
    assert masks[1] == 2**31 - 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": -1e-3}, r"\[0, 1\]"),
        ({"rate": (0.0, 0.0)}, "above 0"),
        ({"goal": "speed"}, "goal: expected bits, area, energy, time, got 'speed'"),
        ({"means": []}, "means: expected reliable, rewrite, secded, got none"),
        ({"images": 99}, "images: expected 100 or more, got 99"),
        ({"noisy": "bias"}, "noisy: expected a kind"),
        ({"bit_mask": 0}, "nothing flips"),
        ({"bit_mask": [0, 1 << 31], "fixed_rates": {"1": 0.5}}, "nothing flips"),
        ({"batch_size": 0}, "batch size"),
    ],
)
def test_bad_values(model_path, small_data, options, said):
    with pytest.raises(InputError, match=said):
        designed(model_path, small_data, **options)
