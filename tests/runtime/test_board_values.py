# SPDX-License-Identifier: Apache-2.0
"""What the keys of a board's file may be: every error line of the schema, and contradictions."""

import re
from pathlib import Path

import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.board import parse_board
from noisystore.runtime.board_schema import KEYS, REQUIRED

MINIMAL = (Path(__file__).parents[1] / "data/boards/minimal.toml").read_text()
CUDA = (
    MINIMAL.replace('"onnxruntime"', '"onnxruntime-gpu"')
    .replace('["CPU', '["CUDAExecutionProvider", "CPU')
    .replace('"wheel"', '"wheel"\ncuda = "13.0"\ncuda_architectures = ["110"]')
)


def error(text):
    with pytest.raises(InputError) as raised:
        parse_board(text, "board mine")
    line = str(raised.value)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 400
    assert line.startswith("board mine: ")
    return line.removeprefix("board mine: ")


def with_value(key, value, text=MINIMAL):
    """Set `key` of the text to a TOML value, in its table."""
    table, name = key.rsplit(".", 1)
    before, head, after = text.partition(f"[{table}]\n")
    inside, bracket, rest = after.partition("\n[")
    inside = re.sub(rf"^{name} = .*\n?", "", inside, flags=re.MULTILINE)
    return f"{before}{head or f'[{table}]' + chr(10)}{name} = {value}\n{inside}{bracket}{rest}"


# Keys


@pytest.mark.parametrize("key", [k for k in KEYS if k.default is REQUIRED], ids=lambda k: k.name)
def test_missing_keys(key):
    text = re.sub(rf"^{key.key} = .*\n", "", MINIMAL, flags=re.MULTILINE)
    assert error(text) == f"{key.name}: missing; expected {key.kind.expected}"


def test_unknown_keys_and_tables():
    assert error(with_value("board.pyton", '"3.11"')) == (
        "board: expected the keys name, description, architecture, system, glibc, python, page, "
        "got 'pyton' (did you mean python?)"
    )
    assert error(with_value("run.qqq", "1")) == (
        "run: expected the keys threads, batch_size, activation_type, got 'qqq'"
    )
    assert error(MINIMAL + "[pwer]\nmodes = []\n") == (
        "'pwer': expected one of the tables board, build, onnxruntime, run, power (did you mean "
        "power?)"
    )
    assert error('"a\\nb" = 1').startswith("'a\\nb': expected one of the tables board")
    assert error("run = 3\n") == "run: expected a table [run], got 3"
    assert error("board = [[1]]\n") == "board: expected a table [board], got a list"


