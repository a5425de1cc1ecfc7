# SPDX-License-Identifier: Apache-2.0
"""VGGs, their weights, and models by name."""

import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from noisystore.export import load_model, load_weights, vgg
from noisystore.ortops.errors import InputError

CONVOLUTIONS = {
    "A": [0, 4, 8, 11, 15, 18, 22, 25],
    "B": [0, 3, 7, 10, 14, 17, 21, 24, 28, 31],
    "D": [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40],
    "E": [0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49],
}


@pytest.mark.parametrize("name", "ABDE")
def test_layout(name):
    model = vgg(name)
    state = model.state_dict()
    found = [i for i, m in enumerate(model.features) if isinstance(m, nn.Conv2d)]
    assert found == CONVOLUTIONS[name]
    for i in found:
        assert f"features.{i}.bias" not in state
        assert state[f"features.{i + 1}.weight"].shape == state[f"features.{i}.weight"].shape[:1]
    assert state["features.0.weight"].shape == (64, 3, 3, 3)
    assert state["classifier.weight"].shape == (10, 512)
    assert model.normalization == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def test_width_classes_and_channels():
    model = vgg("a", width=0.001, classes=3, in_channels=1).eval()
    assert {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)} == {1}
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)
    assert vgg("A", width=0.13).features[0].out_channels == 8
    for bad in ({"name": "C"}, {"name": 3}, {"name": "A", "width": 0}, {"name": "A", "classes": 0}):
        with pytest.raises(InputError, match="vgg"):
            vgg(**bad)


def test_weights_of_both_formats(tmp_path):
    model = vgg("A", width=0.05)
    half = {n: t.half() if t.dim() > 1 else t for n, t in model.state_dict().items()}
    save_file({n: t.contiguous() for n, t in half.items()}, tmp_path / "w.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pt")
    for file, exact in (("w.safetensors", half), ("w.pt", model.state_dict())):
        other = vgg("A", width=0.05)
        load_weights(other, tmp_path / file)
        for name, value in other.state_dict().items():
            assert value.dtype == model.state_dict()[name].dtype
            assert torch.equal(value, exact[name].to(value.dtype))


