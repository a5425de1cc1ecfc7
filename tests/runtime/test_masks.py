# SPDX-License-Identifier: Apache-2.0
"""Masks by name in sessions, sweeps and on the command line."""

import json

import numpy as np
import onnx
import pytest

from noisystore.ortops import InputError, noise_inputs
from noisystore.runtime import NoisySession, Results, sweep
from noisystore.runtime.noisy_sites import NoisySites
from noisystore.runtime.notes import too_wide
from noisystore.runtime.sites import named_mask, site_masks
from noisystore.runtime.sweep_masks import swept_masks


@pytest.fixture
def mixed_path(model_path, tmp_path):
    """The small model with site 1 stored as bfloat16."""
    model = onnx.load(model_path)
    (node,) = [n for n in model.graph.node if n.domain == "noisystore" and n.input[0] == "h"]
    node.attribute.append(onnx.helper.make_attribute("storage_format", "bfloat16"))
    (entry,) = [p for p in model.metadata_props if p.key == noise_inputs.SITES_KEY]
    records = json.loads(entry.value)
    records[1] |= {"storage_format": "bfloat16", "bits_per_word": 16}
    entry.value = json.dumps(records)
    path = tmp_path / "mixed.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def integer_path(tmp_path):
    """x uint8 [N, 4] -> site 0 -> y: one site on a tensor of integers."""
    helper, kind = onnx.helper, onnx.TensorProto
    defaults = {
        noise_inputs.BIT_ERROR_RATE: np.zeros((1, 2)),
        noise_inputs.BIT_MASK: np.full(1, 2**64 - 1, np.uint64),
        noise_inputs.SEED: np.zeros(1, np.int64),
        noise_inputs.SAMPLE_INDEX: np.zeros(1, np.int64),
    }
    noise = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in defaults.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("NoisyStore", ["x", *defaults], ["y"], domain="noisystore", site=0)],
        "integers",
        [helper.make_tensor_value_info("x", kind.UINT8, ["N", 4]), *noise],
        [helper.make_tensor_value_info("y", kind.UINT8, ["N", 4])],
        [onnx.numpy_helper.from_array(v, name) for name, v in defaults.items()],
    )
    record = {"site": 0, "name": "x", "kind": "input", "storage_format": "native", "elements": 4,
              "bits_per_word": 8, "rows_per_sample": 1}  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("noisystore", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    texts = {
        noise_inputs.SITES_KEY: json.dumps([record]),
        noise_inputs.NOISE_MODEL_KEY: noise_inputs.NOISE_MODEL,
    }
    helper.set_model_props(model, texts)
    path = tmp_path / "integers.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def x():
    return np.random.default_rng(5).normal(size=(7, 1, 6, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("exponent", [0x7F800000, 0x7F80]),
        ("msb:9-", [0x7FFFFF, 0x7F]),
        (["sign", "exponent:3-"], [0x80000000, 0x1FFF]),
        (["0x7f800000", 3], [0x7F800000, 3]),
        ("all", [2**64 - 1, 2**64 - 1]),
    ],
)
def test_a_session_resolves_names_by_each_sites_format(mixed_path, x, name, numbers):
    session = NoisySession(mixed_path, threads=1)
    assert [site.element_type for site in session.sites] == ["float32", "float32"]
    assert site_masks(name, session.sites).tolist() == numbers
    named = session.run(x, 0.05, bit_mask=name, seed=3)
    assert np.array_equal(named, session.run(x, 0.05, bit_mask=numbers, seed=3), equal_nan=True)
    assert not np.array_equal(named, session.run(x), equal_nan=True)


def test_native_means_the_graphs_own_type(integer_path):
    session = NoisySession(integer_path, threads=1)
    x = np.arange(8, dtype=np.uint8).reshape(2, 4)
    assert np.array_equal(session.run(x, 1.0, bit_mask="msb:0"), x ^ 0x80)
    with pytest.raises(InputError, match="site 0: bit mask sign: uint8 has no sign; expected all"):
        session.run(x, 1.0, bit_mask="sign")


def test_a_graph_that_does_not_state_types(make_model, tmp_path, x):
    model = onnx.load(make_model(tmp_path / "bare.onnx", with_shapes=False))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    session = NoisySession(path, threads=1)
    assert session.sites[0].word_format is None
    assert site_masks("0xff", session.sites).tolist() == [0xFF, 0xFF]
    with pytest.raises(InputError, match="format of site 0 is not known; expected a number"):
        session.run(x, 0.1, bit_mask="exponent")


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        ("fraction", "expected all, sign"),
        ("msb:9-31", "site 1: bit mask msb:9-31: expected FIRST-LAST within 0 to 15"),
        ("0xffff0000", "site 1: bit mask 0xffff0000: selects no bit of bfloat16"),
        (["sign"], "or 2 \\(one a site\\), got 1"),
        ([["sign"]], "an array of 2 axes"),
    ],
)
def test_names_that_do_not_fit(mixed_path, x, mask, problem, small_data):
    session = NoisySession(mixed_path, threads=1)
    for call in (
        lambda: session.run(x, 0.1, bit_mask=mask),
        lambda: named_mask(mask, session.sites),
        lambda: sweep(session, small_data, [1e-3], trials=1, bit_mask=mask, progress=False),
    ):
        with pytest.raises(InputError, match=problem):
            call()


