# SPDX-License-Identifier: Apache-2.0
"""Noisy weights as constants of a trial: the bits of the graph's own stores, at full speed."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from parameter_models import annotated, record, saved, seen_parameter, small_network, store

from noisystore import ortops
from noisystore.ortops import InputError, noise_inputs
from noisystore.runtime import NoisySession
from noisystore.runtime.ort_session import SessionMaker, named_providers
from noisystore.runtime.stored_parameters import read_stored_parameters
from noisystore.runtime.trial_sessions import TrialSessions

ONE = np.zeros((1, 1), np.float32)
CASES = [
    (TensorProto.FLOAT, np.float32, {}),
    (TensorProto.FLOAT, np.float32, {"storage_format": "float16"}),
    (TensorProto.FLOAT, np.float32, {"storage_format": "float8e4m3fn"}),
    (TensorProto.FLOAT, np.float32, {"storage_format": "int8", "scale": 0.05, "zero_point": 3}),
    (TensorProto.FLOAT, np.float32, {"storage_format": "uint4", "scale": 0.5, "zero_point": 8}),
    (TensorProto.DOUBLE, np.float64, {"storage_format": "float32"}),
    (TensorProto.FLOAT16, np.float16, {"storage_format": "float16"}),
    (TensorProto.BFLOAT16, np.uint16, {"storage_format": "bfloat16"}),
    (TensorProto.INT8, np.int8, {}),
    (TensorProto.UINT8, np.uint8, {}),
    (TensorProto.INT32, np.int32, {}),
]
NOISE = [
    (0.0, None, 0),
    (1e-3, None, 1),
    ((1e-2, 3e-4), 0x55, -7),
    ((0.4, 0.1), None, 2**63),
    (1.0, 0x3, 4),
]


def plain_session(path, optimized=True):
    """Return a session of the file as any program makes it."""
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    ortops.register(options)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(session, rate, mask, seed, **data):
    return {**session.noise_feed(rate, mask, seed), **data}


@pytest.mark.parametrize(("element_type", "dtype", "attributes"), CASES)
@pytest.mark.parametrize("external", [False, True])
def test_the_bits_of_the_graphs_own_store(tmp_path, element_type, dtype, attributes, external):
    rng = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        words = rng.normal(size=(50, 7)).astype(dtype)
    else:
        words = rng.integers(0, 100, (50, 7)).astype(dtype)
    model = seen_parameter(words, element_type, **attributes)
    path = saved(model, tmp_path / "m.onnx", external=external)
    session, plain = NoisySession(path, threads=1), plain_session(path)
    assert session.prepared_sites == (0,)
    for rate, mask, seed in NOISE:
        asked = feeds(session, rate, mask, seed, x=ONE)
        outputs = [
            onnxruntime.OrtValue.numpy(value)
            if element_type != TensorProto.BFLOAT16
            else np.frombuffer(raw_bytes(value), np.uint16).reshape(words.shape)
            for value in (
                run_for_ort_value(plain, asked),
                run_for_ort_value(session._trials.session(*list(asked.values())[:3]), asked),
            )
        ]
        expected = ortops.apply(
            words, rate, bit_mask=mask, seed=seed, rows_per_sample=0, **attributes
        )
        assert outputs[0].tobytes() == expected.tobytes()
        assert outputs[1].tobytes() == expected.tobytes()


def run_for_ort_value(session, asked):
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(v) for name, v in asked.items()}
    return session.run_with_ort_values(["seen"], values)[0]


def raw_bytes(value):
    """Return the bytes of a tensor whose type NumPy lacks."""
    import ctypes

    size = int(np.prod(value.shape())) * 2
    return ctypes.string_at(value.data_ptr(), size)


@pytest.mark.parametrize("storage_format", ["native", "bfloat16", "float8e5m2"])
def test_a_network_with_noise_in_every_kind(tmp_path, storage_format):
    path = small_network(tmp_path / "m.onnx", storage_format=storage_format)
    session, plain = NoisySession(path, threads=1), plain_session(path)
    assert session.prepared_sites == (0, 1, 3, 4)
    x = np.random.default_rng(1).normal(size=(9, 1, 6, 6)).astype(np.float32)
    changed = 0
    for seed in range(6):
        for rate in (0.0, 1e-3, 1e-2):
            # Without the top exponent bits, so that the numbers stay comparable.
            mask = {"native": 0x87FFFFFF, "bfloat16": 0x87FF, "float8e5m2": 0x87}[storage_format]
            asked = feeds(session, rate, mask, seed, x=x)
            expected = plain.run(None, asked)[0]
            found = session.run(x, rate, mask, seed)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
            changed += not np.allclose(found, session.run(x))
    assert changed > 6


def test_other_readers_keep_what_they_read(tmp_path):
    info = helper.make_tensor_value_info
    values = np.random.default_rng(2).normal(size=40).astype(np.float32)
    inner = helper.make_graph(
        [helper.make_node("Sub", ["a", "w"], ["difference"])],
        "inner", [], [info("difference", 1, [40])],
    )  # fmt: skip
    nodes = [
        store("w", "a", 0),
        store("w", "b", 1),
        store("w", "unread", 2),
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Identity", ["w"], ["clean"]),
        helper.make_node("Concat", ["a", "b"], ["both"], axis=0),
        helper.make_node("If", ["yes"], ["inside"], then_branch=inner, else_branch=inner),
    ]
    initializers = [
        numpy_helper.from_array(values, "w"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    outputs = [info("y", 1, ["N", 1])]
    outputs += [info(n, 1, [s]) for n, s in (("clean", 40), ("both", 80), ("inside", 40))]
    records = [record(i, f"w{i}", "weight", 40) for i in range(3)]
    model = annotated(nodes, [info("x", 1, ["N", 1])], outputs, initializers, records)
    path = saved(model, tmp_path / "m.onnx")
    session, plain = NoisySession(path, threads=1), plain_session(path)
    assert session.prepared_sites == (0, 1)
    mask = 0x807FFFFF
    for rate in (0.0, 0.01):
        found = session.run(ONE, rate, mask, 5)
        expected = plain.run(None, feeds(session, rate, mask, 5, x=ONE))
        assert [v.tobytes() for v in found] == [v.tobytes() for v in expected]
    assert np.array_equal(found[1], values)
    assert not np.array_equal(found[2][:40], found[2][40:])


def test_a_store_in_a_subgraph_runs_with_the_graph(tmp_path):
    info = helper.make_tensor_value_info
    inner = helper.make_graph(
        [store("w", "stored", 0), helper.make_node("Mul", ["x", "stored"], ["product"])],
        "inner", [], [info("product", 1, ["N", 4])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["negative"])], "other", [], [info("negative", 1, ["N", 4])]
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=other)
    initializers = [
        numpy_helper.from_array(np.ones(4, np.float32), "w"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    model = annotated(
        [node], [info("x", 1, ["N", 4])], [info("y", 1, ["N", 4])], initializers,
        [record(0, "w", "weight", 4)],
    )  # fmt: skip
    session = NoisySession(saved(model, tmp_path / "m.onnx"), threads=1)
    assert session.prepared_sites == ()
    x = np.ones((2, 4), np.float32)
    expected = ortops.apply(np.ones(4, np.float32), 0.1, seed=2, rows_per_sample=0)
    assert np.array_equal(session.run(x, 0.1, seed=2), x * expected, equal_nan=True)
    assert session.prepare_seconds == 0


class Counting(SessionMaker):
    """Counts the sessions that it makes."""

    made = 0

    def with_values(self, stored, values):
        Counting.made += 1
        return super().with_values(stored, values)


def test_a_session_is_made_where_a_parameter_changes(tmp_path):
    path = small_network(tmp_path / "m.onnx")
    Counting.made = 0
    maker = Counting(path, named_providers("cpu"), 1)
    trials = TrialSessions(read_stored_parameters(path), maker)

    def asked(rates, mask=noise_inputs.ALL_BITS, seed=0):
        table = np.zeros((5, 2)) + np.asarray(rates, float).reshape(-1, 1)
        found = trials.session(table, np.full(5, mask, np.uint64), np.array([seed]))
        return found, Counting.made

    clean = trials.clean
    assert asked(0.0) == (clean, 1)
    # So few flips that there is none, in either trial.
    assert asked(1e-9) == asked(1e-9, seed=8) == (clean, 1)
    # Of activations alone.
    assert asked([0, 0, 0.1, 0, 0], seed=3) == (clean, 1)
    assert asked(0.1, mask=0, seed=3) == (clean, 1)
    first, made = asked(0.1, seed=3)
    assert first is not clean
    assert made == 2
    assert asked(0.1, seed=3) == (first, 2)
    # The same flips: another rate of the activations, or bits that the words do not have.
    assert asked([0.1, 0.1, 0.4, 0.1, 0.1], seed=3) == (first, 2)
    assert asked(0.1, mask=(1 << 40) - 1, seed=3) == (first, 2)
    # The clean network between two runs of a trial.
    assert asked(0.0) == (clean, 2)
    assert asked(0.1, seed=3) == (first, 2)
    assert asked(0.1, seed=4)[1] == 3
    assert asked([0.1, 0, 0, 0, 0], seed=4)[1] == 4
    assert asked([0.1, 0, 0, 0, 0], mask=0xFF, seed=4)[1] == 5
    assert trials.seconds > 0


def test_preparation_is_no_run_time(tmp_path):
    session = NoisySession(small_network(tmp_path / "m.onnx"), threads=1)
    x = np.zeros((1, 1, 6, 6), np.float32)
    session.run(x)
    clean = session.prepare_seconds
    session.run(x, 0.1)
    noisy = session.prepare_seconds
    before = session.run_seconds
    session.run(x, 0.1)
    assert noisy > clean
    assert session.prepare_seconds == noisy
    assert session.run_seconds > before


class Dumping(SessionMaker):
    """Writes what ONNX Runtime makes of the model."""

    def _options(self, entries):
        options = super()._options(entries)
        options.optimized_model_filepath = str(self.path.with_suffix(".optimized.onnx"))
        return options


def optimized(path):
    """Return the optimized graph of a noisy trial."""
    trials = TrialSessions(read_stored_parameters(path), Dumping(path, named_providers("cpu"), 1))
    sites = trials.clean.get_modelmeta().custom_metadata_map[noise_inputs.SITES_KEY].count('"site"')
    masks = np.full(sites, 0x7F, np.uint64)
    noisy = trials.session(np.full((sites, 2), 0.05), masks, np.array([1]))
    assert noisy is not trials.clean
    return onnx.load(path.with_suffix(".optimized.onnx")).graph


def test_convolutions_have_constant_weights_and_are_fused(tmp_path):
    graph = optimized(small_network(tmp_path / "m.onnx", width=16))
    initializers = {tensor.name for tensor in graph.initializer}
    (conv,) = [node for node in graph.node if "Conv" in node.op_type]
    assert set(conv.input[1:]) <= initializers
    # Fused with its activation, in the layout that ONNX Runtime prefers here.
    assert conv.domain in ("com.microsoft.nchwc", "com.microsoft")
    assert "Relu" not in {node.op_type for node in graph.node}
    left = [node for node in graph.node if node.op_type == "NoisyStore"]
    assert [helper.get_node_attr_value(node, "site") for node in left] == [2]


def quantized_network(folder: Path) -> Path:
    """A network that ONNX Runtime quantized, with stores of its int8 weight and int32 bias."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    rng = np.random.default_rng(0)
    info = helper.make_tensor_value_info
    weight = rng.normal(size=(8, 3, 3, 3)).astype(np.float32)
    bias = rng.normal(size=8).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ],
        "g", [info("x", 1, ["N", 3, 8, 8])], [info("y", 1, ["N", 8, 6, 6])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "float.onnx")

    class Reader(CalibrationDataReader):
        images = iter([{"x": rng.normal(size=(4, 3, 8, 8)).astype(np.float32)}])

        def get_next(self):
            return next(self.images, None)

    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    made = onnx.load(folder / "int8.onnx").graph
    initializers = {tensor.name: tensor for tensor in made.initializer}
    stores, records = [], []
    for node in made.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers:
            held = initializers[node.input[0]]
            site, kind = len(records), "weight" if len(held.dims) > 1 else "bias"
            bits = 8 if kind == "weight" else 32
            records.append(record(site, held.name, kind, int(np.prod(held.dims)), bits))
            stores.append(store(held.name, f"{held.name}.read", site))
            node.input[0] = f"{held.name}.read"
    assert [entry["kind"] for entry in records] == ["bias", "weight"]
    model = annotated([*stores, *made.node], made.input, made.output, made.initializer, records)
    return saved(model, folder / "m.onnx")