def test_bad_weights(tmp_path):
    model = vgg("A", width=0.05)
    state = model.state_dict()
    del state["classifier.bias"]
    torch.save(state, tmp_path / "less.pt")
    torch.save({**model.state_dict(), "more": torch.zeros(1)}, tmp_path / "more.pt")
    torch.save(vgg("A", width=0.1).state_dict(), tmp_path / "wide.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(model, tmp_path / "pickle.pt")
    (tmp_path / "text.safetensors").write_text("no tensors")
    bias = model.state_dict()["classifier.bias"]
    for kind, key, value in (
        ("number", 5, bias),
        ("meta", "classifier.bias", bias.to("meta")),
        ("sparse", "classifier.bias", bias.to_sparse()),
        ("complex", "classifier.bias", bias.to(torch.complex64)),
    ):
        torch.save({**model.state_dict(), key: value}, tmp_path / f"{kind}.pt")
    for file, match in {
        "number.pt": "name to tensor",
        "meta.pt": "dense real tensors",
        "sparse.pt": "dense real tensors",
        "complex.pt": "dense real tensors",
        "less.pt": r"lacks classifier\.bias",
        "more.pt": "unknown more",
        "wide.pt": r"features\.0\.weight \[6, 3, 3, 3\] instead of \[3, 3, 3, 3\]",
        "list.pt": "state dict",
        "pickle.pt": "state dict",
        "text.safetensors": "state dict",
        "none.pt": "no such file",
    }.items():
        with pytest.raises(InputError, match=match) as caught:
            load_weights(model, tmp_path / file)
        assert "\n" not in str(caught.value)
        assert "weights_only=False" not in str(caught.value)


SOURCE = """
import torch
def module():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
def with_args():
    return torch.nn.ReLU(), torch.zeros(2, 7)
def number():
    return 3
def broken():
    raise KeyError("x")
"""


DATACLASS = """
from __future__ import annotations
import pickle
from dataclasses import dataclass
import torch
@dataclass
class Sizes:
    inner: int = 5
class Net(torch.nn.Linear):
    pass
def net():
    sizes = pickle.loads(pickle.dumps(Sizes()))
    return Net(3, sizes.inner), torch.zeros(2, 3)
"""


def test_a_file_is_a_module_of_its_own(tmp_path):
    for folder in ("a", "b-1.x"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my-net.v1.py").write_text(DATACLASS)
    models = [load_model(f"{tmp_path}/{f}/my-net.v1.py:net")[0] for f in ("a", "b-1.x", "a")]
    names = [type(model).__module__ for model in models]
    assert len(set(names)) == 3
    for model, name in zip(models, names, strict=True):
        assert sys.modules[name].Net is type(model)
        assert pickle.loads(pickle.dumps(model)).out_features == 5
    before = set(sys.modules)
    for text, match in (("import sys\nsys.exit(3)", "SystemExit: 3"), ("1/0", "ZeroDivision")):
        (tmp_path / "fails.py").write_text(text)
        with pytest.raises(InputError, match=match):
            load_model(f"{tmp_path}/fails.py:f")
    assert set(sys.modules) == before


def test_specs(tmp_path):
    model, args = load_model("vgg-a", width=0.05, classes=7)
    assert not model.training
    assert model(*args).shape == (2, 7)
    (tmp_path / "models.py").write_text(SOURCE)
    (tmp_path / "syntax.py").write_text("def f(:")
    model, args = load_model(f"{tmp_path}/models.py:module")
    assert model(*args).shape == (2, 2, 30, 30)
    assert load_model(f"{tmp_path}/models.py:with_args")[1][0].shape == (2, 7)
    for spec, match in {
        "vgg-c": "expected vgg-a",
        "resnet18": "expected vgg-a",
        f"{tmp_path}/none.py:f": "no file",
        f"{tmp_path}/models.py:absent": "no function 'absent'",
        f"{tmp_path}/models.py:number": "got int",
        f"{tmp_path}/models.py:broken": "raised KeyError",
        f"{tmp_path}/syntax.py:f": "SyntaxError",
    }.items():
        with pytest.raises(InputError, match=match) as caught:
            load_model(spec)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="width"):
        load_model(f"{tmp_path}/models.py:module", width=0.5)


def test_torchvision_names():
    pytest.importorskip("torchvision", reason="needs torchvision")
    with pytest.raises(InputError, match="no model 'resnet1'"):
        load_model("torchvision:resnet1")
    model, args = load_model("torchvision:squeezenet1_1")
    assert args[0].shape == (2, 3, 224, 224)
    assert model.normalization[0] == (0.485, 0.456, 0.406)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_package_alone_imports_no_torch():
    code = "import sys, noisystore.export as e; dir(e); print('torch' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"


def test_public_names_are_no_modules():
    code = (
        "import noisystore.export as e\n"
        "e.export_onnx, e.load_model\n"
        "print([n for n in e.__all__ if type(getattr(e, n)).__name__ == 'module'])"
    )
    assert run_python(code).stdout.strip() == "[]"


def test_a_missing_torch_names_the_extra():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import noisystore.export as e\n"
        "try:\n    e.vgg\nexcept ImportError as error:\n    print(error)"
    )
    assert "pip install noisystore[export]" in run_python(code).stdout


def test_classes_of_a_torchvision_network():
    pytest.importorskip("torchvision", reason="needs torchvision")
    model, args = load_model("torchvision:resnet18", classes=5)
    assert model(*args).shape == (2, 5)


def test_classes_of_a_file_are_its_own(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("import torch\ndef make():\n    return torch.nn.ReLU(), (torch.ones(2, 3),)\n")
    with pytest.raises(InputError, match="classes: the function"):
        load_model(f"{path}:make", classes=5)