def test_a_sweep_keeps_the_name_and_the_bits(mixed_path, model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"

    def run(model, mask):
        return sweep(
            model, small_data, [1e-2], trials=1, bit_mask=mask, results=path, progress=False
        )

    named = run(mixed_path, " Exponent ")
    assert named.points[0]["mask"] == "exponent"
    assert named.points[0]["bit_mask"] == '["0x7f800000","0x7f80"]'
    numbers = run(mixed_path, [0x7F800000, 0x7F80])
    assert (numbers.measured, numbers.points) == (0, named.points)
    one = run(model_path, "exponent")
    assert one.points[0]["bit_mask"] == "0x7f800000"
    assert run(model_path, 0x7F800000).measured == 0
    assert run(model_path, ["exponent", "exponent"]).measured == 0
    assert run(model_path, "mantissa").points[0]["mask"] == "mantissa"
    assert run(model_path, "0X7FFFFF").measured == 0
    every = run(model_path, None)
    assert every.points[0]["mask"] == "all"
    assert run(model_path, "all").measured == run(model_path, ["all", "all"]).measured == 0
    apart = run(model_path, ["sign", "all"]).points[0]
    assert apart["mask"] == "sign,all"
    assert apart["bit_mask"] == '["0x80000000","0xffffffffffffffff"]'
    with Results(path, readonly=True) as results:
        assert {row["mask"] for row in results.rows()} == {
            "exponent",
            "mantissa",
            "all",
            "sign,all",
        }


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("0x7fffff", "words of the noisy sites have at most 8 bits: it means all of them"),
        ("0x107", "words of the noisy sites have at most 8 bits: it means 0x7"),
        ("0xff", ""),
        ("msb:0", ""),
        ("all", ""),
    ],
)
def test_a_mask_wider_than_the_words(integer_path, mask, said):
    sites = NoisySession(integer_path).sites
    warning = too_wide(*swept_masks(mask, sites, NoisySites(sites)), sites, NoisySites(sites))
    assert warning == ([f"warning: mask {mask}: {said}"] if said else [])


@pytest.mark.parametrize(
    ("mask", "noisy", "warned"),
    [
        ("0x1ffff", None, False),
        ("0x1ffff", "1", True),
        (["0x1ffffffff", "0xff"], None, False),
        (["0x1ffffffff", "0x1ffff"], None, True),
        (["0x1ffffffff", "all"], None, False),
    ],
)
def test_a_mask_wider_than_some_words(mixed_path, small_data, capsys, mask, noisy, warned):
    options = {"trials": 1, "bit_mask": mask, "noisy": noisy}
    sweep(mixed_path, small_data, [1e-2], progress=True, **options)
    assert (capsys.readouterr().err.count("warning: mask 0x1ffff") == 1) == warned


def test_command_line(model_path, small_npz, tmp_path, ok, error):
    path = tmp_path / "r.sqlite"
    options = ["sweep", model_path, "--data", f"npz:{small_npz}", "--rates", "1e-3,1e-2,1e-1"]
    options += ["--trials", 1, "-o", path]
    for mask, rows in (("exponent:3-", 3), ("MSB:9-31", 3), ("sign,mantissa", 3)):
        assert ok(*options, "--mask", mask)["rows"] == rows
    with Results(path, readonly=True) as results:
        found = {row["mask"]: row["bit_mask"] for row in results.rows()}
    assert found == {
        "exponent:3-": "0x1fffffff",
        "msb:9-31": "0x7fffff",
        "sign,mantissa": '["0x80000000","0x7fffff"]',
    }
    groups = ok("fit", path)
    assert {group["mask"] for group in groups} == set(found)
    assert "float32's exponent" in error(*options, "--mask", "exponent:9-")
    assert "one a site), got 3" in error(*options, "--mask", "sign,sign,sign")
