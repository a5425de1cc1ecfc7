# SPDX-License-Identifier: Apache-2.0
"""NoisySession: sites, noise arguments, and every kind of bad input."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from noisystore.ortops import InputError, noise_inputs
from noisystore.runtime import NoisySession
from noisystore.runtime.ort_session import arithmetic_of


@pytest.fixture(scope="module")
def session(model_path):
    return NoisySession(model_path, threads=1)


@pytest.fixture
def x():
    return np.random.default_rng(5).normal(size=(7, 1, 6, 6)).astype(np.float32)


def test_describes_the_model(session, model_path):
    assert [(s.site, s.name, s.elements, s.bits_per_word) for s in session.sites] == [
        (0, "conv", 128, 32),
        (1, "hidden", 24, 32),
    ]
    assert session.input_name == "x"
    assert session.input_shape == (None, 1, 6, 6)
    assert session.input_dtype == np.float32
    assert session.batch is None
    assert session.normalization is None
    assert session.provider == "CPUExecutionProvider"
    assert session.storage_format == "native"
    assert session.model_sha256 == hashlib.sha256(model_path.read_bytes()).hexdigest()


def test_rate_zero_is_the_clean_model(session, x):
    first = session.run(x)
    assert first.shape == (7, 10)
    assert np.array_equal(first, session.run(x, 0.0, seed=9, sample_index=100))


def test_noise_depends_on_seed_and_sample_alone(session, x):
    noisy = session.run(x, 1e-2, seed=3, sample_index=20)
    assert not np.array_equal(noisy, session.run(x))
    assert np.array_equal(noisy, session.run(x, 1e-2, seed=3, sample_index=20), equal_nan=True)
    assert not np.array_equal(noisy, session.run(x, 1e-2, seed=4, sample_index=20), equal_nan=True)
    order = np.array([5, 1, 3])
    some = session.run(x[order], 1e-2, seed=3, sample_index=20 + order)
    assert np.array_equal(some, noisy[order], equal_nan=True)


def test_rates_and_masks_of_one_site(session, x):
    rates = np.zeros((2, 2))
    rates[1] = 0.3
    only_last = session.run(x, rates, seed=1)
    assert not np.array_equal(only_last, session.run(x))
    assert np.array_equal(
        only_last, session.run(x, 0.3, bit_mask=[0, 0xFFFFFFFF], seed=1), equal_nan=True
    )
    assert np.array_equal(session.run(x, (0.5, 0.5), bit_mask=0), session.run(x))


def test_seeds_are_64_bits(session, x):
    assert np.array_equal(
        session.run(x, 0.01, seed=2**64 - 1), session.run(x, 0.01, seed=-1), equal_nan=True
    )


def test_time_and_samples_are_counted(model_path, x):
    session = NoisySession(model_path, threads=1)
    session.run(x)
    session.run(x[:2])
    assert session.inferences == 9
    assert session.run_seconds > 0


def test_several_outputs(make_model, tmp_path, x):
    outputs = NoisySession(make_model(tmp_path / "m.onnx", two_outputs=True)).run(x)
    assert [o.shape for o in outputs] == [(7, 10), (7, 24)]


def test_normalization_is_read(make_model, tmp_path):
    text = json.dumps({"mean": [0.5], "std": [0.25]})
    path = make_model(tmp_path / "m.onnx", metadata={noise_inputs.NORMALIZATION_KEY: text})
    assert NoisySession(path).normalization == {"mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "[" * 5000,
        '{"mean": [0], "std": [0]}',
        '{"mean": [0], "std": [1, 2]}',
        '{"mean": [' + "9" * 400 + '], "std": [1]}',
    ],
)
def test_bad_normalization(make_model, tmp_path, text):
    path = make_model(tmp_path / "m.onnx", metadata={noise_inputs.NORMALIZATION_KEY: text})
    with pytest.raises(InputError, match="normalization: expected"):
        NoisySession(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({noise_inputs.SITES_KEY: None}, "expected sites, got a model without any"),
        ({noise_inputs.SITES_KEY: "[]"}, "at least one site"),
        ({noise_inputs.SITES_KEY: "{"}, "damaged list of sites"),
        ({noise_inputs.SITES_KEY: "[" * 5000}, "damaged list of sites"),
        ({noise_inputs.SITES_KEY: '[{"site": 0}]'}, "damaged list of sites"),
        ({noise_inputs.NOISE_MODEL_KEY: "2"}, "expected noise model 1, got 2"),
        ({noise_inputs.NOISE_MODEL_KEY: None}, "expected noise model 1, got none"),
    ],
)
def test_bad_metadata(make_model, tmp_path, metadata, message):
    with pytest.raises(InputError, match=message):
        NoisySession(make_model(tmp_path / "m.onnx", metadata=metadata))


@pytest.mark.parametrize("text", [b'"hidden"', b"logits"])
def test_text_that_is_no_utf8(model_path, tmp_path, text):
    data = model_path.read_bytes()
    assert text in data
    path = tmp_path / "m.onnx"
    path.write_bytes(data.replace(text, text[:-2] + b"\xff" + text[-1:]))
    with pytest.raises(InputError, match="names in UTF-8"):
        NoisySession(path)


def test_sites_without_a_gap(make_model, tmp_path, session):
    record = {k: getattr(session.sites[0], k) for k in session.sites[0].__dataclass_fields__}
    text = json.dumps([record, {**record, "site": 2}])
    path = make_model(tmp_path / "m.onnx", metadata={noise_inputs.SITES_KEY: text})
    with pytest.raises(InputError, match=r"expected sites 0 to 1, got \[0, 2\]"):
        NoisySession(path)


@pytest.mark.parametrize("name", noise_inputs.NOISE_INPUTS)
def test_a_missing_noise_input(make_model, tmp_path, name):
    path = make_model(tmp_path / "m.onnx", without_input=name)
    with pytest.raises(InputError, match=f"overridable input {name}, got none"):
        NoisySession(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64, b"\x08\x08\x3a\xff\xff"])
def test_no_onnx_file(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        NoisySession(path)
    assert "expected an ONNX model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        NoisySession(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="no file"):
        NoisySession(tmp_path)
    if os.geteuid() != 0:
        path = tmp_path / "m.onnx"
        path.touch(mode=0o000)
        with pytest.raises(InputError, match="permission"):
            NoisySession(path)


def test_truncated_model(model_path, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_path.read_bytes()[:-200])
    with pytest.raises(InputError, match="expected an ONNX model"):
        NoisySession(path)


@pytest.mark.parametrize("provider", ["nonsense", "TensorrtExecutionProvider"])
def test_unknown_provider(model_path, provider):
    with pytest.raises(InputError, match=f"expected one of .*CPUExecutionProvider.*{provider}"):
        NoisySession(model_path, providers=[provider])


def test_providers_have_short_names(model_path):
    assert NoisySession(model_path, "cpu").provider == "CPUExecutionProvider"
    with pytest.raises(InputError, match="got none"):
        NoisySession(model_path, [])


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_bad_threads(model_path, threads):
    with pytest.raises(InputError, match="threads: expected a positive integer"):
        NoisySession(model_path, threads=threads)


def test_bad_input(session, x):
    with pytest.raises(InputError, match=r"expected shape \[N, 1, 6, 6\], got \[7, 1, 6, 5\]"):
        session.run(x[..., :5])
    with pytest.raises(InputError, match="expected shape"):
        session.run(x[0])
    with pytest.raises(InputError, match="expected an array of float32, got float64"):
        session.run(x.astype(np.float64))
    with pytest.raises(InputError, match="got list"):
        session.run([[1.0]])
    with pytest.raises(InputError, match="got no sample"):
        session.run(x[:0])
    with pytest.raises(InputError, match="expected the inputs"):
        session.run({"y": x})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("bit_error_rate", -0.1),
        ("bit_error_rate", 1.1),
        ("bit_error_rate", float("nan")),
        ("bit_error_rate", [0.1, 0.1, 0.1]),
        ("bit_error_rate", np.zeros((3, 2))),
        ("bit_error_rate", "high"),
        ("bit_mask", -1),
        ("bit_mask", 2**64),
        ("bit_mask", [1, 2, 3]),
        ("bit_mask", 0.5),
        ("seed", 2**64),
        ("seed", 0.5),
        ("sample_index", [0, 1]),
        ("sample_index", 0.5),
        ("sample_index", np.zeros((7, 1), int)),
        ("sample_index", []),
    ],
)
def test_bad_noise_arguments(session, x, argument, value):
    with pytest.raises(InputError):
        session.run(x, **{argument: value})


def test_nothing_is_printed(model_path):
    code = f"from noisystore.runtime import NoisySession; NoisySession({str(model_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_import_is_light():
    code = (
        "import sys, noisystore.runtime.sweep\n"
        "from noisystore.runtime import NoisySession, Results, sweep\n"
        "assert callable(sweep)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'sklearn', 'matplotlib', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_running_needs_no_torch_and_no_onnx(model_path):
    code = (
        "import sys, numpy as np; from noisystore.runtime import NoisySession\n"
        f"NoisySession({str(model_path)!r}).run(np.zeros((1, 1, 6, 6), np.float32), 0.1)\n"
        "print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_checksum_covers_external_weights(model_path, tmp_path):
    sums = []
    for value in (1.0, 2.0):
        folder: Path = tmp_path / str(value)
        folder.mkdir()
        tensor = numpy_helper.from_array(np.full(1000, value, np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1000])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])],
            [tensor],
        )
        onnx.save(
            helper.make_model(graph, ir_version=8),
            folder / "m.onnx",
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
        )
        from noisystore.runtime.model_file import external_files, model_sha256

        assert external_files(folder / "m.onnx") == ["weights.bin"]
        sums.append(model_sha256(folder / "m.onnx"))
    assert (tmp_path / "1.0/m.onnx").read_bytes() == (tmp_path / "2.0/m.onnx").read_bytes()
    assert sums[0] != sums[1]
    (tmp_path / "1.0/weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin"):
        model_sha256(tmp_path / "1.0/m.onnx")


def test_a_run_does_not_go_over_to_the_cpu(session, small_data):
    """ONNX Runtime's fallback does, after some errors of a provider, and says nothing of it."""
    from onnxruntime.capi._pybind_state import EPFail

    class Fails:
        def __init__(self, inner):
            self.inner, self.left = inner, 1

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def run(self, *arguments):
            self.left -= 1
            if self.left >= 0:
                raise EPFail("no plan for this convolution")
            return self.inner.run(*arguments)

    inner = session._session
    before, inner._sess = inner._sess, Fails(inner._sess)
    try:
        with pytest.raises(InputError, match="no plan for this convolution"):
            session.run(small_data.images[:2])
    finally:
        inner._sess = before


def test_options_that_round_are_part_of_the_arithmetic(session):
    assert session.arithmetic == "CPUExecutionProvider"
    for options, named in (
        ({}, ""),
        ({"use_tf32": "1", "device_id": "1"}, ""),
        ({"use_tf32": "0"}, " use_tf32=0"),
        ({"use_tf32": "False", "trt_fp16_enable": "True"}, " use_tf32=0 trt_fp16_enable=1"),
    ):
        assert arithmetic_of("X", [("X", options), ("CPUExecutionProvider", {})]) == f"X{named}"
    others = [("X", {}), ("CUDAExecutionProvider", {"use_tf32": "0"})]
    assert arithmetic_of("X", others) == "X use_tf32=0"


def test_captured_graphs_are_refused(model_path):
    for value in ("1", "true", True, 1):
        provider = ("CPUExecutionProvider", {"enable_cuda_graph": value})
        with pytest.raises(InputError, match="repeats the noise that it was captured with"):
            NoisySession(model_path, [provider])
