# SPDX-License-Identifier: Apache-2.0
"""Annotated networks for the tests of harden, and ways to run them."""

import numpy as np
from onnx import helper
from onnx_models import NODE, constant, model, value, weight

from noisystore.export import annotate
from noisystore.runtime import NoisySession
from noisystore.runtime.clean_ranges import clean_ranges
from noisystore.runtime.dataset import Dataset

X = np.random.default_rng(3).standard_normal((37, 4)).astype(np.float32)


def network(dtype=np.float32, opset=17):
    """x -> Gemm, Relu r -> Gemm, Tanh t; r has two readers, is an output, and If captures it."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inner = helper.make_graph(
        [NODE("Mul", ["r", "two"], ["twice"])], "then", [], [value("twice", code, ("n", 6))]
    )
    other = helper.make_graph(
        [NODE("Identity", ["r"], ["once"])], "else", [], [value("once", code, ("n", 6))]
    )
    nodes = [
        NODE("Gemm", ["x", "w"], ["g"], transB=1),
        NODE("Relu", ["g"], ["r"]),
        NODE("Gemm", ["r", "w2"], ["h"], transB=1),
        NODE("Tanh", ["h"], ["t"]),
        NODE("If", ["yes"], ["i"], then_branch=inner, else_branch=other),
        NODE("ReduceSum", ["r", "axis"], ["s"], keepdims=1),
        NODE("Mul", ["t", "s"], ["y"]),
    ]
    initializers = [
        weight("w", 6, 4, dtype=dtype),
        weight("w2", 3, 6, dtype=dtype),
        constant("two", np.asarray(2, dtype)),
        constant("yes", np.asarray(True)),
        constant("axis", np.array([1])),
    ]
    outputs = [value("y", code, ("n", 3)), value("r", code, ("n", 6)), value("i", code, ("n", 6))]
    return model(nodes, [value("x", code)], outputs, initializers, opset=opset)


def annotated_in(folder, made=None, name="noisy.onnx", **options):
    path = folder / name
    annotate(made or network(), path, **options)
    return path


def run(path, rate=0.0, mask=None, seed=1, x=X):
    return NoisySession(path, threads=1).run(x, rate, bit_mask=mask, seed=seed)


def ranges_of(path, x=X):
    return clean_ranges(NoisySession(path, threads=1), Dataset("x", x), batch_size=8)


def old(opset, *more):
    nodes = [NODE("MatMul", ["x", "w"], ["m"]), NODE("Relu", ["m"], ["r"]), *more]
    return model(
        nodes, [value("x")], [value(nodes[-1].output[0])], [weight("w", 4, 4)], opset=opset
    )
