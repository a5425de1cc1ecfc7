# SPDX-License-Identifier: Apache-2.0
"""`noisystore train --noise` and `noisystore retrain`: runs, resuming, and bad input."""

import json

import numpy as np
import pytest

from noisystore.runtime.cli import main

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

NOISE = ["--noise", "1e-3", "--mask", "mantissa"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Images of three classes in two files, and weights of a narrow VGG-A for them."""
    from safetensors.torch import save_file

    from noisystore.export import vgg

    folder = tmp_path_factory.mktemp("retrain")
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("test", 30)):
        y = rng.integers(0, 3, count)
        x = (
            rng.integers(0, 60, (count, 3, 32, 32), dtype=np.uint8)
            + (y * 60).astype(np.uint8)[:, None, None, None]
        )
        np.savez(folder / f"{name}.npz", x=x, y=y)
    np.savez(folder / "float.npz", x=np.zeros((4, 3, 32, 32), np.float32), y=np.arange(4) % 3)
    np.savez(folder / "low.npz", x=np.zeros((4, 3, 16, 16), np.uint8), y=np.arange(4) % 3)
    np.savez(folder / "gray.npz", x=np.zeros((4, 1, 32, 32), np.uint8), y=np.arange(4) % 3)
    np.savez(folder / "four.npz", x=np.zeros((4, 4, 32, 32), np.uint8), y=np.arange(4) % 3)
    np.savez(folder / "many.npz", x=np.zeros((4, 3, 32, 32), np.uint8), y=np.arange(4) + 5)
    torch.manual_seed(0)
    save_file(vgg("A", classes=3, width=0.03).state_dict(), folder / "w.safetensors")
    return folder


def retraining(folder, *options):
    return [
        "retrain",
        "vgg-a",
        *("--weights", folder / "w.safetensors", "--width", "0.03", "--classes", "3"),
        *("--data", f"npz:{folder / 'train.npz'}", "--test-data", f"npz:{folder / 'test.npz'}"),
        *("--batch", "16"),
        *options,
    ]


def metadata(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["noisystore"])


def test_train_with_noise(tmp_path, ok, capsys):
    path = tmp_path / "w.safetensors"
    command = ["train", "vgg-a", "--data", "digits", "--width", "0.03", "--epochs", "2", *NOISE]
    command += ["--schedule", "log", "--start", "1e-5", "--ramp", "0.5", "--sites", "layer"]
    result = ok(*command, "-o", path)
    assert [e["steps"] for e in result["records"]] == [21, 21]
    assert [e["skipped"] for e in result["records"]] == [0, 0]
    assert result["noisy_accuracy"] == result["records"][-1]["noisy_accuracy"]
    expected = {"bit_error_rate": 1e-3, "bit_mask": "mantissa", "sites": "layer", "ramp": 0.5}
    expected |= {"schedule": "log", "start": 1e-5, "max_gradient_norm": 5.0}
    assert expected.items() <= result["noise"].items()
    assert metadata(path)["noise"] == result["noise"]
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert main([*command, "-o", str(path)]) == 0
    captured = capsys.readouterr()
    assert f"clean accuracy {result['clean_accuracy']:.4f}" in captured.out
    said = (
        f"noisy accuracy {result['noisy_accuracy']:.4f} at rate 0.001, sites layer, mask mantissa"
    )
    assert said in captured.out
    assert "  noisy 0." in captured.err


def test_retrain(small, tmp_path, ok, capsys):
    path = tmp_path / "again.safetensors"
    command = [str(word) for word in retraining(small, *NOISE, "--sites", "weight,layer")]
    result = ok(*command, "--images", "48", "--clip", "0.5", "-o", path)
    assert [e["steps"] for e in result["records"]] == [3, 3]
    assert sum(e["clipped"] for e in result["records"]) > 0
    assert (result["images"], result["test_images"]) == (48, 30)
    for name in ("clean_before", "noisy_before", "clean_accuracy", "noisy_accuracy"):
        assert 0 <= result[name] <= 1
    assert result["noise"]["max_gradient_norm"] == 0.5
    made = metadata(path)
    assert (made["network"], made["classes"], made["images"]) == ("vgg-a", 3, 48)
    assert made["noise"] == result["noise"]
    first = path.read_bytes()
    assert first != (small / "w.safetensors").read_bytes()
    assert main([*command, "--images", "48", "--clip", "0.5", "-o", str(path)]) == 0
    assert path.read_bytes() == first
    captured = capsys.readouterr()
    assert f"clean accuracy {result['clean_before']:.4f} before, " in captured.out
    assert "rate 0.001, sites weight,layer, mask mantissa" in captured.out
    assert "clipped)" in captured.err
    assert f"{metadata(path)['noise']['sites']} -o {tmp_path / 'again.onnx'}" in captured.out
    exported = captured.out.split("next: noisystore ")[1].split()
    assert main(exported) == 0
    assert (tmp_path / "again.onnx").exists()


def test_retraining_interrupted_and_resumed(small, tmp_path, ok, error, capsys, monkeypatch):
    from noisystore.runtime.commands import retrain as command

    options = [str(word) for word in retraining(small, *NOISE, "--epochs", "3", "-o")]
    ok(*options, tmp_path / "whole.safetensors")

    def stop(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "progress", stop)
    path = tmp_path / "w.safetensors"
    assert main([*options, str(path)]) == 130
    assert "interrupted: 1 of 3 epochs are kept in" in capsys.readouterr().err
    monkeypatch.undo()
    assert not path.exists()
    assert "another noise" in error(*options, path, "--resume", "--sites", "layer")
    ok(*options, path, "--resume")
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_stays_where_another_run_fails(small, tmp_path, ok, error, monkeypatch):
    from safetensors.torch import load_file

    from noisystore.runtime.commands import retrain as command

    def stop(text):
        raise KeyboardInterrupt

    path = tmp_path / "w.safetensors"
    options = [str(word) for word in retraining(small, *NOISE, "--epochs", "2", "-o", path)]
    monkeypatch.setattr(command, "progress", stop)
    assert main(options) == 130
    monkeypatch.undo()
    checkpoint = tmp_path / "w.safetensors.checkpoint"
    kept = checkpoint.read_bytes()
    for again in (options, [*options, "--noise", "0.3", "--mask", "all"]):
        assert "an interrupted run is kept there: go on with it by --resume" in error(*again)
    assert checkpoint.read_bytes() == kept
    state = load_file(small / "w.safetensors")
    state["classifier.weight"] *= 2
    torch.save(state, tmp_path / "other.pt")
    found = error(*options, "--resume", "--weights", tmp_path / "other.pt")
    assert "another run, with another origin of the weights" in found
    assert checkpoint.read_bytes() == kept
    ok(*options, "--resume")
    assert not checkpoint.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_what_becomes_of_a_checkpoint_when_a_run_diverges(tmp_path, resume):
    from noisystore.export import Diverged
    from noisystore.ortops.files import write_whole
    from noisystore.runtime.commands.training_options import removed_at_the_end

    path = tmp_path / "run.checkpoint"

    def diverge(written):
        with removed_at_the_end(path, resume):
            if written:
                write_whole(path, written)
            raise Diverged("no")

    for before, written, left in [
        (None, None, None),
        (None, b"new", None),
        (b"old", None, b"old"),
        (b"old", b"new", b"new" if resume else None),
    ]:
        path.unlink(missing_ok=True)
        if before:
            write_whole(path, before)
        with pytest.raises(Diverged):
            diverge(written)
        assert (path.read_bytes() if path.exists() else None) == left


def test_the_accuracy_before_is_that_of_the_given_weights(small, tmp_path, ok):
    from noisystore.export import TrainingNoise, accuracy, load_model
    from noisystore.export.training_data import normalizer

    first = tmp_path / "first.safetensors"
    ok(*retraining(small, *NOISE, "--epochs", "4", "--lr", "0.05", "-o", first))
    again = retraining(small, "--noise", "3e-2", "--mask", "exponent:5-", "-o", tmp_path / "o")
    result = ok(*again, "--weights", first, "--epochs", "1")
    model, example = load_model("vgg-a", weights=first, width=0.03, classes=3)
    noise, data = TrainingNoise(3e-2, bit_mask="exponent:5-"), np.load(small / "test.npz")
    noisy = noise.wrap(model, example[0])
    before = noise.accuracy(noisy, data["x"], data["y"], normalizer(None, model), 0)
    assert result["noisy_before"] == before
    assert result["clean_before"] == accuracy(model, data["x"], data["y"])
    assert result["noisy_before"] != result["clean_before"]


def test_no_limit_of_gradients(small, tmp_path, ok):
    options = retraining(small, *NOISE, "--epochs", "1", "-o", tmp_path / "o.safetensors")
    result = ok(*options, "--clip", "none")
    assert "max_gradient_norm" not in result["noise"]
    assert result["records"][0]["clipped"] == 0


def test_the_next_command_has_the_sites_and_the_format(tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    command = ["train", "vgg-a", "--data", "digits", "--width", "0.03", "--epochs", "1", *NOISE]
    command += ["--sites", "weight,layer", "--storage-format", "float16", "-o", str(path)]
    assert main(command) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (
        f"next: noisystore export vgg-a --width 0.03 --weights {path} --sites weight,layer "
        f"--storage-format float16 -o {tmp_path / 'w.onnx'}"
    )
    assert main(line.split()[2:]) == 0


@pytest.mark.parametrize(
    ("at", "checkpoint"),
    [
        *((name, False) for name in ("train.npz", "test.npz", "models.py", "w.pt")),
        *((name, True) for name in ("train.npz", "test.npz", "w.pt")),
    ],
)
def test_nothing_that_is_read_is_overwritten(tmp_path, error, at, checkpoint):
    names = {name: name for name in ("train.npz", "test.npz", "models.py", "w.pt")}
    if checkpoint:
        names[at] = "o.checkpoint"
    output = "o" if checkpoint else at
    for name in names.values():
        (tmp_path / name).write_bytes(b"precious")
    command = ("retrain", f"{tmp_path / names['models.py']}:net", "--noise", "1e-3")
    command += ("--weights", tmp_path / names["w.pt"], "-o", tmp_path / output)
    command += ("--data", f"npz:{tmp_path / names['train.npz']}")
    found = error(*command, "--test-data", f"npz:{tmp_path / names['test.npz']}")
    assert f"expected another file than {tmp_path / names[at]}, which is read" in found
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"precious"}


def test_a_model_of_a_file(small, tmp_path, ok, error):
    (tmp_path / "models.py").write_text(
        "import torch\n"
        "def flat():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3),\n"
        "                               torch.nn.ReLU())\n"
        "class Two(torch.nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x)\n"
        "        return (y, y) if self.training else y\n"
        "def two():\n"
        "    return Two(torch.nn.Flatten(), torch.nn.Linear(3072, 3), torch.nn.ReLU())\n"
        "def pair():\n"
        "    class Pair(torch.nn.Module):\n"
        "        def forward(self, a, b):\n"
        "            return a + b\n"
        "    return Pair(), (torch.zeros(2, 3), torch.zeros(2, 3))\n"
    )
    torch.save(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3)).state_dict(),
        tmp_path / "w.pt",
    )
    torch.save({}, tmp_path / "none.pt")
    data = [
        *NOISE,
        "--data",
        f"npz:{small / 'train.npz'}",
        "--images",
        "32",
        "-o",
        tmp_path / "o.safetensors",
        "--test-data",
        f"npz:{small / 'test.npz'}",
    ]
    result = ok("retrain", f"{tmp_path / 'models.py'}:flat", "--weights", tmp_path / "w.pt", *data)
    assert len(result["records"]) == 2
    pair = ("retrain", f"{tmp_path / 'models.py'}:pair", "--weights", tmp_path / "none.pt")
    assert "does not take images of shape [3, 32, 32]" in error(*pair, *data)
    two = ("retrain", f"{tmp_path / 'models.py'}:two", "--weights", tmp_path / "w.pt")
    assert "Two in training mode: expected logits" in error(*two, *data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "mantissa"], "--mask: it belongs to noise: give --noise RATE"),
        (["--sites", "layer"], "--sites: it belongs to noise"),
        (["--storage-format", "float16"], "--storage-format: it belongs to noise"),
        (["--clip", "none"], "--clip: it belongs to noise"),
        (["--noise", "2"], "one rate, or P01/P10, with values from 0 to 1, got '2'"),
        (["--noise", "1e-3,1e-4"], "one rate, or P01/P10"),
        ([*NOISE, "--mask", "exponents"], "got 'exponents'"),
        ([*NOISE, "--mask", "exponent:9-"], "exponent:9-"),
        ([*NOISE, "--sites", "no-such"], "no-such"),
        ([*NOISE, "--storage-format", "float12"], "float12"),
        ([*NOISE, "--schedule", "cosine"], "invalid choice: 'cosine'"),
        ([*NOISE, "--schedule", "log"], "start above 0"),
        ([*NOISE, "--start", "1e-5"], "a constant rate has none"),
        ([*NOISE, "--ramp", "2"], "ramp: expected a number between 0 and 1, got '2'"),
        ([*NOISE, "--clip", "0"], "clip: expected"),
        (["--device", "tpu"], "expected cpu, cuda or cuda:N, got 'tpu'"),
        (["--device", "cuda:99"], "PyTorch finds"),
        (["--device", "cuda:200"], "PyTorch finds"),
        (["--noise", "0.1"], "none of 21 steps of an epoch had a finite loss"),
    ],
)
def test_train_with_bad_noise(tmp_path, error, options, message):
    command = ["train", "vgg-a", "--data", "digits", "--width", "0.03", "--epochs", "2"]
    assert message in error(*command, *options, "-o", tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--noise": None}, "required: --noise"),
        ({"--weights": None}, "required: --weights"),
        ({"--weights": "missing.safetensors"}, "no such file"),
        ({"--width": "0.06"}, "check the network, width and classes"),
        ({"--test-data": None}, "it has one part; name the images to test on with --test-data"),
        ({"--data": "npz:missing.npz"}, "missing.npz"),
        ({"--data": "npz:float.npz"}, "train images: expected a uint8 array"),
        ({"--test-data": "npz:low.npz"}, "does not take images of shape [3, 16, 16]"),
        ({"--data": "npz:low.npz"}, "does not take images of shape [3, 16, 16]"),
        ({"--data": "npz:gray.npz"}, "train images: expected 3 channels"),
        ({"--test-data": "npz:four.npz"}, "test images: expected 3 channels"),
        ({"--data": "npz:many.npz"}, "expected logits [N, 9] or wider"),
        ({"--images": "65"}, "images: expected a number from 1 to 64"),
        ({"--sites": "no-such"}, "no-such"),
        ({"--noise": "0.3", "--mask": "all"}, "none of 4 steps"),
        ({"--lr": "0"}, "learning rate"),
        ({"--resume": ""}, "there is no checkpoint"),
        ({"--output": "w.safetensors"}, "which is read"),
    ],
)
def test_retrain_with_bad_input(small, tmp_path, error, monkeypatch, changes, message):
    before = {file: file.read_bytes() for file in small.iterdir()}
    monkeypatch.chdir(small)
    given = {
        "--weights": "w.safetensors",
        "--width": "0.03",
        "--classes": "3",
        "--data": "npz:train.npz",
        "--test-data": "npz:test.npz",
        "--batch": "16",
        "--noise": "1e-3",
        "--mask": "mantissa",
        "--output": tmp_path / "again.safetensors",
        **changes,
    }
    words = [
        word
        for name, value in given.items()
        if value is not None
        for word in ((name,) if value == "" else (name, value))
    ]
    assert message in error("retrain", "vgg-a", *words)
    assert list(tmp_path.iterdir()) == []
    assert {file: file.read_bytes() for file in small.iterdir()} == before
