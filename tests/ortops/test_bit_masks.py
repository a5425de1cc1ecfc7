# SPDX-License-Identifier: Apache-2.0
"""Masks by name: what they mean in each format, and wherever a mask is taken."""

import numpy as np
import pytest

from noisystore.ortops import InputError, apply, bit_mask, count_flips, noise_inputs, reference
from noisystore.ortops.bit_masks import mask_name
from noisystore.ortops.formats import WORD_FORMATS

FLOATS = ["float16", "bfloat16", "float32", "float64", "float8e4m3fn", "float8e5m2"]


@pytest.mark.parametrize(
    ("name", "storage_format", "expected"),
    [
        ("all", "float32", 0xFFFFFFFF),
        ("all", "float64", 2**64 - 1),
        ("all", "int4", 0xF),
        ("sign", "float32", 0x80000000),
        ("sign", "int8", 0x80),
        ("sign", "int4", 0x8),
        ("sign", "int32", 0x80000000),
        ("exponent", "float32", 0x7F800000),
        ("exponent", "float16", 0x7C00),
        ("exponent", "bfloat16", 0x7F80),
        ("exponent", "float64", 0x7FF0000000000000),
        ("exponent", "float8e4m3fn", 0x78),
        ("exponent", "float8e5m2", 0x7C),
        ("mantissa", "float32", 0x7FFFFF),
        ("mantissa", "float8e4m3fn", 0x7),
        ("msb:0", "float32", 0x80000000),
        ("msb:0", "uint8", 0x80),
        ("msb:0", "int4", 0x8),
        ("msb:1", "bfloat16", 0x4000),
        ("msb:9-31", "float32", 0x7FFFFF),
        ("msb:9-", "float32", 0x7FFFFF),
        ("msb:12-", "float32", 0xFFFFF),
        ("msb:0-3", "float16", 0xF000),
        ("msb:2-", "uint4", 0x3),
        ("exponent:1", "float32", 0x40000000),
        ("exponent:1-", "float32", 0x7FFFFFFF),
        ("exponent:3-", "float32", 0x1FFFFFFF),
        ("exponent:8-", "float32", 0xFFFFFF),
        ("exponent:3-", "float16", 0x1FFF),
        ("exponent:1-3", "float32", 0x70000000),
        ("exponent:2", "float16", 0x2000),
        ("mantissa:1-4", "float32", 0x780000),
        ("mantissa:4-", "float32", 0xFFFFF),
        ("0x7F800000", "float32", 0x7F800000),
        (" MSB:9-31 ", "float32", 0x7FFFFF),
        ("0x1ff", "int8", 0xFF),
    ],
)
def test_names(name, storage_format, expected):
    assert bit_mask(name, storage_format) == expected


@pytest.mark.parametrize("storage_format", FLOATS)
def test_fields_make_up_the_word(storage_format):
    def mask(name):
        return bit_mask(name, storage_format)

    assert mask("sign") | mask("exponent") | mask("mantissa") == mask("all")
    assert mask("sign") + mask("exponent") + mask("mantissa") == mask("all")
    assert mask("exponent:1-") == mask("exponent") | mask("mantissa") == mask("msb:1-")
    assert mask("mantissa:1-") == mask("mantissa")
    word = WORD_FORMATS[storage_format]
    digits = [mask(f"exponent:{i}") for i in range(1, word.exponent_bits + 1)]
    assert digits == [mask(f"msb:{i}") for i in range(1, word.exponent_bits + 1)]
    assert sum(digits) == mask("exponent")


@pytest.mark.parametrize("storage_format", FLOATS)
def test_fields_do_what_their_names_say(storage_format):
    """Flipped in 1.5, the fields change what they are called after."""
    x = np.float64([1.5])
    word = WORD_FORMATS[storage_format]

    def flipped(name):
        out = apply(x, 1.0, bit_mask=name, storage_format=storage_format)
        oracle = reference.apply(x, 1.0, bit_mask=name, storage_format=storage_format)
        assert np.array_equal(out, oracle)
        return float(out[0])

    assert flipped("sign") == -1.5
    assert flipped("mantissa:1") == 1.0
    assert flipped(f"mantissa:{word.mantissa_bits}") == 1.5 + 2.0**-word.mantissa_bits
    assert flipped(f"exponent:{word.exponent_bits}") == 0.75


