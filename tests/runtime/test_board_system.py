# SPDX-License-Identifier: Apache-2.0
"""Detection on recorded system files of each board, and its parsers on texts of any kind."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystore.runtime import board_parsers as parse
from noisystore.runtime.board_system import System, detect

BOARDS = Path(__file__).parents[1] / "data/boards"
ARM = ("asimd", "asimdhp", "asimddp")
DEBIAN = "Debian GNU/Linux 12 (bookworm)"
EXPECTED = {
    "arm-generic": System(
        architecture="aarch64",
        cpu="Cortex-A55, Cortex-A76",
        model="Radxa ROCK 5B",
        soc="rk3588",
        cores=8,
        memory_bytes=16203164 * 1024,
        os=DEBIAN,
        glibc="2.36",
        python="3.11",
        features=ARM,
    ),
    "cuda-server": System(
        architecture="x86_64",
        cpu="Intel(R) Xeon(R) Platinum 8480+",
        cores=224,
        memory_bytes=1056270352 * 1024,
        os="Ubuntu 24.04.2 LTS",
        glibc="2.39",
        python="3.12",
        gpus=("NVIDIA H100 80GB HBM3",),
        driver="595.71.05",
        cuda="13.0",
        features=("avx2", "avx_vnni", "avx512f", "avx512_vnni"),
    ),
    "jetson-orin": System(
        architecture="aarch64",
        cpu="Cortex-A78AE",
        model="NVIDIA Jetson AGX Orin Developer Kit",
        soc="tegra234",
        cores=12,
        memory_bytes=64335836 * 1024,
        os="Ubuntu 22.04.5 LTS",
        glibc="2.35",
        python="3.10",
        l4t="36.4.3",
        jetpack="6.2",
        driver="540.4.0",
        cuda="12.6",
        features=ARM,
    ),
    "jetson-thor": System(
        architecture="aarch64",
        cpu="Neoverse-V3AE",
        model="NVIDIA Jetson AGX Thor Developer Kit",
        soc="tegra264",
        cores=14,
        memory_bytes=128811544 * 1024,
        os="Ubuntu 24.04.3 LTS",
        glibc="2.39",
        python="3.12",
        l4t="38.2.0",
        jetpack="7.0",
        driver="580.00",
        cuda="13.0",
        features=(*ARM, "i8mm", "bf16", "sve", "sve2"),
    ),
    "raspberry-pi-5": System(
        architecture="aarch64",
        cpu="Cortex-A76",
        model="Raspberry Pi 5 Model B Rev 1.0",
        soc="bcm2712",
        cores=4,
        memory_bytes=8255664 * 1024,
        os=DEBIAN,
        glibc="2.36",
        python="3.11",
        features=ARM,
    ),
    "x86-server": System(
        architecture="x86_64",
        cpu="AMD EPYC",
        cores=2,
        memory_bytes=24684092 * 1024,
        os=DEBIAN,
        glibc="2.36",
        python="3.11",
        features=("avx2", "avx_vnni", "avx512f", "avx512_vnni"),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_systems(name):
    assert detect(BOARDS / name) == EXPECTED[name]


def test_every_recorded_system_is_tested():
    assert {path.name for path in BOARDS.iterdir() if path.is_dir()} == set(EXPECTED)


def test_this_system():
    import onnxruntime

    system = detect()
    assert system.architecture == platform.machine()
    assert system.python == ".".join(platform.python_version_tuple()[:2])
    assert system.cores == len(os.sched_getaffinity(0))
    assert system.providers == tuple(onnxruntime.get_available_providers())
    assert system.onnxruntime.split(" ")[1] == onnxruntime.__version__
    assert system.cpu
    assert system.memory_bytes > 1 << 28
    assert platform.libc_ver()[1].startswith(system.glibc)
    assert system.glibc


def test_another_root_says_nothing_of_this_process(tmp_path):
    assert detect(tmp_path) == System()
    assert detect(tmp_path / "missing") == System()


def test_32_bit_programs_on_a_64_bit_kernel(monkeypatch):
    monkeypatch.setattr("struct.calcsize", lambda _: 4)
    assert detect().architecture == f"{platform.machine()} with 32-bit Python"


@pytest.mark.parametrize("content", [b"", b"\0" * 100, bytes(range(256)) * 99, b"a" * (17 << 20)])
def test_files_that_say_nothing(content, tmp_path):
    shutil.copytree(BOARDS / "jetson-orin", tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    system = detect(tmp_path)
    assert system == System(model=system.model)
    assert len(system.model) <= 120
    assert system.model.isprintable()


def test_files_that_are_none(tmp_path):
    shutil.copytree(BOARDS / "cuda-server", tmp_path, dirs_exist_ok=True)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.unlink()
        path.mkdir()
    information = next(tmp_path.glob("proc/driver/nvidia/gpus/*/information"))
    information.rmdir()
    os.mkfifo(information)
    (tmp_path / "proc/cpuinfo").rmdir()
    (tmp_path / "proc/cpuinfo").symlink_to("cpuinfo")
    assert detect(tmp_path) == System()


def test_only_the_beginning_of_a_huge_file_is_read(tmp_path):
    (tmp_path / "proc").mkdir()
    total = b"MemTotal: 8 kB\n"
    (tmp_path / "proc/meminfo").write_bytes(b"\n" * ((1 << 24) - len(total)) + total)
    assert detect(tmp_path).memory_bytes == 8192
    (tmp_path / "proc/meminfo").write_bytes(b"\n" * (1 << 24) + total)
    assert detect(tmp_path).memory_bytes == 0


def test_second_places(tmp_path):
    """Distributions without /etc/os-release, kernels without /proc/device-tree."""
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("PRETTY_NAME='A b'\n")
    (tmp_path / "sys/firmware/devicetree/base").mkdir(parents=True)
    (tmp_path / "sys/firmware/devicetree/base/model").write_bytes(b"M\0")
    (tmp_path / "sys/firmware/devicetree/base/compatible").write_bytes(b"a,b\0")
    assert detect(tmp_path) == System(os="A b", model="M", soc="b")


# Parsers


def test_cpu():
    assert parse.cpu("model name\t: A  B\nmodel name\t: A B\nmodel name\t: C") == "A B, C"
    core = "CPU implementer\t: {}\nCPU part\t: {}\n"
    # Linux for Tegra 32 had a model name, too; the part says more.
    assert parse.cpu("model name : ARMv8\n" + core.format("0x4e", "0x004")) == "NVIDIA Carmel"
    assert parse.cpu(core.format("0x41", "0xD08")) == "Cortex-A72"
    assert parse.cpu(core.format("0x48", "0xd01")) == "Arm implementer 0x48 part 0xd01"
    assert parse.cpu("CPU implementer : 0x41\nmodel name : X") == "X"
    assert parse.cpu("Hardware : BCM2835") == ""


def test_arm_cores_are_unlike():
    assert len(set(parse.ARM_CORES.values())) == len(parse.ARM_CORES)


def test_architecture():
    x86, arm = "flags : fpu lm sse\n", "CPU implementer : 0x41\nCPU architecture: 8\n"
    assert parse.architecture(x86) == "x86_64"
    assert parse.architecture("flags : fpu sse\n") == ""
    assert parse.architecture(arm + "Features : fp asimd\n") == "aarch64"
    assert parse.architecture(arm + "Features : half neon\n") == ""
    assert parse.architecture(arm.replace(": 8", ": 7") + "Features : fp asimd\n") == ""
    assert parse.architecture("CPU architecture: 8\nFeatures : asimd\n") == ""


def test_features_are_whole_words():
    assert parse.features("flags : avx2x notavx512f avx512_vnni\n") == ("avx512_vnni",)
    assert parse.features("Features : asimddp fp\n") == ("asimddp",)


def test_cores():
    assert parse.cores("0-3\n", "") == 4
    assert parse.cores("0", "") == 1
    assert parse.cores("0-3,8,10-11\n", "processor : 0\n") == 7
    assert parse.cores("3-0", "") == 0
    assert parse.cores("all", "processor\t: 0\n\nprocessor\t: 1\n") == 2
    assert parse.cores("0-3,", "processor : 0\n") == 1


def test_memory():
    assert parse.memory_bytes("MemFree: 3 kB\nMemTotal:   5 kB\n") == 5120
    assert parse.memory_bytes("XMemTotal: 5 kB\nMemTotal: 5 MB") == 0


def test_os_name():
    assert parse.os_name('NAME="x"\nPRETTY_NAME="A \x1b[1m B"\n') == "A [1m B"
    assert parse.os_name("PRETTY_NAME=Alpine\n") == "Alpine"
    assert parse.os_name("NOT_PRETTY_NAME=A\n") == ""


def test_device_tree():
    assert parse.device_tree("a b\0c\0\0") == ["a b", "c"]
    assert parse.soc(["nvidia,p3701", "nvidia,tegra234", "nvidia,tegra23x"]) == "tegra234"
    assert parse.soc(["raspberrypi,5-model-b", "brcm,bcm2712"]) == "bcm2712"
    assert parse.soc(["plain"]) == ""
    assert parse.soc([]) == ""


def test_package_version():
    stanza = "Package: {}\nStatus: install ok {}\nVersion: {}\n"
    status = "\n".join(
        [
            stanza.format("libc6-dev", "installed", "1"),
            stanza.format("libc6", "half-installed", "2"),
            stanza.format("libc6", "installed", "2.36-9"),
            "Package: empty\nStatus: install ok installed\n",
        ]
    )
    assert parse.package_version(status, "libc6") == "2.36-9"
    assert parse.package_version(status, "libc") == ""
    assert parse.package_version(status, "empty") == ""


def test_series():
    assert parse.series("2.36-9+deb12u4") == "2.36"
    assert parse.series("1:3.11.2-1+b1") == "3.11"
    assert parse.series("3.12") == "3.12"
    assert parse.series("3") == ""
    assert parse.series("x3.1") == ""
    assert parse.series("9" * 5 + ".1") == ""
    assert parse.series("1." + "9" * 5) == ""


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 4.4, GCID: 1", "36.4.4", "6.2.1"),
        ("# R36 (release), REVISION: 5.2, GCID: 1", "36.5.2", "6"),
        ("# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref", "35.4.1", "5"),
        ("# R32 (release), REVISION: 7.1, GCID: 1", "32.7.1", "4"),
        ("# R38 (release), REVISION: 4.0, GCID: 1", "38.4.0", "7.1"),
        ("# R39 (release), REVISION: 2.0, GCID: 1", "39.2.0", "7.2"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", ""),
        ("R36, REVISION: 4.3", "", ""),
    ],
)
def test_l4t(release, l4t, jetpack):
    assert parse.l4t(release) == l4t
    assert parse.jetpack("", l4t) == jetpack


def test_the_package_says_more_than_the_release():
    status = "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: {}\n"
    assert parse.jetpack(status.format("6.2.1+b38"), "36.5.2") == "6.2.1"
    assert parse.jetpack(status.format("5.1.2-b104"), "") == "5.1.2"
    assert parse.jetpack(status.format("none"), "36.3.0") == "6.0"


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build", "540.4.0"),
        ("NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC", "550.54.14"),
        ("NVIDIA UNIX x86_64 Kernel Module  390.157  Wed Oct 12", "390.157"),
        ("NVIDIA UNIX Open Kernel Module for aarch64  35.3.1  Release Build", "35.3.1"),
        ("none", ""),
        ("9" * 5000 + ".1", ""),
    ],
)
def test_driver(line, version):
    assert parse.driver(f"NVRM version: {line}\nGCC version:  gcc version 12.2.0") == version
    assert parse.driver("GCC version:  gcc version 12.2.0") == ""


def test_gpu():
    assert parse.gpu("Model: \t\t NVIDIA H100 PCIe\nIRQ: 3\n") == "NVIDIA H100 PCIe"
    assert parse.gpu("IRQ: 3\n") == ""


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "3", '{"cuda": 3}', '{"cuda": {}}', "[" * 99999, '{"cuda": []}']
)
def test_cuda_versions_that_are_none(text):
    assert parse.cuda(text) == ""


def test_plain():
    assert parse.plain("a\n\tb\x1b\u202e é") == "a b é"
    assert parse.plain("a" * 500) == "a" * 120


WORDS = """model name|flags|CPU implementer|CPU part|:|\n|0x41|0-9|Package|MemTotal:| kB|\0|"|.|1
|# R36 (release), REVISION:|NVRM version:"""
TEXTS = st.text(max_size=300) | st.lists(st.sampled_from(WORDS.split("|")), max_size=30).map(
    " ".join
)


@given(TEXTS, TEXTS)
@settings(max_examples=200, deadline=None)
def test_parsers_take_any_text(one, other):
    assert parse.cpu(one).isprintable()
    assert parse.architecture(one) in ("", "x86_64", "aarch64")
    assert parse.cores(one, other) >= 0
    assert parse.memory_bytes(one) >= 0
    for text in (parse.os_name(one), parse.l4t(one), parse.jetpack(one, other), parse.driver(one)):
        assert text.isprintable()
        assert len(text) <= 120
    assert parse.gpu(one).isprintable()
    assert parse.cuda(one) == parse.series(parse.cuda(one))
    assert all(name.isprintable() for name in parse.device_tree(one))
    assert set(parse.features(one)) <= set(parse.FEATURES)


def test_detection_needs_no_heavy_module(tmp_path):
    code = (
        "import sys; from noisystore.runtime.board_system import detect;"
        f"detect({str(tmp_path)!r});"
        "print([m for m in ('onnxruntime', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
