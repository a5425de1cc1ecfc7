# SPDX-License-Identifier: Apache-2.0
"""The C++ sweep, built in a bundle and run there: it measures what `noisystore sweep` measures."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from noisystore import ortops
from noisystore.ortops import InputError
from noisystore.runtime import NoisySession, sweep
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import Dataset, load
from noisystore.runtime.dataset_raw import read_raw, write_raw
from noisystore.runtime.rates import noise_seed

SOURCES = Path(__file__).parents[2] / "examples/cpp"
RATES = "1e-5,1e-3,1e-2/1e-5,0/0.02"
IMAGES = 150


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def failure(program: Path, *arguments: object) -> str:
    """Return the one line of a run that must fail as bad input does."""
    done = run(program, *arguments)
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("noisystore_sweep: error: ")
    return line


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the part of a bundle that no model changes, with the program built in cpp/build."""
    if not shutil.which("cmake") or not (shutil.which("c++") or os.environ.get("CXX")):
        pytest.skip("needs cmake and a C++ compiler")
    capi = Path(onnxruntime.__file__).parent / "capi"
    libraries = sorted(capi.glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("needs libonnxruntime.so: this onnxruntime wheel has none")
    folder = tmp_path_factory.mktemp("bundle with a space")
    shutil.copytree(SOURCES, folder / "cpp", ignore=shutil.ignore_patterns("build"))
    (folder / "lib").mkdir()
    shutil.copy(ortops.library_path(), folder / "lib/libnoisystore.so")
    (folder / "wheels").mkdir()
    tag = f"cp310-cp310-manylinux_2_28_{platform.machine()}"
    wheel = folder / f"wheels/onnxruntime-{onnxruntime.__version__}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(libraries[0], f"onnxruntime/capi/{libraries[0].name}")
        archive.write(onnxruntime.__file__, "onnxruntime/__init__.py")
    # No header, as on a board: an empty ORT_INCLUDE is not looked for.
    settings = ("-DORT_INCLUDE=", "-DCMAKE_CXX_FLAGS=-Werror")
    build = folder / "cpp/build"
    for command in (
        ["cmake", "-S", folder / "cpp", "-B", build, *settings],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not (build / "count_flips").exists()
    return folder


@pytest.fixture(scope="module")
def program(bundle: Path) -> Path:
    return bundle / "cpp/build/noisystore_sweep"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a narrow VGG-A, trained for a moment, as several annotated models."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("models")
    weights = folder / "w.safetensors"
    network = ("vgg-a", "--width", "0.0625")
    export = ("export", *network, "--weights", weights, "--sites")
    quantize = ("quantize", folder / "plain.onnx", "--data", "digits")
    for words, output in (
        (("train", *network, "--data", "digits", "--epochs", 2), weights),
        ((*export, "activation"), folder / "float.onnx"),
        ((*export, "weight,activation"), folder / "weights.onnx"),
        ((*export, "none"), folder / "plain.onnx"),
        ((*quantize, "--images", 64, "--sites", "layer"), folder / "int8.onnx"),
    ):
        assert main([*map(str, words), "-o", str(output)]) == 0
    fixed = onnx.load(folder / "float.onnx")
    for value in (fixed.graph.input[0], fixed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 32
    onnx.save_model(fixed, folder / "fixed.onnx")
    onnx.save_model(
        onnx.load(folder / "float.onnx"),
        folder / "external.onnx",
        save_as_external_data=True,
        location="model.weights",
    )
    return folder


def fill(bundle: Path, model: Path, data: Dataset, batch: int = 100) -> NoisySession:
    """Put a model and data in the bundle, and return the model's session in Python."""
    for name in ("model", "data"):
        shutil.rmtree(bundle / name, ignore_errors=True)
        (bundle / name).mkdir()
    shutil.copy(model, bundle / "model/model.onnx")
    if model.stem == "external":
        shutil.copy(model.parent / "model.weights", bundle / "model")
    session = NoisySession(bundle / "model/model.onnx", threads=1)
    for name, content in write_raw(data, session.normalization, batch).items():
        (bundle / "data" / name).write_bytes(content)
    return session


def check_points(program, bundle, session, data, *, batch=100, seed=0, options=(), rates=RATES):
    """Compare all that the program measures with a sweep in Python, in the same batches."""
    expected = sweep(
        session, data, rates, trials=2, seed=seed, batch_size=batch, skip_clean=False,
        progress=False,
    )  # fmt: skip
    words = ("--rates", rates, "--trials", 2, "--seed", seed, "--threads", 1, "--json")
    done = run(program, bundle, *words, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["clean_accuracy"] == expected.clean_accuracy
    assert found["images"] == len(data)
    assert found["sites"] == len(session.sites)
    assert found["onnxruntime"] == onnxruntime.__version__
    points = {(p["p01"], p["p10"], p["trial"]): p for p in expected.points}
    assert len(found["points"]) == len(points)
    for point in found["points"]:
        key = point["p01"], point["p10"], point["trial"]
        row = points[key]
        assert point["noise_seed"] == row["noise_seed"] % 2**64, key
        assert (point["accuracy"], point["agreement"]) == (row["accuracy"], row["agreement"]), key
    # Else agreement would say little.
    assert len({point["agreement"] for point in found["points"]}) > 4
    return found


@pytest.mark.parametrize("name", ["float", "int8", "weights", "external"])
def test_the_points_are_those_of_python(program, bundle, models, name):
    data = load("digits", images=IMAGES)
    session = fill(bundle, models / f"{name}.onnx", data)
    assert session.normalization is not None
    check_points(program, bundle, session, data)


@pytest.mark.parametrize(("name", "used"), [("float", 64), ("fixed", 32)])
def test_batches_that_do_not_divide_the_images(program, bundle, models, name, used):
    data = load("digits", images=IMAGES)
    session = fill(bundle, models / f"{name}.onnx", data, batch=64)
    found = check_points(program, bundle, session, data, batch=64, seed=-7)
    assert found["batch_size"] == used
    options = ("--batch", 70)
    found = check_points(program, bundle, session, data, batch=70, seed=2**63 - 1, options=options)
    assert found["batch_size"] == (70 if name == "float" else 32)


def test_some_images_of_float32_data(program, bundle, models):
    data = load("digits", images=IMAGES)
    images = (data.images.astype(np.float32) / np.float32(255) - np.float32(0.4)) * np.float32(2)
    data = Dataset("floats", images, data.labels)
    session = fill(bundle, models / "float.onnx", data)
    check_points(program, bundle, session, data.head(101), options=("--images", 101))


def uint8_model(path: Path, source: Path) -> Path:
    """Let a model take uint8 images, which it scales itself."""
    model = onnx.load(source)
    first = model.graph.input[0]
    first.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    scaled = f"{first.name}.scaled"
    for node in model.graph.node:
        node.input[:] = [scaled if name == first.name else name for name in node.input]
    scale = onnx.numpy_helper.from_array(np.array(0.01, np.float32), "scale")
    model.graph.initializer.append(scale)
    cast = onnx.helper.make_node("Cast", [first.name], ["cast"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    model.graph.node.insert(1, onnx.helper.make_node("Mul", ["cast", "scale"], [scaled]))
    onnx.save_model(model, path)
    return path


def test_a_model_that_takes_uint8(program, bundle, models, tmp_path):
    data = load("digits", images=IMAGES)
    path = uint8_model(tmp_path / "uint8.onnx", models / "float.onnx")
    check_points(program, bundle, fill(bundle, path, data), data)
    fill(bundle, path, Dataset("floats", data.images.astype(np.float32), data.labels))
    assert "takes uint8 images" in failure(program, bundle, "--rates", 0.1)


def test_a_table_for_people_and_data_without_labels(program, bundle, models):
    data = load("digits", images=IMAGES)
    session = fill(bundle, models / "float.onnx", Dataset("plain", data.images))
    done = run(program, bundle, "--rates", "0,1e-3/1e-5", "--trials", 2, "--threads", 1)
    assert done.returncode == 0, done.stderr
    head, clean, columns, zero, noisy, spent = done.stdout.splitlines()
    assert head.startswith("plain: 150 images, batch 100, 8 sites, ONNX Runtime ")
    assert clean == "no labels: agreement with the clean network"
    assert columns.split() == ["rate", "trial", "0", "trial", "1", "mean"]
    assert zero.split() == ["0", "1.0000", "1.0000", "1.0000"]
    expected = sweep(
        session, Dataset("plain", data.images), [(1e-3, 1e-5)], trials=2, progress=False
    )
    shares = [point["agreement"] / IMAGES for point in expected.points]
    numbers = [f"{value:.4f}" for value in (*shares, sum(shares) / 2)]
    assert noisy.split() == ["0.001/1e-05", *numbers]
    assert spent.startswith("750 inferences in ")


def test_noise_seeds_of_odd_rates(program, bundle, models):
    data = load("digits", images=2)
    fill(bundle, models / "float.onnx", data)
    rates = ["5e-324", "2.2250738585072009e-308", "2.2250738585072014e-308", "0", "1", "0.1"]
    rates += ["1e-320/0.3", "0.3333333333333333/1", ".5/5E-1", "0/1e-6", "1/0", "0.1/0.10"]
    for seed in (-(2**63), 0, 123456789012345678):
        words = ("--rates", ",".join(rates), "--seed", seed, "--trials", 1, "--json")
        done = run(program, bundle, *words)
        assert done.returncode == 0, done.stderr
        points = json.loads(done.stdout)["points"]
        pairs = [tuple(float(rate) for rate in (r.split("/") * 2)[:2]) for r in rates]
        assert [(p["p01"], p["p10"]) for p in points] == list(dict.fromkeys(pairs))
        for point in points:
            wanted = noise_seed(seed, 0, point["p01"], point["p10"])
            assert point["noise_seed"] == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rates", "2"], "from 0 to 1, got 2"),
        (["--rates", "1e-3,,1e-2"], "expected a number, got ''"),
        (["--rates", "nan"], "expected a number, got 'nan'"),
        (["--rates", "0x1p-3"], "expected a number"),
        (["--rates", "1/0/1"], "expected P01/P10"),
        (["--rates", "-0.1"], "from 0 to 1"),
        (["--rates"], "--rates: expected a value"),
        ([], "expected --rates"),
        (["--rates", "0.1", "--trials", "0"], "--trials: expected an integer from 1"),
        (["--rates", "0.1", "--seed", "9223372036854775808"], "--seed: expected an integer from -"),
        (["--rates", "0.1", "--images", "7"], "--images: expected at most 6, got 7"),
        (["--rates", "0.1", "--batch", "1e2"], "--batch: expected an integer"),
        (["--rates", "0.1", "--threads", "-1"], "--threads: expected an integer from 1"),
        (["--rates", "0.1", "--fast"], "got '--fast'"),
        (["--rates", "0.1", "other"], "got 'other'"),
        (["--rates", "0.1", "--library", "no.so"], "no.so: expected the operator library"),
        (["--rates", "0.1", "--onnxruntime", "no.so"], "--onnxruntime no.so: expected"),
        (["--rates", "0.1", "--onnxruntime", "libm.so.6"], "libm.so.6: is not ONNX Runtime"),
        (["--rates", "0.1", "--library", __file__], "--library .*: expected libnoisystore.so"),
    ],
)
def test_bad_arguments(program, bundle, models, words, message):
    fill(bundle, models / "float.onnx", load("digits", images=6))
    assert re.search(message, failure(program, bundle, *words))


def test_bad_models(program, bundle, models, tmp_path):
    data = load("digits", images=6)
    fill(bundle, models / "float.onnx", data)
    path = bundle / "model/model.onnx"
    shutil.copy(models / "plain.onnx", path)
    assert "expected an annotated model" in failure(program, bundle, "--rates", 0.1)
    path.write_bytes(b"\x08\x07 not a model")
    assert "model.onnx: ONNX Runtime" in failure(program, bundle, "--rates", 0.1)
    path.unlink()
    assert "expected a bundle's model" in failure(program, bundle, "--rates", 0.1)
    assert "expected BUNDLE_FOLDER" in failure(program)
    fill_again = Dataset("small", data.images[:, :, :16, :16].copy(), data.labels)
    shutil.copy(models / "float.onnx", path)
    for name, content in write_raw(fill_again).items():
        (bundle / "data" / name).write_bytes(content)
    assert "another shape" in failure(program, bundle, "--rates", 0.1)
    high = Dataset("high", data.images, data.labels + 10)
    for name, content in write_raw(high).items():
        (bundle / "data" / name).write_bytes(content)
    assert "labels from 0 to 9" in failure(program, bundle, "--rates", 0.1)


def test_damaged_data_are_refused_as_in_python(program, bundle, models):
    """Change the text at random: whatever Python refuses is refused, and nothing else."""
    data = load("digits", images=3)
    fill(bundle, models / "float.onnx", data)
    path = bundle / "data/data.txt"
    text = path.read_bytes()
    random = np.random.default_rng(0)
    lines = text.splitlines(keepends=True)
    changed = [b"", text[:-1], text + text, text + b"\n", text.replace(b"3 32", b"-3 -32")]
    changed += [text.replace(line, b"") for line in lines]
    changed += [text.replace(b"shape 3 3 32 32", b"shape 3 " + shape) for shape in (
        b"3 1024", b"3072", b"3 32 32 1", b"4294967296 4294967296", b"3 32 18446744073709551648",
        b"9223372036854775807", b"3 32 32 1 1 1 1", b"3 32 32 1 1 1 1 1", b"3 32  32", b"6 32 16",
    )]  # fmt: skip
    for _ in range(150):
        at = int(random.integers(len(text)))
        byte = random.choice(list(b"0123456789.-+eE \nnx\0\xff"))
        changed.append(text[:at] + bytes([byte]) + text[at + int(random.integers(3)) :])
    outcomes = set()
    for wrong in changed:
        path.write_bytes(wrong)
        try:
            read_raw(bundle / "data")
            fits = True
        except InputError:
            fits = False
        # Data are read before the operator library is looked for.
        message = failure(program, bundle, "--rates", 0.1, "--library", "missing.so")
        assert ("missing.so" in message) == fits, (wrong, message)
        assert fits or "data file " in message
        outcomes.add(fits)
    assert outcomes == {True, False}
    path.write_bytes(text)
    for name in ("images.bin", "labels.bin"):
        file = bundle / "data" / name
        content = file.read_bytes()
        for wrong in (content[:-1], content + b"\0", b""):
            file.write_bytes(wrong)
            message = failure(program, bundle, "--rates", 0.1)
            assert f"{name}: expected {len(content)} bytes, got {len(wrong)}" in message
        file.unlink()
        assert f"{name}: expected a file" in failure(program, bundle, "--rates", 0.1)
        file.write_bytes(content)


def test_the_check_against_the_official_header_is_complete():
    declared = re.findall(r"\(\*([A-Z]\w+)\)\(", (SOURCES / "ort_api.h").read_text())
    check = (SOURCES / "check_ort_api.cc").read_text()
    checked = re.findall(r"^CHECK_F\w+\((?:OrtApiBase, )?(\w+)\);", check, re.MULTILINE)
    assert declared == checked
    assert len(declared) > 30