@pytest.mark.parametrize(
    ("name", "storage_format", "problem"),
    [
        ("exponent", "uint8", "uint8 has no exponent; expected all, msb:FIRST-LAST (0 to 7)"),
        ("mantissa:2", "int8", "int8 has no mantissa; expected all, sign, msb:FIRST-LAST (0 to 7)"),
        ("sign", "uint4", "uint4 has no sign; expected all, msb:FIRST-LAST (0 to 3) or"),
        ("msb:9-31", "float16", "within 0 to 15, the bits of float16's word"),
        ("msb:9-31", "uint8", "within 0 to 7"),
        ("msb:4-", "int4", "within 0 to 3"),
        ("exponent:9-", "float32", "within 1 to 8, the bits of float32's exponent"),
        ("exponent:0", "float32", "within 1 to 8"),
        ("exponent:5-3", "float32", "within 1 to 8"),
        ("0x100", "uint8", "selects no bit of uint8, which has 0xff"),
        ("0xf0", "int4", "selects no bit of int4, which has 0xf"),
        *[
            (name, "float32", "bit mask: expected all, sign, exponent, mantissa, msb:9-31")
            for name in (
                *(
                    "",
                    "fraction",
                    "msb",
                    "msb:",
                    "msb:-3",
                    "msb:09",
                    "msb:1-2-3",
                    "sign:1",
                    "all:1",
                ),
                *("0x0", "0x1ffffffffffffffff", "0x", "255", "msb:1 - 3", "exponent:3-\n4"),
            )
        ],
        (7, "float32", "got 7"),
        (None, "float32", "got None"),
        ("sign", "native", "expected a format of float16"),
        ("sign", "float12", "expected a format of float16"),
    ],
)
def test_bad_names(name, storage_format, problem):
    with pytest.raises(InputError) as caught:
        bit_mask(name, storage_format)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_spelling():
    assert mask_name(" 0X0FF ") == "0xff"
    assert mask_name("Exponent:3-") == "exponent:3-"


def test_a_table_gives_every_site_the_bits_of_its_format():
    formats = ["float32", "float16", "bfloat16"]
    table = noise_inputs.mask_table("exponent", 3, formats)
    assert table.tolist() == [0x7F800000, 0x7C00, 0x7F80]
    mixed = noise_inputs.mask_table(["sign", 0, "0x7f800000"], 3, ["int4", None, None])
    assert mixed.tolist() == [8, 0, 0x7F800000]
    assert noise_inputs.mask_table("all", 2).tolist() == [2**64 - 1] * 2
    with pytest.raises(InputError, match="site 1: bit mask exponent: uint8 has no exponent"):
        noise_inputs.mask_table("exponent", 2, ["float32", "uint8"])
    with pytest.raises(InputError, match="format of site 0 is not known"):
        noise_inputs.mask_table("sign", 2)
    with pytest.raises(InputError, match="expected one integer or name, or 2"):
        noise_inputs.mask_table(["sign"], 2, ["float32"] * 2)


@pytest.mark.parametrize("implementation", [apply, reference.apply], ids=["library", "oracle"])
def test_apply_takes_names(implementation):
    x = np.float32([1, -2, 3])
    assert implementation(x, 1.0, bit_mask="sign").tolist() == [-1, 2, -3]
    assert implementation(x, 1.0, bit_mask=["0x1", "sign"], site=1).tolist() == [-1, 2, -3]
    assert implementation(x.astype(np.int8), 1.0, bit_mask="msb:0").tolist() == [-127, 126, -125]
    words = np.array([0x3F80], np.uint16)
    assert implementation(words, 1.0, bit_mask="exponent").tolist() == [0x4000]
    with pytest.raises(InputError, match="int8 has no exponent"):
        implementation(x.astype(np.int8), 1.0, bit_mask="exponent")
    with pytest.raises(InputError, match="site 1: bit mask 0x100: selects no bit of int8"):
        implementation(x.astype(np.int8), 1.0, bit_mask=["sign", "0x100"], site=1)


def test_count_flips_takes_names():
    shape = (3, 1000)
    named = count_flips(shape, 16, 0.01, bit_mask="exponent", storage_format="bfloat16")
    assert named.tolist() == count_flips(shape, 16, 0.01, bit_mask=0x7F80).tolist()
    assert count_flips(shape, 8, 1.0, storage_format="int4").tolist() == [4000] * 3
    assert count_flips(shape, 8, 1.0, bit_mask="0x3").tolist() == [2000] * 3
    with pytest.raises(InputError, match="format of site 0 is not known"):
        count_flips(shape, 16, 0.01, bit_mask="exponent")
