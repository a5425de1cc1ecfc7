# SPDX-License-Identifier: Apache-2.0
"""What sites store and read is shown as it is, and held against the noise model."""

import numpy as np
import pytest
from conftest import build_model
from parameter_models import small_network

from noisystore import ortops
from noisystore.ortops import reference
from noisystore.ortops.errors import InputError
from noisystore.runtime import site_words
from noisystore.runtime.probe_graphs import shown_graph, shown_stores, site_graph
from noisystore.runtime.session import NoisySession
from noisystore.runtime.site_words import NETWORK_NOISE, WORD_SAMPLES, Noise, ShownNetwork


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = build_model(tmp_path_factory.mktemp("model") / "m.onnx", noisy_weight=True, last_rows=-1)
    return NoisySession(path, threads=1)


def images(count):
    return np.random.default_rng(3).normal(size=(count, 1, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("noise", NETWORK_NOISE)
def test_a_network_is_as_the_noise_model_says(session, noise):
    x, index = images(3), np.array([5, 0, 9])
    network = ShownNetwork(session)
    found = network.run(x, index, noise)
    assert [flips.difference for flips in found] == ["", "", ""]
    assert network.element_types == dict.fromkeys(range(3), "float32")
    assert (found[0].sha256 == "") == (noise.p01 != noise.p10)
    if noise.p01 == noise.p10:
        elements = session.sites[0].elements
        shape = (3, elements)
        counted = ortops.count_flips(
            shape,
            32,
            noise.p01,
            bit_mask=noise.bit_mask,
            seed=noise.seed,
            site=0,
            sample_index=index,
        )
        assert found[0].flips == tuple(counted)
        assert len(found[1].flips) == len(found[2].flips) == 1  # all of it is one sample


def test_another_index_gives_other_flips(session):
    network = ShownNetwork(session)
    first, second = (
        network.run(images(2), np.array(index), NETWORK_NOISE[1]) for index in ([0, 1], [0, 2])
    )
    assert first[0].flips[0] == second[0].flips[0]
    assert first[0].sha256 != second[0].sha256
    assert first[2] == second[2]  # weights are written once


def test_a_store_that_flips_otherwise_is_found(session, monkeypatch):
    """The network runs with one seed and is held against another one's flips."""
    network = ShownNetwork(session)
    feed = session.noise_feed
    monkeypatch.setattr(session, "noise_feed", lambda r, m, seed: feed(r, m, seed + 1))
    for noise in NETWORK_NOISE:
        found = network.run(images(2), np.array([0, 1]), noise)
        assert all("expected 0x" in flips.difference for flips in found)


def test_stores_alone_have_the_bits_of_the_oracle(session):
    types = dict.fromkeys(range(3), "float32")
    seen = 0
    for noise, read in site_words.read_known_words(session, types):
        for site, values in read.items():
            record = session.sites[site]
            want = reference.apply(
                site_words.known_words(record, "float32"),
                noise.rates(site),
                bit_mask=noise.mask(site),
                seed=noise.seed,
                site=site,
                sample_index=WORD_SAMPLES,
                rows_per_sample=record.rows_per_sample,
            )
            assert site_words.first_difference(None, want, values, record) == ""
            seen += 1
    assert seen == 3 * len(site_words.WORD_NOISE)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "uint8", "int32"])
def test_known_words(session, kind):
    words = site_words.known_words(session.sites[0], kind)
    assert words.dtype == kind
    assert words.shape == (3, site_words.WORDS)
    assert not np.isnan(words.astype(np.float64)).any()
    assert len(np.unique(words)) > 200


def test_the_first_difference_says_where(session):
    site = session.sites[0]
    want = np.zeros((2, 4), dtype=np.float32)
    got = want.copy()
    got[1, 2] = -0.0
    got[1, 3] = 1
    said = site_words.first_difference(want, want, got, site)
    assert said == (
        "sample 1 of the batch, element 2: stored 0x00000000, expected 0x00000000, got 0x80000000 "
        "(2 of 8 words differ)"
    )
    half = np.array([[np.nan, 1]], dtype=np.float16)
    other = half.copy()
    other.view(np.uint16)[0, 0] ^= 1
    assert site_words.first_difference(None, half, other, site) == ""
    assert site_words.first_difference(None, half, half[:, ::-1].copy(), site) != ""


def test_close():
    a = np.array([1.0, np.inf, np.nan, -np.inf], dtype=np.float32)
    assert site_words.close(a, a.copy()) == 0
    assert site_words.close(a, a + np.float32(0.5)) == 0.5
    for other in ([1, np.inf, 0, -np.inf], [1, -np.inf, np.nan, -np.inf], [np.nan, *a[1:]]):
        assert site_words.close(a, np.array(other, dtype=np.float32)) == np.inf


@pytest.mark.parametrize("kwargs", [{"storage_format": "float8e5m2"}, {"storage_format": "int4"}])
def test_converted_formats(tmp_path, kwargs):
    pytest.importorskip("torch")
    session = NoisySession(small_network(tmp_path / "m.onnx", **kwargs), threads=1)
    shape = [1 if d is None else d for d in session.input_shape]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    network = ShownNetwork(session)
    for noise in (*NETWORK_NOISE, Noise(0.5, 0.5, 9)):
        assert {flips.difference for flips in network.run(x, np.arange(len(x)), noise)} == {""}


def test_graphs_are_onnx(session):
    onnx = pytest.importorskip("onnx")
    stores = shown_stores(session.path)
    assert [store.site for store in stores] == [0, 1, 2]
    shown = onnx.load_from_string(shown_graph(session.path, stores))
    names = [output.name for output in shown.graph.output]
    assert names[0] == session.output_names[0]
    assert set(names[1:]) == {name for store in stores for name in (store.stored, store.read)}
    assert len(names) == len(set(names))
    alone = onnx.load_from_string(site_graph(session.path, {0: "float32", 2: "float32"}))
    assert [node.op_type for node in alone.graph.node] == ["NoisyStore"] * 2
    assert alone.ir_version == shown.ir_version


def test_a_store_that_cannot_be_shown_is_refused(session, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(session.path)
    own = onnx.numpy_helper.from_array(np.zeros(1, dtype=np.int64), "own.seed")
    model.graph.initializer.append(own)
    (store,) = [n for n in model.graph.node if n.op_type == "NoisyStore" and _site(n) == 1]
    store.input[3] = "own.seed"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"site 1 \(.*\) lies in a subgraph or reads other"):
        ShownNetwork(NoisySession(tmp_path / "m.onnx"))


def _site(node):
    return next(attribute.i for attribute in node.attribute if attribute.name == "site")


def test_what_onnxruntime_says_is_one_line(session):
    network = ShownNetwork(session)
    with pytest.raises(InputError, match="ONNX Runtime: ") as error:
        network.run(images(2)[:, :, :3], np.array([0, 1]), NETWORK_NOISE[0])
    assert "\n" not in str(error.value)