BAD = [
    *((key, "3") for key in (k.name for k in KEYS) if key not in ("run.threads", "run.batch_size")),
    ("board.name", '""'),
    ("board.name", '"a/b"'),
    ("board.name", '"../a"'),
    ("board.name", '"a--b"'),
    ("board.name", '"a b"'),
    ("board.name", '"-a"'),
    ("board.name", '"a\\n"'),
    ("board.name", '"a;reboot"'),
    ("board.name", f'"{"a" * 41}"'),
    ("board.description", '""'),
    ("board.description", '"a\\nb"'),
    ("board.description", '"$(reboot)"'),
    ("board.description", '"it\'s"'),
    ("board.system", '"`reboot`"'),
    ("board.architecture", '"arm64"'),
    ("board.glibc", '"2"'),
    ("board.glibc", '"2.36.1"'),
    ("board.python", '"3.9"'),
    ("board.python", '"3.11.2"'),
    ("board.page", '"../x.md"'),
    ("board.page", '"/x.md"'),
    ("board.page", '"boards//x.md"'),
    ("board.page", '"boards/../x.md"'),
    ("board.page", '"boards/x.md/"'),
    ("build.toolchain", '"../x"'),
    ("build.toolchain", '""'),
    ("build.operator", '"wheels"'),
    ("build.requirements", '"cmake==4.4.5"'),
    ("build.cuda", '"12"'),
    ("build.cuda_architectures", '["8.7"]'),
    ("build.cuda_architectures", '["sm_87"]'),
    ("build.cuda_architectures", "[87]"),
    ("onnxruntime.package", '"onnxruntime_gpu"'),
    ("onnxruntime.version", '"1.32"'),
    ("onnxruntime.version", '">=1.32.0"'),
    ("onnxruntime.newest", '"1"'),
    ("onnxruntime.index", '"ftp://a.b/c"'),
    ("onnxruntime.index", '"https://user:word@a.b/c"'),
    ("onnxruntime.index", '"https://a.b/c d"'),
    ("onnxruntime.index", '"https://a.b/c;d"'),
    ("onnxruntime.index", '"https://"'),
    ("onnxruntime.index", '"file:///etc"'),
    ("onnxruntime.requirements", '["numpy>=2"]'),
    ("onnxruntime.requirements", '["numpy==2.*"]'),
    ("onnxruntime.requirements", '["numpy==2.4.6 --pre"]'),
    ("onnxruntime.requirements", '["-r==1"]'),
    ("onnxruntime.providers", '["cuda"]'),
    ("onnxruntime.providers", '["CPUExecutionProvider", ["a"]]'),
    ("run.threads", "0"),
    ("run.threads", "1025"),
    ("run.threads", "true"),
    ("run.threads", "1.5"),
    ("run.threads", '"4"'),
    ("run.batch_size", "0"),
    ("run.batch_size", "1000001"),
    ("run.batch_size", "0x" + "f" * 5000),
    ("run.batch_size", "nan"),
    ("run.activation_type", '"int4"'),
    ("power.modes", '["a\\u001bb"]'),
    ("power.modes", '["sudo a; reboot"]'),
    ("power.hints", "[1979-05-27]"),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_wrong_values(key, value):
    kind = next(k.kind for k in KEYS if k.name == key)
    line = error(with_value(key, value))
    assert line.startswith(f"{key}: expected ")
    expected = line.removeprefix(f"{key}: expected ").rpartition(", got ")[0]
    assert expected in (kind.expected, kind.item and kind.item.expected)


def test_wrong_values_are_shown_short():
    assert error(with_value("run.batch_size", "0x" + "f" * 500)).endswith("got a very large number")
    assert error(with_value("board.glibc", f'"{"a" * 500}"')).endswith(f"got '{'a' * 56}...")
    assert error(with_value("board.glibc", '"é\\u001b"')).endswith(r"got '\xe9\x1b'")
    assert error(with_value("board.glibc", "{a = 1}")).endswith("got a table")
    assert error(with_value("run.threads", "0")) == (
        "run.threads: expected a whole number from 1 to 1,024, got 0"
    )


@pytest.mark.parametrize(
    ("key", "one", "two"),
    [
        ("build.requirements", "cmake==4.4.5", "ninja==1.13.2"),
        ("build.cuda_architectures", "80", "87"),
        ("onnxruntime.requirements", "numpy==2.4.6", "scipy==1.17.1"),
        ("onnxruntime.providers", "CUDAExecutionProvider", "CPUExecutionProvider"),
        ("power.modes", "a", "b"),
        ("power.hints", "a", "b"),
    ],
)
def test_items_twice(key, one, two):
    assert error(with_value(key, f'["{one}", "{two}", "{two}"]')) == (
        f"{key}: expected each item once, got '{two}' twice"
    )


GOOD = [
    ("board.name", '"My_board-2.b"'),
    ("board.description", '"Pi 5 (8 GB), 4 x A76: 100%"'),
    ("board.glibc", '"2.40"'),
    ("board.python", '"3.14"'),
    ("board.page", '"boards/mine.md"'),
    ("build.toolchain", '"aarch64-linux-gnu"'),
    ("onnxruntime.version", '"1.17.0"'),
    ("onnxruntime.newest", '"1.32"'),
    ("onnxruntime.index", '"https://a-b.example:8080/x/y_z-1/"'),
    ("onnxruntime.requirements", '["NumPy==2.4.6", "scipy==1.17.1.post1", "a_b==1.2+cu126"]'),
    ("run.threads", "1024"),
    ("run.batch_size", "1000000"),
    ("power.modes", '["echo performance | sudo tee /sys/cpu*/scaling_governor"]'),
]


@pytest.mark.parametrize(("key", "value"), GOOD[:9] + GOOD[10:])
def test_right_values(key, value):
    board = parse_board(with_value(key, value), "board mine")
    attribute = next(k.attribute for k in KEYS if k.name == key)
    assert getattr(board, attribute) in (value.strip('"'), (value[2:-2],), _number(value))


def _number(value):
    return int(value) if value.isdigit() else None


# Provider options


def test_provider_options():
    table = "\n[onnxruntime.options.CUDAExecutionProvider]\n"
    board = parse_board(CUDA + table + 'use_tf32 = "0"\n', "board mine")
    assert board.provider_options == {"CUDAExecutionProvider": {"use_tf32": "0"}}
    assert error(CUDA + table + "use_tf32 = 0\n").startswith(
        "onnxruntime.options.CUDAExecutionProvider.use_tf32: expected a text such as"
    )
    assert error(CUDA + table + 'x = "a b"\n').endswith("got 'a b'")
    assert error(CUDA + table + 'X = "a"\n').startswith(
        "an option of onnxruntime.options.CUDAExecutionProvider: expected lower-case letters"
    )
    assert error(CUDA + '[onnxruntime.options.cuda]\na = "1"\n').startswith(
        "a table of onnxruntime.options: expected a full name such as CPUExecutionProvider, got 'cu"
    )
    assert error(MINIMAL + table + 'a = "1"\n') == (
        "onnxruntime.options.CUDAExecutionProvider: expected one of onnxruntime.providers, got "
        "CPUExecutionProvider"
    )
    options = "onnxruntime.options"
    assert error(with_value(options, "3")) == f"{options}: expected a table [{options}], got 3"
    one = f"{options}.CPUExecutionProvider"
    assert error(with_value(options, "{CPUExecutionProvider = 1}")) == (
        f"{one}: expected a table [{one}], got 1"
    )


# Contradictions


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            with_value("onnxruntime.providers", "[]"),
            "onnxruntime.providers: expected CPUExecutionProvider as the last, got none",
        ),
        (
            CUDA.replace(
                '["CUDAExecutionProvider", "CPUExecutionProvider"]',
                '["CPUExecutionProvider", "CUDAExecutionProvider"]',
            ),
            "onnxruntime.providers: expected CPUExecutionProvider as the last, got "
            "CPUExecutionProvider, CUDAExecutionProvider",
        ),
        (
            with_value("build.cuda_architectures", "[]", CUDA),
            "build.cuda_architectures: expected some for CUDAExecutionProvider, got none",
        ),
        (
            with_value("onnxruntime.package", '"onnxruntime"', CUDA),
            'onnxruntime.package: expected "onnxruntime-gpu" for CUDAExecutionProvider, got '
            '"onnxruntime"',
        ),
        (
            with_value("build.cuda", '""', CUDA),
            "build.cuda: expected a version if and only if there are cuda_architectures, got "
            '"" with 1 of them',
        ),
        (
            with_value("build.cuda", '"12.6"'),
            "build.cuda: expected a version if and only if there are cuda_architectures, got "
            '"12.6" with 0 of them',
        ),
        (
            with_value("onnxruntime.newest", '"1.31"'),
            "onnxruntime.version: expected at most newest = 1.31, got 1.32.0",
        ),
        (
            with_value("onnxruntime.version", '"1.16.3"'),
            "onnxruntime.version: expected 1.17 or newer, got 1.16.3",
        ),
        (
            with_value("board.glibc", '"2.31"'),
            "board.glibc: expected 2.34 or newer for a wheel, got 2.31",
        ),
        (
            with_value("build.operator", '"source"'),
            'build.requirements: expected scikit-build-core and others for operator = "source", '
            "got none",
        ),
        (
            with_value("build.toolchain", '"aarch64-linux-gnu"').replace('"wheel"', '"source"'),
            'build.toolchain: expected "native" where the board builds, got "aarch64-linux-gnu"',
        ),
        (
            with_value("build.toolchain", '"x86_64-linux-gnu"'),
            'build.toolchain: expected one for aarch64, got "x86_64-linux-gnu"',
        ),
        (
            with_value("board.python", '"3.10"'),
            "onnxruntime.requirements: expected a pin of tomli, got numpy, scipy",
        ),
        (
            with_value("onnxruntime.requirements", '["scipy==1.17.1"]'),
            "onnxruntime.requirements: expected a pin of numpy, got scipy",
        ),
        (
            with_value("onnxruntime.requirements", "[]"),
            "onnxruntime.requirements: expected a pin of numpy, got none",
        ),
        (
            MINIMAL.replace('["numpy', '["onnxruntime_gpu==1.31.1", "numpy'),
            "onnxruntime.requirements: expected ONNX Runtime in package and version only, got a "
            "pin of it, too",
        ),
    ],
)
def test_contradictions(text, line):
    assert error(text) == line


def test_what_is_no_contradiction():
    parse_board(CUDA, "board mine")
    source = with_value("build.operator", '"source"', with_value("board.glibc", '"2.31"'))
    parse_board(with_value("build.requirements", '["cmake==4.4.5"]', source), "board mine")
    parse_board(with_value("onnxruntime.newest", '"1.32"'), "board mine")
    parse_board(with_value("onnxruntime.requirements", GOOD[9][1]), "board mine")
