# SPDX-License-Identifier: Apache-2.0
"""Training: the digits recipe, determinism, checkpoints, bad input."""

import numpy as np
import pytest
import torch

from noisystore.export import RECIPES, accuracy, load_weights, save_weights, train, vgg
from noisystore.ortops.errors import InputError


def digits():
    data = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn").load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    images = np.ascontiguousarray(images[:, None].repeat(3, 1))
    return images, data.target.astype(np.int64)


def narrow(seed=0):
    torch.manual_seed(seed)
    return vgg("A", width=0.125)


def tiny(count=96):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, count)
    images = generator.integers(0, 40, (count, 3, 32, 32), dtype=np.uint8)
    images += (labels * 20).astype(np.uint8)[:, None, None, None]
    return images, labels


def weights(model):
    return b"".join(t.numpy().tobytes() for t in model.state_dict().values())


def test_the_digits_recipe_reaches_its_accuracy():
    images, labels = digits()
    seen = []
    model = narrow()
    result = train(
        model, images[:1297], labels[:1297], images[1297:], labels[1297:], progress=seen.append
    )
    assert result.accuracy > 0.95
    assert result.accuracy == accuracy(model, images[1297:], labels[1297:])
    assert seen == result.epochs
    assert [e.epoch for e in seen] == list(range(1, RECIPES["digits"].epochs + 1))
    assert seen[-1].loss < seen[0].loss
    assert not model.training


@pytest.mark.parametrize("recipe", ["digits", "cifar10"])
def test_the_same_seed_gives_the_same_weights(recipe):
    x, y = tiny()

    def run(seed):
        model = narrow()
        train(model, x, y, x, y, recipe=recipe, epochs=2, batch=32, seed=seed)
        return weights(model)

    first = run(1)
    assert run(1) == first
    assert run(2) != first


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    x, y = tiny()
    keywords = {"epochs": 3, "batch": 32, "seed": 5}
    whole = narrow()
    expected = train(whole, x, y, x, y, **keywords)

    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(narrow(), x, y, x, y, checkpoint=path, progress=stop, **keywords)
    resumed = narrow(9)
    result = train(resumed, x, y, x, y, checkpoint=path, **keywords)
    assert weights(resumed) == weights(whole)
    assert [e.loss for e in result.epochs] == [e.loss for e in expected.epochs]
    assert result.accuracy == expected.accuracy
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    with pytest.raises(InputError, match="another run"):
        train(narrow(), x, y, x, y, checkpoint=path, **{**keywords, "seed": 6})
    with pytest.raises(InputError, match=r"seed \(5 there, 6 here\)"):
        train(narrow(), x, y, x, y, checkpoint=path, **{**keywords, "seed": 6})
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected one written by train"):
        train(narrow(), x, y, x, y, checkpoint=path, **keywords)


def test_steps_are_told():
    x, y = tiny(20)
    steps = []
    train(narrow(), x, y, x, y, epochs=2, batch=8, on_step=lambda *counts: steps.append(counts))
    assert steps == [(number, 6) for number in range(1, 7)]


def test_a_checkpoint_is_of_one_network_normalization_and_data(tmp_path):
    x, y = tiny(16)
    path = tmp_path / "run.pt"

    def run(model=None, arrays=(x, y, x, y), **keywords):
        keywords = {"epochs": 1, "batch": 16, "checkpoint": path, **keywords}
        return train(model or narrow(), *arrays, **keywords)

    expected = run()
    assert run(narrow(3)).epochs == expected.epochs
    other = narrow()
    other.features[2] = torch.nn.ELU()
    changed = x.copy()
    changed[0, 0, 0, 0] ^= 1
    for keywords, match in [
        ({"model": other}, "network"),
        ({"normalization": ((0.5,) * 3, (0.5,) * 3)}, "normalization"),
        ({"arrays": (x, y, changed, y)}, "test data"),
        ({"arrays": (changed, y, x, y)}, "training data"),
        ({"arrays": (x, y, x[:8], y[:8])}, "test data"),
        ({"epochs": 2}, r"epochs \(1 there, 2 here\)"),
        ({"lr": 0.5}, "lr"),
    ]:
        with pytest.raises(InputError, match=f"of another run, with another {match}[^;]*;"):
            run(**keywords)
        run(**{**keywords, "checkpoint": tmp_path / "fresh.pt", "resume": False})


def test_accuracy_leaves_every_module_in_its_mode():
    class Failing(torch.nn.Module):
        def forward(self, x):
            raise KeyError("no")

    x, y = tiny(8)
    model = narrow().train()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    accuracy(model, x, y)
    assert [module.training for module in model.modules()] == modes
    model.classifier = Failing()
    with pytest.raises(KeyError):
        accuracy(model, x, y)
    assert [module.training for module in model.modules()] == modes


def test_weights_are_saved_and_loaded(tmp_path):
    model, other = narrow(1), narrow(2)
    save_weights(model, tmp_path / "w.safetensors", accuracy=0.5)
    load_weights(other, tmp_path / "w.safetensors")
    assert weights(model) == weights(other)
    with pytest.raises(InputError, match="cannot be written"):
        save_weights(model, tmp_path / "none" / "w.safetensors")


