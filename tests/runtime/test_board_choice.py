# SPDX-License-Identifier: Apache-2.0
"""Which configuration a system gets and why, one made for it, and `noisystore board`."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.board import board_names, board_text, load_board, parse_board
from noisystore.runtime.board_choice import adapted, board_toml, closest_board
from noisystore.runtime.board_system import System, detect
from noisystore.runtime.cli import build_parser, main
from noisystore.runtime.commands.board import text

BOARDS = Path(__file__).parents[1] / "data/boards"
SYSTEMS = {name: detect(BOARDS / name) for name in board_names()}


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("arm-generic", ["64-bit Arm (Radxa ROCK 5B), and no board known better"]),
        ("cuda-server", ["x86-64, NVIDIA driver 595.71.05, NVIDIA H100 80GB HBM3"]),
        (
            "jetson-orin",
            [
                "NVIDIA Jetson AGX Orin Developer Kit",
                "JetPack 6.2 (Linux for Tegra 36.4.3)",
                "chip tegra234: compute capability 87",
            ],
        ),
        (
            "jetson-thor",
            [
                "NVIDIA Jetson AGX Thor Developer Kit",
                "JetPack 7.0 (Linux for Tegra 38.2.0)",
                "chip tegra264: compute capability 110",
            ],
        ),
        ("raspberry-pi-5", ["Raspberry Pi 5 Model B Rev 1.0 (chip bcm2712)"]),
        ("x86-server", ["x86-64, and no NVIDIA driver"]),
    ],
)
def test_each_board_gets_its_own(name, reasons):
    assert closest_board(SYSTEMS[name]) == (name, reasons)


def changed(name, **changes):
    return closest_board(replace(SYSTEMS[name], **changes))


def test_old_drivers():
    name, reasons = changed("cuda-server", driver="575.57.08")
    assert name == "x86-server"
    assert reasons[0] == (
        "x86-64, NVIDIA driver 575.57.08, NVIDIA H100 80GB HBM3: ONNX Runtime's CUDA 13 needs "
        "driver 580 or newer; with one, take cuda-server"
    )
    assert changed("cuda-server", driver="580.65.06")[0] == "cuda-server"
    assert changed("cuda-server", gpus=())[1][0] == "x86-64, NVIDIA driver 595.71.05"


def test_jetsons():
    # JetPack decides; then the chip.
    name, reasons = changed("jetson-orin", l4t="39.2.0", jetpack="7.2")
    assert name == "jetson-thor"
    assert reasons[3].startswith("JetPack 7 on tegra234: unknown whether")
    name, reasons = changed("jetson-orin", l4t="35.4.1", jetpack="5.1.2", python="3.8")
    assert name == "jetson-orin"
    assert reasons[3] == "JetPack 5.1.2 is too old: Python 3.10 came with JetPack 6"
    assert changed("jetson-thor", l4t="", jetpack="")[0] == "jetson-thor"
    assert changed("jetson-orin", l4t="", jetpack="")[0] == "jetson-orin"
    assert changed("jetson-orin", soc="", l4t="", model="")[1] == ["JetPack 6.2"]
    assert changed("jetson-orin", soc="", l4t="99.1.0", jetpack="")[0] == "jetson-orin"
    assert "tegra" not in " ".join(changed("jetson-thor", soc="", model="")[1][1:])


def test_other_arm_systems():
    name, reasons = changed("raspberry-pi-5", soc="bcm2711", features=("asimd",))
    assert name == "arm-generic"
    assert reasons[1] == "no dot products (asimddp): integer kernels are slower here"
    name, reasons = changed("arm-generic", model="", driver="580.65.06")
    assert name == "arm-generic"
    assert reasons[0] == "64-bit Arm (Cortex-A55, Cortex-A76), and no board known better"
    assert reasons[1].startswith("NVIDIA driver 580.65.06: there is no configuration for Arm serv")


@pytest.mark.parametrize("architecture", ["", "riscv64", "armv7l", "aarch64 with 32-bit Python"])
def test_other_processors(architecture):
    with pytest.raises(InputError) as raised:
        closest_board(System(architecture=architecture))
    assert str(raised.value) == (
        "this system: expected x86_64 or aarch64 with 64-bit Python, got "
        f"{architecture or 'no known processor'}; NoisyStore runs on no other"
    )


def test_what_does_not_fit_is_said():
    assert changed("x86-server", glibc="2.33")[1][1:] == [
        "glibc 2.33 is too old: wheels need 2.34 or newer"
    ]
    assert changed("x86-server", glibc="2.34")[1][1:] == []
    assert changed("x86-server", python="3.13")[1][1:] == [
        "Python 3.13 here, 3.11 in the configuration"
    ]
    assert changed("jetson-orin", python="3.12")[1][3:] == [
        "Python 3.12 here, 3.10 in the configuration, for which the vendor has its ONNX Runtime"
    ]
    gpu = {"onnxruntime": "onnxruntime-gpu 1.31.1"}
    assert changed("cuda-server", **gpu, providers=("CPUExecutionProvider",))[1][1:] == [
        "the installed onnxruntime-gpu 1.31.1 has no CUDAExecutionProvider"
    ]
    # Another package is installed: this one is yet to be.
    cpu = {"onnxruntime": "onnxruntime 1.32.0"}
    assert changed("cuda-server", **cpu, providers=("CPUExecutionProvider",))[1][1:] == []


# A configuration of one's own


@pytest.mark.parametrize("name", board_names())
def test_a_configuration_of_each_system(name):
    board, system = load_board(name), SYSTEMS[name]
    made = adapted(board, system, "mine")
    assert parse_board(board_toml(made), "board mine") == made
    assert made.name == "mine"
    assert made.description == (system.model or system.cpu)
    assert (made.system, made.glibc, made.python) == (system.os, system.glibc, system.python)
    assert made.threads == (system.cores if board.threads else None)
    for same in ("requirements", "providers", "provider_options", "ort_index", "hints", "cuda"):
        assert getattr(made, same) == getattr(board, same), same


def test_the_installed_runtime_is_written():
    board, system = load_board("x86-server"), SYSTEMS["x86-server"]
    for installed, expected in (
        ("onnxruntime 1.20.1", "1.20.1"),
        ("onnxruntime 1.16.3", board.ort_version),  # too old
        ("onnxruntime 1.33.0.dev2", board.ort_version),
        ("onnxruntime-openvino 1.24.1", board.ort_version),
        ("", board.ort_version),
    ):
        seen = replace(system, onnxruntime=installed, providers=("CPUExecutionProvider",))
        assert adapted(board, seen, "mine").ort_version == expected
    thor = replace(SYSTEMS["jetson-thor"], onnxruntime="onnxruntime-gpu 1.23.0")
    thor = replace(thor, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert adapted(load_board("jetson-thor"), thor, "mine").ort_version == "1.24.0"


def test_a_system_that_is_too_old_gets_no_configuration():
    old = replace(SYSTEMS["jetson-orin"], jetpack="5.1.2", l4t="35.4.1", python="3.8")
    with pytest.raises(InputError, match=r"JetPack 5\.1\.2: expected JetPack 6 or newer"):
        adapted(load_board("jetson-orin"), old, "mine")


def test_what_is_detected_is_written():
    orin = replace(SYSTEMS["jetson-orin"], l4t="39.2.0", jetpack="7.2", python="3.12", cuda="13.2")
    made = adapted(load_board("jetson-thor"), orin, "orin-7")
    assert made.cuda_architectures == ("87",)
    assert made.cuda == "13.2"
    # Another series of the toolkit, or another Python, is none for the vendor's wheel.
    made = adapted(load_board("jetson-orin"), replace(orin, cuda="13.2"), "orin-6")
    assert (made.cuda, made.python) == ("12.6", "3.10")
    pi = replace(SYSTEMS["raspberry-pi-5"], python="3.13", cores=0, model="", cpu="", os="")
    made = adapted(load_board("raspberry-pi-5"), pi, "pi")
    assert (made.python, made.threads) == ("3.13", 4)
    assert made.description == load_board("raspberry-pi-5").description
    assert made.system == load_board("raspberry-pi-5").system


def test_providers_that_are_missing_are_left_out():
    server = replace(
        SYSTEMS["cuda-server"],
        onnxruntime="onnxruntime-gpu 1.31.1",
        providers=("AzureExecutionProvider", "CPUExecutionProvider"),
    )
    made = adapted(load_board("cuda-server"), server, "mine")
    assert made.providers == ("CPUExecutionProvider",)
    assert made.provider_options == {}


def test_python_3_10():
    old = replace(SYSTEMS["x86-server"], python="3.10")
    made = adapted(load_board("x86-server"), old, "mine")
    assert (made.python, made.ort_version) == ("3.10", "1.23.2")
    assert {"numpy==2.2.6", "tomli==2.5.0"} <= set(made.requirements)
    with pytest.raises(InputError, match=r"^board cuda-server: expected Python 3.11 or newer, got"):
        adapted(load_board("cuda-server"), replace(SYSTEMS["cuda-server"], python="3.10"), "mine")


def test_hostile_texts_are_made_plain():
    system = replace(SYSTEMS["x86-server"], os="A `b` $(c) 'd' \"e\"", cpu="é" * 9 + "x;y" * 500)
    made = adapted(load_board("x86-server"), system, "mine")
    assert made.system == "A b (c) d e"
    assert made.description.startswith("x y")
    assert len(made.description) <= 300
    system = replace(SYSTEMS["x86-server"], os="é", cpu="é")
    made = adapted(load_board("x86-server"), system, "mine")
    assert made.system == "Debian 12"


def test_systems_that_no_configuration_runs_on():
    with pytest.raises(InputError, match=r"^board mine: board.glibc: expected 2.34 or newer for"):
        adapted(load_board("x86-server"), replace(SYSTEMS["x86-server"], glibc="2.31"), "mine")
    with pytest.raises(InputError, match=r"^board a b: board.name: expected letters and digits"):
        adapted(load_board("x86-server"), SYSTEMS["x86-server"], "a b")


# The command


def test_text_of_a_jetson():
    system = replace(SYSTEMS["jetson-orin"], onnxruntime="onnxruntime 1.23.0", providers=("A", "B"))
    name, reasons = closest_board(system)
    assert text(system, name, reasons, None) == (
        "board         NVIDIA Jetson AGX Orin Developer Kit\n"
        "processor     Cortex-A78AE (aarch64), 12 cores\n"
        "features      asimd asimdhp asimddp\n"
        "memory        61.4 GiB\n"
        "system        Ubuntu 22.04.5 LTS, glibc 2.35\n"
        "Python        3.10\n"
        "JetPack       6.2, Linux for Tegra 36.4.3\n"
        "GPU           NVIDIA, driver 540.4.0\n"
        "CUDA          12.6\n"
        "runtime       onnxruntime 1.23.0: A, B\n"
        "\n"
        "configuration jetson-orin\n"
        "because       NVIDIA Jetson AGX Orin Developer Kit\n"
        "              JetPack 6.2 (Linux for Tegra 36.4.3)\n"
        "              chip tegra234: compute capability 87\n"
        "\n"
        "next: noisystore board -o my-board.toml"
    )


def test_text_of_a_system_that_says_nothing():
    assert text(System(architecture="x86_64"), "x86-server", ["a"], "b c.toml") == (
        "processor     unknown (x86_64), 0 cores\n"
        "system        unknown, glibc unknown\n"
        "\n"
        "configuration x86-server\n"
        "because       a\n"
        "\n"
        "next: noisystore sweep MODEL.onnx --data DATA --board 'b c.toml' -o results.sqlite"
    )


def test_this_system(ok, capsys):
    result = ok("board")
    assert result["board"] in board_names()
    assert result["reasons"]
    assert result["system"]["cores"] == detect().cores
    assert result["system"]["providers"] == list(detect().providers)
    assert main(["board"]) == 0
    assert f"\nconfiguration {result['board']}\n" in capsys.readouterr().out


def test_write_and_show(tmp_path, capsys):
    path = tmp_path / "my-board.toml"
    assert main(["board", "-o", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"wrote {path}\n"
    following = captured.out.splitlines()[-1].removeprefix("next: noisystore ")
    assert build_parser().parse_args(shlex.split(following)).board == str(path)
    board = load_board(path)
    assert board.name == "my-board"
    shipped = load_board(closest_board(detect())[0])
    assert board.threads == (detect().cores if shipped.threads else None)
    assert main(["board", "--show", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text()


def test_output_paths(error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error("board", "-o", "a.txt").endswith(
        "-o a.txt: expected a file name that ends in .toml"
    )
    assert "does not exist" in error("board", "-o", "missing/a.toml")
    assert "board.name: expected letters and digits" in error("board", "-o", "a b.toml")
    assert list(tmp_path.iterdir()) == []


def test_list(ok, capsys):
    assert [board["name"] for board in ok("board", "--list")] == list(board_names())
    assert main(["board", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "name system Python ONNX Runtime operator CUDA 8 bits"
    assert [line.split()[0] for line in lines[1:]] == list(board_names())
    assert lines[3].split()[-5:] == ["onnxruntime-gpu", "1.23.0", "source", "12.6", "int8"]
    assert lines[6].split()[-2:] == ["-", "uint8"]


@pytest.mark.parametrize("name", board_names())
def test_show(name, ok, capsys):
    assert main(["board", "--show", name]) == 0
    assert capsys.readouterr().out == board_text(name)
    result = ok("board", "--show", name)
    assert result["name"] == name
    assert result["requirements"] == list(load_board(name).requirements)


def test_show_checks(error, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(board_text("x86-server").replace("batch_size", "bach_size"))
    line = error("board", "--show", path)
    assert line.endswith("got 'bach_size' (did you mean batch_size?)")
    assert "(did you mean jetson-thor?)" in error("board", "--show", "jetson-tor")
    assert "not allowed with" in error("board", "--list", "--show", "x86-server")
