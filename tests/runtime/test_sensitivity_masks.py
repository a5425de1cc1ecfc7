# SPDX-License-Identifier: Apache-2.0
"""Masks of sensitivities: single bits, their roles, and formats that lack a mask."""

from __future__ import annotations

import numpy as np
import pytest
from parameter_models import small_network

from noisystore.ortops import InputError
from noisystore.runtime import NoisySession, sensitivity
from noisystore.runtime.dataset import Dataset
from noisystore.runtime.sensitivity import Sensitivity
from noisystore.runtime.sensitivity_report import mask_role, report
from noisystore.runtime.sites import Site


def run(model, data, **options):
    return sensitivity(model, data, threads=1, progress=False, **options)


def test_bits_are_those_of_the_widest_word(model_path, small_data):
    found = run(model_path, small_data, precision=1.0, images=60)
    assert found.masks == [f"msb:{bit}" for bit in range(32)]
    roles = [mask_role(mask, found) for mask in found.masks]
    assert roles[:2] == ["sign", "exponent:1"]
    assert roles[8:10] == ["exponent:8", "mantissa:1"]
    assert roles[31] == "mantissa:23"
    assert found.entries[None, "msb:31"].bound == "above"
    text = report(found, lambda head, rows: "\n".join("|".join(row) for row in [head, *rows]))
    assert "|no drop|" in text
    assert "to msb:31|" in text
    assert "most sensitive bits: msb:1 (exponent:1), midpoint" in text


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """float16 weights and activations, float8 biases, and images with the network's labels."""
    path = tmp_path_factory.mktemp("mixed") / "m.onnx"
    small_network(path, storage_format="float16", bias_format="float8e4m3fn")
    images = np.random.default_rng(1).normal(size=(120, 1, 6, 6)).astype(np.float32)
    labels = NoisySession(path, threads=1).run(images).argmax(1)
    return path, Dataset("mixed/test", images, labels)


def test_formats_that_lack_a_mask(mixed):
    found = run(*mixed, sites="1,2", masks="msb:1,mantissa:8-", cross=True, precision=1.0)
    assert [site.site for site in found.sites] == [1, 2]
    assert (1, "msb:1") in found.entries
    # float8 has no 8th mantissa bit: all sites together are then site 2.
    assert (1, "mantissa:8-") not in found.entries
    together, alone = found.entries[None, "mantissa:8-"], found.entries[2, "mantissa:8-"]
    assert (together.midpoint, together.bound) == (alone.midpoint, alone.bound)
    assert mask_role("mantissa:8-", found) == "mantissa"
    assert mask_role("msb:5", found) == "mantissa:1 / exponent:5"


def test_bits_of_mixed_formats(mixed):
    found = run(*mixed, sites="1,2", precision=1.0, images=50)
    assert len(found.masks) == 16


def test_a_mask_that_no_format_knows(mixed, model_path, small_data):
    with pytest.raises(InputError, match="exponent:9"):
        run(model_path, small_data, masks="exponent:9")
    with pytest.raises(InputError, match="bit mask msb:16"):
        run(*mixed, masks="msb:16")


def test_roles_of_integers():
    sites = [Site(0, "a", "activation", "int8", 4, 8, 1), Site(1, "b", "input", "uint4", 4, 8, 1)]
    found = Sensitivity(sites, [], {}, "m", "d", 1, 0.1, 0.95, False, 0, 0, 0.0, None)
    assert mask_role("msb:0", found) == "sign / 2^3"
    assert mask_role("msb:1", found) == "2^6 / 2^2"
    assert mask_role("msb:7", found) == "2^0"
    assert mask_role("msb:0-1", found) == "sign, value / value"