def test_nan_counts_as_the_largest():
    class Constant(torch.nn.Module):
        def forward(self, x):
            row = torch.tensor([5.0, float("nan"), 9.0])
            return row.expand(len(x), 3)

    x = np.zeros((4, 3, 2, 2), np.uint8)
    assert accuracy(Constant(), x, np.array([1, 1, 2, 0])) == 0.5


def test_bad_input():
    x, y = tiny(8)
    for keywords, match in [
        ({"recipe": "mnist"}, "recipe"),
        ({"epochs": 0}, "epochs"),
        ({"batch": 1.5}, "batch"),
        ({"batch": True}, "batch"),
        ({"lr": -1.0}, "lr"),
        ({"lr": 1e38}, "lr"),
        ({"lr": "fast"}, "lr: expected a number above 0 .* got 'fast'"),
        ({"seed": 1.5}, "seed: expected an integer, got 1.5"),
        ({"seed": "1"}, "seed"),
    ]:
        with pytest.raises(InputError, match=match):
            train(narrow(), x, y, x, y, **keywords)
    for bad, match in [
        ((x.astype(np.float32), y), "uint8"),
        ((x, y[:3]), "int64"),
        ((x, y.astype(np.int32)), "int64"),
        ((x[:0], y[:0]), "at least one"),
        ((x, y - 100), "numbers from 0"),
        ((x[:, :1], y), "expected 3 channels, as the normalization has, got 1"),
        ((np.concatenate([x, x[:, :1]], 1), y), "expected 3 channels, .* got 4"),
    ]:
        with pytest.raises(InputError, match=f"train .*{match}"):
            train(narrow(), *bad, x, y)
        with pytest.raises(InputError, match=f"test .*{match}"):
            train(narrow(), x, y, *bad)
    with pytest.raises(InputError, match=r"logits \[N, 41\] or wider .* got \[2, 10\]"):
        train(narrow(), x, np.arange(8) + 33, x, y, batch=8)


class Odd(torch.nn.Module):
    """Gives a tuple in training mode, as GoogLeNet does."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 10)

    def forward(self, x):
        logits = self.last(self.norm(x).mean((2, 3)))
        return (logits, logits) if self.training else logits


def test_a_model_that_cannot_be_trained_stays_as_it_was():
    x, y = tiny(9)
    frozen = narrow().requires_grad_(False)
    flat = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3072, 10), torch.nn.BatchNorm1d(10)
    )
    for model, match in [
        (Odd(), "Odd in training mode: expected logits .* got tuple"),
        (frozen, "expected a parameter to train"),
        (torch.nn.Flatten(), "expected a parameter to train"),
        (flat, "in training mode does not take .* 1 a batch: .*more than 1 value"),
    ]:
        before, state = weights(model), torch.random.get_rng_state()
        with pytest.raises(InputError, match=match):
            train(model, x, y, x, y, epochs=1, batch=8)
        assert weights(model) == before
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("recipe", ["digits", "cifar10"])
def test_a_tampered_checkpoint_is_refused(tmp_path, recipe):
    x, y = tiny(16)
    path = tmp_path / "run.pt"

    def run():
        train(narrow(), x, y, x, y, recipe=recipe, epochs=2, batch=8, checkpoint=path)

    run()
    record = torch.load(path)["epochs"][0]

    def first(saved):
        return next(iter(saved["optimizer"]["state"].values()))

    def group(saved):
        return saved["optimizer"]["param_groups"][0]

    def reshape(saved):
        state = first(saved)
        name = next(iter(state.keys() - {"step"}))
        state[name] = state[name].flatten()

    for change in [
        lambda saved: saved.update(epochs=[{}]),
        lambda saved: saved.update(epochs=[]),
        lambda saved: saved.update(epochs=7),
        lambda saved: saved.update(epochs=[record]),
        lambda saved: saved.update(epochs=[record, record]),
        lambda saved: saved["epochs"].append({**record, "epoch": 3}),
        lambda saved: saved["epochs"][1].update(loss="none"),
        lambda saved: saved["schedule"].update(last_epoch=3),
        lambda saved: first(saved).clear(),
        reshape,
        lambda saved: group(saved).update(weight_decay="x"),
        lambda saved: group(saved).pop("weight_decay"),
        lambda saved: group(saved).update(weight_decay=group(saved)["weight_decay"] + 1),
        lambda saved: group(saved).update(lr=torch.zeros(1, device="meta")),
        lambda saved: group(saved).update(lr=float("nan")),
        lambda saved: saved["optimizer"].update(param_groups=[]),
        lambda saved: saved["schedule"].update(total_steps=0),
        lambda saved: saved["schedule"].update(base_lrs=["x"]),
        lambda saved: saved["schedule"].update(_step_count=-5),
        lambda saved: saved["schedule"].update(more=1),
    ]:
        whole = path.read_bytes()
        saved = torch.load(path)
        change(saved)
        torch.save(saved, path)
        with pytest.raises(InputError, match="expected one written by train, got"):
            run()
        path.write_bytes(whole)
    run()
