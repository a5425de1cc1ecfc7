# SPDX-License-Identifier: Apache-2.0
"""The operator inside the real ONNX Runtime."""

import shutil
import subprocess
import sys

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from noisystore.ortops import InputError, apply, library, reference, register
from noisystore.ortops.formats import STORAGE_FORMATS

TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT32: np.int32,
}
ONE_STORE = [graphs.store_node("x", "y")]


def session(model, *, threads=1, **options):
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    for name, value in options.items():
        setattr(settings, name, value)
    register(settings)
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def noise(p01=0.0, p10=None, *, sites=1, mask=2**64 - 1, seed=0, sample=0):
    rates = np.tile(np.array([p01, p01 if p10 is None else p10], np.float64), (sites, 1))
    return {
        "noise.bit_error_rate": rates,
        "noise.bit_mask": np.full(sites, mask, np.uint64),
        "noise.seed": np.array([seed], np.int64),
        "noise.sample_index": np.atleast_1d(np.asarray(sample, np.int64)),
    }


def random_array(shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.random.default_rng(1).integers(0, 256, size, np.uint8).view(dtype).reshape(shape)


def bits(x):
    return x.view(f"uint{8 * x.dtype.itemsize}")


@pytest.mark.parametrize("element_type", TYPES, ids=lambda t: TensorProto.DataType.Name(t))
def test_equals_apply(element_type):
    x = random_array((6, 100), TYPES[element_type])
    run = session(graphs.model(ONE_STORE, element_type=element_type)).run
    for rate in (0.0, 1e-4, 1e-2, 0.2, (0.02, 0.001), (0.5, 0.1), 1.0):
        pair = rate if isinstance(rate, tuple) else (rate, rate)
        for sample in (3, [5, 9, 5, 2**32 - 1, 0, -7]):
            feed = {"x": x, **noise(*pair, seed=-3, sample=sample, mask=0xFFFFFFFFFFFFFFFE)}
            (y,) = run(None, feed)
            expected = apply(x, pair, seed=-3, sample_index=sample, bit_mask=0xFFFFFFFFFFFFFFFE)
            assert np.array_equal(bits(y), bits(expected))


def test_bfloat16():
    x = random_array((4, 100), np.uint16)
    value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x, TensorProto.BFLOAT16)
    made = session(graphs.model(ONE_STORE, element_type=TensorProto.BFLOAT16))
    feed = {name: ort.OrtValue.ortvalue_from_numpy(v) for name, v in noise(0.05, seed=2).items()}
    binding = made.io_binding()
    binding.bind_ortvalue_input("x", value)
    for name, given in feed.items():
        binding.bind_ortvalue_input(name, given)
    target = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.zeros_like(x), TensorProto.BFLOAT16)
    binding.bind_ortvalue_output("y", target)
    made.run_with_iobinding(binding)
    import ctypes

    got = np.frombuffer(ctypes.string_at(target.data_ptr(), x.nbytes), np.uint16).reshape(x.shape)
    assert np.array_equal(got, apply(x, 0.05, seed=2))


def test_defaults_are_the_clean_model():
    x = random_array((3, 100), np.float32)
    (y,) = session(graphs.model(ONE_STORE)).run(None, {"x": x})
    assert np.array_equal(bits(y), bits(x))


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.1, (0.01, 0.2)])
def test_threads_change_nothing(rate):
    x = random_array((8, 40_000), np.float32)
    pair = rate if isinstance(rate, tuple) else (rate, rate)
    model = graphs.model(ONE_STORE, shape=("N", 40_000))
    feed = {"x": x, **noise(*pair, seed=5, sample=11)}
    results = [session(model, threads=n).run(None, feed)[0] for n in (1, 2, 5)]
    for result in results:
        assert np.array_equal(bits(result), bits(apply(x, pair, seed=5, sample_index=11)))


@pytest.mark.parametrize("format_name", ["native", "float32"])
def test_own_type_by_name(format_name):
    x = random_array((3, 100), np.float32)
    node = graphs.store_node("x", "y", storage_format=format_name)
    (y,) = session(graphs.model([node])).run(None, {"x": x, **noise(0.1)})
    assert np.array_equal(bits(y), bits(apply(x, 0.1)))


