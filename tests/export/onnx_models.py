# SPDX-License-Identifier: Apache-2.0
"""Hand-written ONNX models and sessions of models in memory, for the tests of annotate."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from noisystore import ortops

NODE = helper.make_node
FLOAT = TensorProto.FLOAT


def value(name, kind=FLOAT, shape=("n", 4)):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, *shape, dtype=np.float32):
    values = np.random.default_rng(len(name) + sum(shape)).standard_normal(shape)
    return numpy_helper.from_array((0.3 * values).astype(dtype), name)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, initializers=(), *, opset=17, ir=8, domains=(), functions=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))


def session(made, optimized=None, entries=()):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for key, entry in entries:
        options.add_session_config_entry(key, entry)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    ortops.register(options)
    data = made.SerializeToString() if isinstance(made, onnx.ModelProto) else str(made)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


_DRAW = {
    "tensor(float)": lambda rng, shape: rng.standard_normal(shape).astype(np.float32),
    "tensor(float16)": lambda rng, shape: rng.standard_normal(shape).astype(np.float16),
    "tensor(double)": lambda rng, shape: rng.standard_normal(shape),
    "tensor(int64)": lambda rng, shape: rng.integers(0, 4, shape),
    "tensor(uint8)": lambda rng, shape: rng.integers(0, 256, shape).astype(np.uint8),
}


def feeds(runner, free=4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        i.name: _DRAW[i.type](rng, [d if isinstance(d, int) else free for d in i.shape])
        for i in runner.get_inputs()
    }


def noise(sites, rate, seed=0):
    return {
        "noise.bit_error_rate": np.full((sites, 2), float(rate)),
        "noise.seed": np.array([seed], np.int64),
    }


def outputs_at(made, rate=None, sites=1, free=4, seed=0):
    runner = session(made)
    extra = noise(sites, rate, seed) if rate is not None else {}
    return runner.run(None, {**feeds(runner, free), **extra})


def same(a, b):
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(a, b, strict=True)
    )


def close(a, b):
    """Within 1e-4 of the largest magnitude, as fusions that a site cuts allow."""
    for x, y in zip(a, b, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= 1e-4 * np.abs(y).max()


def stores(made):
    return [n for n in made.graph.node if n.op_type == "NoisyStore"]