def test_quantized_convolutions_stay_integer(tmp_path):
    path = quantized_network(tmp_path)
    graph = optimized(path)
    (conv,) = [node for node in graph.node if node.op_type == "QLinearConv"]
    initializers = {tensor.name for tensor in graph.initializer}
    assert {conv.input[3], conv.input[8]} <= initializers
    # Without optimization the sums are those of floats: integer kernels on weights that are no
    # constants saturate on some processors.
    session, plain = NoisySession(path, threads=1), plain_session(path, optimized=False)
    x = np.random.default_rng(4).normal(size=(5, 3, 8, 8)).astype(np.float32)
    for rate in (0.0, 0.01, 0.2):
        # Low bits of the bias, and all of the weight.
        masks = [0xFFF, 0xFF]
        expected = plain.run(None, feeds(session, rate, masks, 6, x=x))[0]
        found = session.run(x, rate, masks, 6)
        step = np.diff(np.unique(found)).min()
        # Float and integer kernels may round an output to neighbouring steps.
        assert np.abs(found - expected).max() <= 1.01 * step
    assert not np.array_equal(found, session.run(x))


def test_memory_does_not_grow(tmp_path):
    values = np.random.default_rng(0).normal(size=(1 << 20, 4)).astype(np.float32)
    path = saved(seen_parameter(values, TensorProto.FLOAT), tmp_path / "m.onnx")
    session = NoisySession(path, threads=1)

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for seed in range(4):
        session.run(ONE, 1e-4, seed=seed)
    before = resident()
    for seed in range(20):
        session.run(ONE, 1e-4, seed=100 + seed)
    # Each trial has 16 MB of noisy weights: kept, they would be 320 MB. The process has other uses.
    assert resident() - before < 8 * values.nbytes


def test_a_format_that_does_not_fit_is_one_line(tmp_path):
    model = seen_parameter(np.ones(4, np.float32), 1, storage_format="int8", scale=-1.0)
    with pytest.raises(InputError, match=r"model .*m\.onnx: site 0: scale") as caught:
        NoisySession(saved(model, tmp_path / "m.onnx"))
    assert "\n" not in str(caught.value)