@pytest.mark.parametrize("rows", [3, 0, -1])
def test_rows_per_sample(rows):
    x = random_array((6, 100), np.float32)
    made = session(graphs.model([graphs.store_node("x", "y", rows_per_sample=rows)]))
    (y,) = made.run(None, {"x": x, **noise(0.1, sample=4)})
    assert np.array_equal(bits(y), bits(apply(x, 0.1, sample_index=4, rows_per_sample=rows)))


PEAK_MEMORY = """
import sys
import numpy as np, onnxruntime as ort
from noisystore.ortops import register
options = ort.SessionOptions()
options.log_severity_level = 3
register(options)
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones((64, 1 << 18), np.float32)})
status = open("/proc/self/status").read()  # unlike getrusage, not inherited from the parent
print(status.split("VmHWM:")[1].split()[0])
"""


def test_store_is_in_place(tmp_path):
    """A store that copies would need memory for one tensor more."""
    first = helper.make_node("Neg", ["x"], ["a"])
    last = helper.make_node("ReduceMax", ["b"], ["y"], axes=[1])
    graph = {"shape": ("N", 1 << 18)}
    models = {
        "clean": graphs.model([first, helper.make_node("ReduceMax", ["a"], ["y"], axes=[1])],
                              **graph),
        "noisy": graphs.model([first, graphs.store_node("a", "b"), last], **graph),
        "copying": graphs.model([first, helper.make_node("Neg", ["a"], ["c"]),
                                 helper.make_node("Max", ["c", "a"], ["b"]), last], **graph),
    }  # fmt: skip
    peak = {}
    for name, model in models.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model)
        child = subprocess.run([sys.executable, "-c", PEAK_MEMORY, path], check=True,
                               capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
        peak[name] = int(child.stdout) * 1024
    tensor = 64 * (1 << 18) * 4
    assert peak["noisy"] < peak["clean"] + 0.3 * tensor
    assert peak["copying"] > peak["clean"] + 0.7 * tensor, "the measure itself must tell"


def test_a_tensor_with_another_reader_is_not_overwritten():
    nodes = [helper.make_node("Neg", ["x"], ["a"]), graphs.store_node("a", "b"),
             helper.make_node("Sub", ["b", "a"], ["y"])]  # fmt: skip
    x = np.random.default_rng(1).standard_normal((64, 100)).astype(np.float32)
    (y,) = session(graphs.model(nodes)).run(None, {"x": x, **noise(1.0, mask=0x80000000)})
    assert np.array_equal(y, 2 * x)


def test_stores_are_neither_folded_nor_merged(tmp_path):
    constant = onnx.numpy_helper.from_array(np.arange(100, dtype=np.float32).reshape(1, 100), "c")
    nodes = [
        graphs.store_node("c", "a", 0, rows_per_sample=0),
        graphs.store_node("x", "b", 1),
        graphs.store_node("x", "d", 2),
        helper.make_node("Add", ["b", "d"], ["e"]),
        helper.make_node("Add", ["a", "e"], ["y"]),
    ]
    path = tmp_path / "optimized.onnx"
    model = graphs.model(nodes, sites=3, initializers=[constant])
    session(model, optimized_model_filepath=str(path))
    optimized = onnx.load(path)
    assert [n.op_type for n in optimized.graph.node].count("NoisyStore") == 3


def test_two_sites_draw_different_noise():
    nodes = [graphs.store_node("x", "a", 0), graphs.store_node("x", "b", 1),
             helper.make_node("Sub", ["a", "b"], ["y"])]  # fmt: skip
    x = np.ones((2, 100), np.float32)
    (y,) = session(graphs.model(nodes, sites=2)).run(
        None, {"x": x, **noise(0.05, sites=2, mask=0x7FFFFF)}
    )
    assert np.count_nonzero(y) > 50


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"noise.bit_error_rate": np.zeros((1, 3))}, "bit_error_rate"),
        ({"noise.bit_error_rate": np.zeros(2)}, "bit_error_rate"),
        ({"noise.bit_error_rate": np.full((1, 2), 1.5)}, "[0, 1]"),
        ({"noise.bit_error_rate": np.full((1, 2), np.nan)}, "[0, 1]"),
        ({"noise.bit_error_rate": np.zeros((0, 2))}, "site 0"),
        ({"noise.bit_error_rate": np.zeros((1, 2), np.float32)}, "tensor(float)"),
        ({"noise.bit_mask": np.zeros(2, np.uint64)}, "bit_mask"),
        ({"noise.bit_mask": np.zeros(1, np.int64)}, "tensor(int64)"),
        ({"noise.seed": np.zeros(2, np.int64)}, "seed"),
        ({"noise.seed": np.zeros(1, np.int32)}, "tensor(int32)"),
        ({"noise.sample_index": np.zeros(3, np.int64)}, "sample_index: expected 1 value or 4"),
        ({"noise.sample_index": np.zeros(0, np.int64)}, "sample_index"),
    ],
)
def test_bad_noise_inputs(change, problem):
    loose = ([None, None], [None], [None], ["noise_samples"])
    if change.get("noise.bit_error_rate", np.zeros((1, 1))).ndim != 2:
        loose = ([None], *loose[1:])
    made = session(graphs.model(ONE_STORE, shapes=loose, defaults=False))
    feed = {"x": np.ones((4, 100), np.float32), **noise(), **change}
    with pytest.raises(Exception, match=r".") as caught:
        made.run(None, feed)
    assert problem in str(caught.value)


