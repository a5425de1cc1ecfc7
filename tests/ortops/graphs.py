# SPDX-License-Identifier: Apache-2.0
"""Small annotated graphs, built by hand."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

NOISE = ("noise.bit_error_rate", "noise.bit_mask", "noise.seed", "noise.sample_index")
NOISE_TYPES = (TensorProto.DOUBLE, TensorProto.UINT64, TensorProto.INT64, TensorProto.INT64)


def store_node(source, target, site=0, **attributes):
    return helper.make_node(
        "NoisyStore", [source, *NOISE], [target], domain="noisystore", site=site,
        name=f"store{site}", **attributes,
    )  # fmt: skip


def model(nodes, *, element_type=TensorProto.FLOAT, shape=("N", 100), sites=1, initializers=(),
          shapes=None, types=None, defaults=True):  # fmt: skip
    """Serialize nodes from `x` to `y` with the four noise inputs."""
    shapes = shapes or ([sites, 2], [sites], [1], ["noise_samples"])
    types = types or NOISE_TYPES
    values = (
        np.zeros((sites, 2)),
        np.full(sites, 2**64 - 1, np.uint64),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
    )
    inputs = [helper.make_tensor_value_info("x", element_type, shape)]
    inputs += [
        helper.make_tensor_value_info(*info) for info in zip(NOISE, types, shapes, strict=True)
    ]
    stored = [
        numpy_helper.from_array(value, name) for name, value in zip(NOISE, values, strict=True)
    ]
    graph = helper.make_graph(
        nodes, "graph", inputs, [helper.make_tensor_value_info("y", element_type, None)],
        [*(stored if defaults else []), *initializers],
    )  # fmt: skip
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("noisystore", 1)],
        ir_version=8,
    ).SerializeToString()
