# SPDX-License-Identifier: Apache-2.0
"""Configurations of boards: the shipped ones, files that are none, the page of keys."""

import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.board import (
    Board,
    board_names,
    board_text,
    load_board,
    newer,
    parse_board,
)
from noisystore.runtime.board_choice import board_toml
from noisystore.runtime.board_schema import KEYS, REQUIRED

ROOT = Path(__file__).parents[2]
NAMES = (
    "arm-generic",
    "cuda-server",
    "jetson-orin",
    "jetson-thor",
    "raspberry-pi-5",
    "x86-server",
)
MINIMAL = (ROOT / "tests/data/boards/minimal.toml").read_text()


# The shipped configurations


def test_names():
    assert board_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped(name):
    board = load_board(name)
    text = board_text(name)
    assert board.name == name
    assert text == (ROOT / "edge_configs" / f"{name}.toml").read_text()
    assert load_board(ROOT / "edge_configs" / f"{name}.toml") == board
    # Comments for people, lines for editors, toolchains that exist.
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n# ")
    assert max(map(len, text.splitlines())) <= 105
    if board.toolchain != "native":
        assert (ROOT / "ortops/toolchains" / f"{board.toolchain}.cmake").is_file()
    for pin in board.requirements + board.build_requirements:
        assert re.fullmatch(r"[a-z-]+==\d+(\.\d+)+", pin), pin


def test_facts_of_the_boards():
    boards = {name: load_board(name) for name in NAMES}
    assert {n for n, b in boards.items() if b.architecture == "x86_64"} == {
        "x86-server",
        "cuda-server",
    }
    # Signedness of 8-bit activations goes by the processor.
    for board in boards.values():
        assert board.activation_type == ("uint8" if board.architecture == "x86_64" else "int8")
        assert not newer("2.34", board.glibc)
    orin, thor = boards["jetson-orin"], boards["jetson-thor"]
    assert (orin.cuda, orin.cuda_architectures, orin.python) == ("12.6", ("87",), "3.10")
    assert (orin.operator, orin.ort_newest) == ("source", "1.23")
    assert (thor.cuda, thor.cuda_architectures, thor.python) == ("13.0", ("110",), "3.12")
    for board in (orin, thor):
        assert board.ort_index.startswith("https://")
        assert "sudo jetson_clocks" in board.power_modes
    assert "tomli" in "".join(orin.requirements)
    assert boards["arm-generic"].glibc == "2.34"
    assert boards["cuda-server"].providers[0] == "CUDAExecutionProvider"
    for name in ("cuda-server", "jetson-orin", "jetson-thor"):
        options = boards[name].provider_options["CUDAExecutionProvider"]
        assert options["use_tf32"] == "0"
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert boards["raspberry-pi-5"].threads == 4


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_pin_can_be_had(name, tmp_path):
    """Asks the package registry for each wheel, for the board's Python and architecture."""
    board = load_board(name)
    digits = board.python.replace(".", "")
    glibc = int(board.glibc.partition(".")[2])
    tags = [f"manylinux_2_{n}" for n in (34, 31, 28, 27, 17) if n <= glibc] + ["manylinux2014"]
    pins = [*board.requirements, *board.build_requirements]
    if not board.ort_index:
        pins.append(f"{board.ort_package}=={board.ort_version}")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
    pip += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    pip += [f"--platform={tag}_{board.architecture}" for tag in tags]
    pip += [f"--python-version={board.python}", "--implementation=cp", f"--abi=cp{digits}"]
    pip += ["--abi=abi3", "--abi=none", f"--target={tmp_path}"]
    done = subprocess.run([*pip, *pins], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The minimal file, defaults, and what a file may be


def test_defaults():
    assert parse_board(MINIMAL, "board mine") == Board(
        name="mine",
        description="a board",
        architecture="aarch64",
        system="Linux",
        glibc="2.36",
        python="3.11",
        operator="wheel",
        ort_package="onnxruntime",
        ort_version="1.32.0",
        requirements=("numpy==2.4.6", "scipy==1.17.1"),
        providers=("CPUExecutionProvider",),
        batch_size=8,
        activation_type="int8",
        toolchain="native",
        cuda="",
        cuda_architectures=(),
        ort_newest="",
        ort_index="",
        build_requirements=(),
        provider_options={},
        threads=None,
        power_modes=(),
        hints=(),
        page="",
    )


def test_a_board_does_not_change():
    with pytest.raises(FrozenInstanceError):
        load_board("x86-server").threads = 3


def test_a_path_is_told_from_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("own.toml", "./x86-server"):
        Path(path).write_text(MINIMAL)
        assert load_board(path).name == "mine"
    assert load_board("x86-server").name == "x86-server"
    # As editors on other systems write it.
    Path("own.toml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_board(Path("own.toml")).name == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = ", "expected TOML: Invalid value"),
        (b'[board]\nname = "a"\n[board]\n', "expected TOML: Cannot declare"),
        (b"x = " + b"[" * 5000, "expected TOML"),
        (b"x = " + b"9" * 5000, "expected TOML: "),
        (b"# \xff", "expected UTF-8 text, got the byte 0xff at 2"),
        (b"# a\0b", "expected text, got a zero byte at 3"),
        (b"# " + b"a" * 65536, "expected at most 65,536 bytes of TOML, got more"),
        (b"", "board.name: missing; expected letters and digits"),
    ],
)
def test_files_that_are_none(content, message, tmp_path):
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        load_board(path)
    line = str(raised.value)
    assert line.startswith(f"board {path}: {message}")
    assert line.isprintable()