@pytest.mark.parametrize("indices", [0, 1])
def test_a_batch_of_no_samples(indices):
    made = session(graphs.model(ONE_STORE, defaults=False))
    feed = {**noise(0.1), "noise.sample_index": np.zeros(indices, np.int64)}
    assert made.run(None, {"x": np.ones((0, 100), np.float32), **feed})[0].shape == (0, 100)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"site": -1}, "'site' is missing or not in"),
        ({"site": 2**33}, "'site' is missing or not in"),
        ({"storage_format": "float12"}, "unknown format 'float12'"),
        ({"storage_format": "x" * 100}, "names no known format"),
        ({"rows_per_sample": -2}, "rows_per_sample: expected -1, 0 or a positive number, got -2"),
        ({"storage_format": "int8", "scale": 0.0}, "scale: expected a finite number above 0"),
        ({"storage_format": "uint8", "scale": -1.0}, "above 0 for uint8, got -1"),
        ({"storage_format": "int4", "scale": np.inf}, "above 0 for int4, got inf"),
        ({"storage_format": "uint4", "scale": np.nan}, "above 0 for uint4, got nan"),
        ({"storage_format": "int8", "zero_point": 128}, "from -128 to 127 for int8, got 128"),
        ({"storage_format": "uint8", "zero_point": -1}, "from 0 to 255 for uint8, got -1"),
        ({"storage_format": "int4", "zero_point": 8}, "from -8 to 7 for int4, got 8"),
        ({"storage_format": "uint4", "zero_point": 16}, "from 0 to 15 for uint4, got 16"),
        ({"storage_format": "int8", "zero_point": 2**40}, "'zero_point' does not fit 32 bits"),
    ],
)
def test_bad_attributes(attributes, problem):
    site = attributes.pop("site", 0)
    node = graphs.store_node("x", "y", site, **attributes)
    with pytest.raises(Exception, match="NoisyStore") as caught:
        session(graphs.model([node]))
    assert problem in str(caught.value)


def test_missing_site():
    node = graphs.store_node("x", "y")
    del node.attribute[:]
    with pytest.raises(Exception, match="'site' is missing"):
        session(graphs.model([node]))


def test_site_beyond_the_tables():
    made = session(graphs.model([graphs.store_node("x", "y", 1)]))
    with pytest.raises(Exception, match="has 1 rows, but this is site 1"):
        made.run(None, {"x": np.ones((4, 100), np.float32)})


FLOATS = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16]


@pytest.mark.parametrize("storage_format", STORAGE_FORMATS)
@pytest.mark.parametrize("element_type", FLOATS, ids=lambda t: TensorProto.DataType.Name(t))
def test_storage_formats(element_type, storage_format):
    dtype = TYPES[element_type]
    x = np.random.default_rng(2).normal(scale=3, size=(6, 100)).astype(dtype)
    x[0, :8] = [np.inf, -np.inf, 0.0, -0.0, 6e4, -6e4, 1e-7, 1.0]
    quantization = {"scale": 0.1, "zero_point": 5}
    node = graphs.store_node("x", "y", storage_format=storage_format, **quantization)
    made = session(graphs.model([node], element_type=element_type))
    for rate in (0.0, 1e-4, 1e-2, (0.3, 0.1)):
        pair = rate if isinstance(rate, tuple) else (rate, rate)
        (y,) = made.run(None, {"x": x, **noise(*pair, seed=9, sample=2)})
        options = {"seed": 9, "sample_index": 2, "storage_format": storage_format, **quantization}
        expected = apply(x, pair, **options)
        assert np.array_equal(bits(y), bits(expected))
        oracle = reference.apply(x, pair, **options)
        assert np.array_equal(bits(y), bits(oracle))


