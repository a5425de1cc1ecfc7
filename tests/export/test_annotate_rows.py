# SPDX-License-Identifier: Apache-2.0
"""rows_per_sample of graphs with several inputs, free axes, or samples that mix."""

import numpy as np
import pytest
from onnx import TensorProto
from onnx_models import NODE, constant, model, outputs_at, same, value, weight

from noisystore.export import annotate
from noisystore.runtime.evaluate import affected_samples
from noisystore.runtime.sites import Site


def rows(made, **options):
    result = annotate(made, **options)
    assert same(outputs_at(result.model), outputs_at(made))
    return {s["name"]: s["rows_per_sample"] for s in result.sites}, result.notes


def reshaped(*shape, row=4):
    """Tokens of every sample, flattened into the rows of one matrix."""
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("Reshape", ["r", "shape"], ["q"]),
        NODE("Sigmoid", ["q"], ["s"]),
        NODE("Shape", ["x"], ["whole"]),
        NODE("Reshape", ["s", "whole"], ["y"]),
    ]
    outputs = [value("y", shape=shape)]
    return model(nodes, [value("x", shape=shape)], outputs, [constant("shape", [-1, row])])


def test_rows_that_follow_another_free_axis_are_no_rows_of_a_sample():
    found, notes = rows(reshaped("n", "t", 4))
    assert found == {"r": 1, "s": -1}
    assert notes == ["1 of 2 sites have no batch axis in front: batches stay whole"]
    # The length that is drawn fills a row exactly; at another it does not.
    full = annotate(reshaped("n", "t", 4, row=128)).sites
    assert [s["rows_per_sample"] for s in full] == [1, -1]
    assert rows(reshaped(2, "t", 4))[0] == {"r": 1, "s": -1}
    assert rows(reshaped("n", 6, 4))[0] == {"r": 1, "s": 6}
    example = np.ones((2, 5, 4), np.float32)
    assert rows(reshaped("n", "t", 4), example=example)[0] == {"r": 1, "s": -1}


def test_a_model_of_one_length_is_measured_at_it():
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("MatMul", ["r", "w"], ["m"]),
        NODE("Tanh", ["m"], ["y"]),
    ]
    made = model(
        nodes,
        [value("x", shape=("n", "f"))],
        [value("y", shape=("n", 2))],
        [weight("w", 64, 2)],
    )
    result = annotate(made)
    assert [s["rows_per_sample"] for s in result.sites] == [1, 1]
    assert [note.split(":")[0] for note in result.notes] == [
        "rows per sample were measured at one length of the inputs' free axes"
    ]


def two(first, second, *, joined=True):
    """Two inputs with a Relu each, added to each other or apart."""
    nodes = [NODE("Relu", ["a"], ["ra"]), NODE("Relu", ["b"], ["rb"])]
    outputs = [value("ra", shape=None), value("rb", shape=None)]
    if joined:
        nodes.append(NODE("Add", ["ra", "rb"], ["y"]))
        outputs = [value("y", shape=None)]
    return model(nodes, [value("a", shape=first), value("b", shape=second)], outputs)


@pytest.mark.parametrize(
    ("first", "second", "joined", "expected"),
    [
        (("n", 4), ("n", 4), False, (1, 1)),
        (("n", 4), ("regions", 4), False, (1, -1)),
        (("n", 4), ("regions", 4), True, (1, 1)),  # runs at equal lengths only
        ((None, 4), (None, 4), True, (1, 1)),
        (("n", 4), (4,), True, (1, -1)),
        (("n", 4), (2, "n", 4), True, (1, -1)),  # a recurrent state
        ((2, "n", 4), ("n", 4), True, (-1, -1)),
        ((1, 4), ("n", 4), False, (-1, -1)),
        ((2, 4), (2, 4), True, (1, 1)),
        ((2, 4), (6, 4), False, (1, -1)),
        (("n", 4), (), True, (1, -1)),  # a factor
    ],
)
def test_the_batch_of_several_inputs(first, second, joined, expected):
    found = annotate(two(first, second, joined=joined)).sites
    assert tuple(s["rows_per_sample"] for s in found) == expected


def test_an_example_tells_the_batch_of_several_inputs():
    made = two(("n", 4), ("regions", 4), joined=False)
    same_length = [np.ones((3, 4), np.float32)] * 2
    assert [s["rows_per_sample"] for s in annotate(made, example=same_length).sites] == [1, 1]
    other = [np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)]
    assert [s["rows_per_sample"] for s in annotate(made, example=other).sites] == [1, -1]