def test_the_largest_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(MINIMAL + "#" * (65536 - len(MINIMAL)))
    assert load_board(path).name == "mine"


def test_missing_files_and_names(tmp_path):
    def message(name):
        with pytest.raises(InputError) as raised:
            board_text(name)
        assert str(raised.value).isprintable()
        return str(raised.value)

    assert "No such file" in message(tmp_path / "a.toml")
    (tmp_path / "b.toml").mkdir()
    assert "Is a directory" in message(tmp_path / "b.toml")
    assert "null byte" in message("a\0.toml")
    text = message("jetson-orn")
    assert text.startswith("board jetson-orn: expected one of arm-generic, cuda-server, jetson-or")
    assert text.endswith("or a file *.toml (did you mean jetson-orin?)")
    assert message("zzz").endswith("or a file *.toml")
    assert message("a\nb").startswith("board 'a\\nb': ")
    assert message("").startswith("board '': ")
    assert len(message("a" * 5000)) < 300


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all files")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(MINIMAL)
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        load_board(path)


def test_newer():
    assert newer("1.24.0", "1.23")
    assert newer("2.0", "1.99")
    assert newer("1.100", "1.99.5")
    assert not newer("1.23.9", "1.23")
    assert not newer("1.9", "1.23")


# The page of keys, and files that are written


def test_the_page_has_exactly_the_keys():
    page = (ROOT / "docs/boards.md").read_text()
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == [key.name for key in KEYS]
    for key, (_, value, _) in zip(KEYS, rows, strict=True):
        optional = re.search(r"; (optional|for `source`|with CUDA)", value) is not None
        assert optional == (key.default is not REQUIRED), key.name
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_board(name):
    """A page says what its file says, so that it does not grow old."""
    board = load_board(name)
    assert board.page == f"boards/{name}.md"
    page = " ".join((ROOT / "docs" / board.page).read_text().split())
    runtime = "ONNX Runtime" if board.ort_package == "onnxruntime" else board.ort_package
    facts = [
        f"`{name}`",
        f"Python {board.python}",
        f"{runtime} {board.ort_version}",
        f"--activation-type {board.activation_type}",
        board.ort_index,
        *board.power_modes,
        f"--board {name} --data",
        "bash install.sh",
        "--board board.toml",
        "## What was run, and what not",
    ]
    assert [fact for fact in facts if fact not in page] == []
    assert f"]({board.page})" in (ROOT / "docs/boards.md").read_text()


def test_every_page_is_of_a_board():
    assert {path.stem for path in (ROOT / "docs/boards").iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(name):
    board = load_board(name)
    assert parse_board(board_toml(board), "board") == board