def test_storage_format_on_threads():
    x = np.random.default_rng(3).normal(size=(2, 300_000)).astype(np.float32)
    node = graphs.store_node("x", "y", storage_format="bfloat16")
    model = graphs.model([node], shape=("N", 300_000))
    for rate in (0.0, 1e-5, 1e-2):
        feed = {"x": x, **noise(rate, seed=1)}
        one, many = (session(model, threads=n).run(None, feed)[0] for n in (1, 4))
        assert np.array_equal(bits(one), bits(many))
        assert np.array_equal(bits(one), bits(apply(x, rate, seed=1, storage_format="bfloat16")))


FLUSHED = """
import sys
import numpy as np, onnxruntime as ort
from noisystore.ortops import register
options = ort.SessionOptions()
options.log_severity_level = 3
options.add_session_config_entry("session.set_denormal_as_zero", "1")
register(options)
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.full((4, 100), 0x00415500, np.uint32).view(np.float32)
(y,) = session.run(None, {"x": x})
print(y.tobytes().hex())
print(float((x * np.float32(1)).max()))
"""


def test_flushed_subnormals_change_nothing(tmp_path):
    """ONNX Runtime sets the mode of its threads, of the calling one in a process' first session."""
    node = graphs.store_node("x", "y", storage_format="int8", scale=1e-39)
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.model([node]))
    child = subprocess.run([sys.executable, "-c", FLUSHED, path], check=True,
                           capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    y, product = child.stdout.split()
    x = np.full((4, 100), 0x00415500, np.uint32).view(np.float32)
    assert y == apply(x, 0.0, storage_format="int8", scale=1e-39).tobytes().hex()
    assert np.frombuffer(bytes.fromhex(y), np.uint32).all()
    assert float(product) == 0.0, "the test itself must flush"


def test_an_integer_tensor_is_stored_as_it_is():
    node = graphs.store_node("x", "y", storage_format="uint4")
    made = session(graphs.model([node], element_type=TensorProto.INT8))
    with pytest.raises(Exception, match="int8 is stored as it is; expected native or int8"):
        made.run(None, {"x": np.ones((4, 100), np.int8)})


def test_unsupported_element_type():
    made = graphs.model(ONE_STORE, element_type=TensorProto.INT64)
    with pytest.raises(Exception, match="NoisyStore"):
        session(made).run(None, {"x": np.ones((4, 100), np.int64)})


def test_library_missing_or_foreign(tmp_path, monkeypatch):
    library.load.cache_clear()
    monkeypatch.setattr(library, "_install_folders", list)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(InputError, match="which is not there; install the package again"):
        register(ort.SessionOptions())
    (tmp_path / "libnoisystore.so").write_bytes(b"not a library")
    with pytest.raises(InputError, match="is not a NoisyStore library"):
        register(ort.SessionOptions())
    source = tmp_path / "other.c"
    source.write_text("int other(void) { return 1; }\n")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libnoisystore.so", source],
                       check=True)  # fmt: skip
        with pytest.raises(InputError, match="is not a NoisyStore library"):
            register(ort.SessionOptions())
    library.load.cache_clear()


def test_registering_again_and_concurrent_runs():
    """Each of many sessions registers; threads share one kernel."""
    from concurrent.futures import ThreadPoolExecutor

    x = random_array((4, 100), np.float32)
    sessions = [session(graphs.model(ONE_STORE)) for _ in range(5)]
    expected = [apply(x, 0.1, seed=i) for i in range(40)]

    def run(i):
        return sessions[i % 5].run(None, {"x": x, **noise(0.1, seed=i)})[0]

    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(run, range(40)), expected, strict=True):
            assert np.array_equal(bits(got), bits(wanted))


def test_library_needs_neither_python_nor_onnxruntime():
    needed = subprocess.run(
        [sys.executable, "-c",
         "import ctypes, sys\n"
         "library = ctypes.CDLL(sys.argv[1])\n"
         "print(library.noisystore_noise_model())\n"
         "print(any('onnxruntime' in line for line in open('/proc/self/maps')))",
         library.library_path()],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert needed == ["1", "False"]
