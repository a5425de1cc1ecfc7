# SPDX-License-Identifier: Apache-2.0
"""Storage formats by kind of site, and how many bits sites take."""

import pytest

from noisystore.export.site_formats import check_used, parse_formats, stored_bits
from noisystore.ortops.errors import InputError

MIXED = {"activation": "float16", "input": "native", "weight": "bfloat16", "bias": "native"}


@pytest.mark.parametrize(
    "given",
    [
        {"weight": "bfloat16", "activation": "float16"},
        "weight=bfloat16,activation=float16",
        " activation = float16 , weight = bfloat16",
        MIXED,
    ],
)
def test_formats_by_kind(given):
    assert parse_formats(given) == MIXED


def test_one_format_for_all():
    assert set(parse_formats("float8e5m2").values()) == {"float8e5m2"}
    assert parse_formats({}) == parse_formats("native")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("float12", "expected native, float16"),
        ("", "got ''"),
        ("weight=", "got ''"),
        ("weight=float16,", "unknown kind of site ''"),
        ("layer=float16", "unknown kind of site 'layer'; expected one format, or KIND=FORMAT"),
        ("weight=float16,weight=float32", "twice"),
        ({"weight": 3}, "got 3"),
        ({3: "float16"}, "kind of site 3"),
        ({"weight": ["float16"]}, "got ['float16']"),
        (None, "got None"),
    ],
)
def test_bad_formats(given, words):
    with pytest.raises(InputError) as caught:
        parse_formats(given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bits_of_samples_and_of_parameters():
    def record(elements, bits, rows, storage_format="native"):
        return {
            "elements": elements,
            "bits_per_word": bits,
            "rows_per_sample": rows,
            "storage_format": storage_format,
        }

    records = [record(10, 32, 1), record(4, 8, -1), record(100, 16, 0), record(None, 32, 1)]
    assert stored_bits(records) == (352, 1600)
    assert stored_bits([]) == (0, 0)
    assert stored_bits([record(10, 8, 1, "int4"), record(10, 8, 0, "uint4")]) == (40, 40)


def test_a_format_for_sites_that_are_not_there_is_refused():
    check_used(parse_formats("float16"), ["activation"])
    check_used(parse_formats("weight=bfloat16"), ["weight", "activation"])
    with pytest.raises(InputError, match="int8 is for weight sites, of which there are none"):
        check_used(parse_formats("weight=int8,activation=float16"), ["activation"])
