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
        ({"lr": -1.0}, "lr"),
    ]:
        with pytest.raises(InputError, match=match):
            train(narrow(), x, y, x, y, **keywords)
    for bad in ((x.astype(np.float32), y), (x, y[:3]), (x, y.astype(np.int32)), (x[:0], y[:0])):
        with pytest.raises(InputError, match="train"):
            train(narrow(), *bad, x, y)