def centred(batch):
    """Logits less their mean over the batch, behind the last site."""
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("ReduceMean", ["r"], ["m"], axes=[0]),
        NODE("Sub", ["r", "m"], ["y"]),
    ]
    return model(nodes, [value("x", shape=(batch, 4))], [value("y", shape=(batch, 4))])


@pytest.mark.parametrize("batch", ["n", 3])
def test_a_model_that_mixes_samples_behind_its_sites_has_no_samples(batch):
    result = annotate(centred(batch))
    assert [s["rows_per_sample"] for s in result.sites] == [-1]
    assert result.notes[0] == "the model mixes the samples of a batch: the batch is its sample"
    site = Site(0, "r", "activation", "native", 4, 32, -1)
    assert affected_samples([site], 100, 1e-6, None, 0) is None  # nothing is skipped
    assert [s["rows_per_sample"] for s in annotate(centred(1)).sites] == [1]


def test_text_outputs_and_labels_are_compared_too():
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("ArgMax", ["r"], ["label"], axis=1, keepdims=0),
        NODE("Gather", ["names", "label"], ["y"]),
    ]
    made = model(
        nodes,
        [value("x")],
        [value("y", TensorProto.STRING, ("n",))],
        [constant("names", np.array(["a", "b", "c", "d"], object))],
    )
    assert [s["rows_per_sample"] for s in annotate(made).sites] == [1]


def test_inputs_of_one_length_are_told_from_those_of_their_own():
    """a and b run at equal lengths only; c has its own."""
    nodes = [NODE("Relu", [name], [f"r{name}"]) for name in "abc"]
    nodes.append(NODE("Add", ["ra", "rb"], ["y"]))
    inputs = [value(name, shape=(f"n{name}", 4)) for name in "abc"]
    made = model(nodes, inputs, [value("y", shape=None), value("rc", shape=None)])
    assert [s["rows_per_sample"] for s in annotate(made).sites] == [1, 1, -1]


def test_a_result_that_never_changes_follows_the_batch_by_its_length():
    nodes = [NODE("Add", ["x", "k"], ["a"]), NODE("Relu", ["a"], ["y"])]
    far = constant("far", np.float32(-1000))
    nodes.insert(0, NODE("Add", ["scalar", "far"], ["k"]))
    inputs = [value("x"), value("scalar", shape=())]
    assert [
        s["rows_per_sample"] for s in annotate(model(nodes, inputs, [value("y")], [far])).sites
    ] == [1]


@pytest.mark.parametrize("batch", ["n", 2])
def test_an_output_with_the_batch_on_another_axis_mixes_nothing(batch):
    nodes = [NODE("Relu", ["x"], ["r"]), NODE("Transpose", ["r"], ["y"], perm=[1, 0, 2])]
    shapes = (batch, 26, 5), (26, batch, 5)
    result = annotate(model(nodes, [value("x", shape=shapes[0])], [value("y", shape=shapes[1])]))
    assert [s["rows_per_sample"] for s in result.sites] == [1]
    assert result.notes == []


def test_outputs_that_are_no_arrays_and_of_any_length():
    rows_of_one = [constant("shape", [-1, 2]), constant("whole", [-1, 12])]
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("Reshape", ["r", "shape"], ["q"]),
        NODE("Tanh", ["q"], ["t"]),
        NODE("Reshape", ["t", "whole"], ["z"]),
        NODE("Cast", ["z"], ["y"], to=TensorProto.BFLOAT16),
    ]
    half = model(
        nodes,
        [value("x", shape=("n", 12))],
        [value("y", TensorProto.BFLOAT16, ("n", 12))],
        rows_of_one,
    )
    result = annotate(half)
    assert [(s["rows_per_sample"], s["elements"]) for s in result.sites] == [(1, 12), (6, 12)]
    assert result.notes == []
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("Greater", ["r", "low"], ["large"]),
        NODE("Reshape", ["large", "flat"], ["mask"]),
        NODE("Reshape", ["r", "flat"], ["values"]),
        NODE("Compress", ["values", "mask"], ["y"], axis=0),
    ]
    chosen = model(
        nodes,
        [value("x", shape=("n", 40))],
        [value("y", shape=(None,))],
        [constant("low", np.float32(0.1)), constant("flat", [-1])],
    )
    result = annotate(chosen)
    assert [s["rows_per_sample"] for s in result.sites] == [1]
    assert result.notes == []
