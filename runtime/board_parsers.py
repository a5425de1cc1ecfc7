# SPDX-License-Identifier: Apache-2.0
"""What the system files of a board say: each function takes a text and never fails on it."""

from __future__ import annotations

import json
import re

#: Names of Arm cores by implementer and part (Arm's and NVIDIA's; Linux: arch/arm64 cputype.h).
ARM_CORES = {
    ("41", "d03"): "Cortex-A53",
    ("41", "d04"): "Cortex-A35",
    ("41", "d05"): "Cortex-A55",
    ("41", "d07"): "Cortex-A57",
    ("41", "d08"): "Cortex-A72",
    ("41", "d09"): "Cortex-A73",
    ("41", "d0a"): "Cortex-A75",
    ("41", "d0b"): "Cortex-A76",
    ("41", "d0c"): "Neoverse-N1",
    ("41", "d0d"): "Cortex-A77",
    ("41", "d0e"): "Cortex-A76AE",
    ("41", "d40"): "Neoverse-V1",
    ("41", "d41"): "Cortex-A78",
    ("41", "d42"): "Cortex-A78AE",
    ("41", "d44"): "Cortex-X1",
    ("41", "d46"): "Cortex-A510",
    ("41", "d47"): "Cortex-A710",
    ("41", "d48"): "Cortex-X2",
    ("41", "d49"): "Neoverse-N2",
    ("41", "d4b"): "Cortex-A78C",
    ("41", "d4d"): "Cortex-A715",
    ("41", "d4e"): "Cortex-X3",
    ("41", "d4f"): "Neoverse-V2",
    ("41", "d80"): "Cortex-A520",
    ("41", "d81"): "Cortex-A720",
    ("41", "d82"): "Cortex-X4",
    ("41", "d83"): "Neoverse-V3AE",
    ("41", "d84"): "Neoverse-V3",
    ("41", "d85"): "Cortex-X925",
    ("41", "d87"): "Cortex-A725",
    ("41", "d8e"): "Neoverse-N3",
    ("4e", "003"): "NVIDIA Denver 2",
    ("4e", "004"): "NVIDIA Carmel",
}

#: Features of processors that decide which kernels ONNX Runtime and the operator use.
FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)

#: JetPack of a Linux for Tegra; of others the first number alone is known.
JETPACKS = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2.0": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
_JETPACK_SERIES = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}


def plain(text: str, longest: int = 120) -> str:
    """Return one printable line of a text that may hold anything."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:longest].rstrip()


def fields(cpuinfo: str, name: str) -> list[str]:
    """Return all values of a field of ``/proc/cpuinfo``, in order."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return [value.strip() for key, colon, value in pairs if colon and key.strip() == name]


def cpu(cpuinfo: str) -> str:
    """Return the processor's name; of Arm the kinds of its cores, each once."""
    names = [plain(name) for name in fields(cpuinfo, "model name")]
    makers, parts = fields(cpuinfo, "CPU implementer"), fields(cpuinfo, "CPU part")
    if makers and len(makers) == len(parts):
        names = []
        for maker, part in zip(makers, parts, strict=True):
            key = maker.lower().removeprefix("0x"), part.lower().removeprefix("0x")
            names.append(ARM_CORES.get(key) or plain(f"Arm implementer {maker} part {part}", 60))
    return ", ".join(dict.fromkeys(name for name in names if name))


def architecture(cpuinfo: str) -> str:
    """Return ``x86_64``, ``aarch64`` or an empty text."""
    if "lm" in " ".join(fields(cpuinfo, "flags")).split():
        return "x86_64"
    arm = "8" in fields(cpuinfo, "CPU architecture") and fields(cpuinfo, "CPU implementer")
    # A 32-bit kernel calls it neon.
    return "aarch64" if arm and "asimd" in features(cpuinfo) else ""


def features(cpuinfo: str) -> tuple[str, ...]:
    """Return those of `FEATURES` that the processor has."""
    words = set(" ".join(fields(cpuinfo, "flags") + fields(cpuinfo, "Features")).split())
    return tuple(feature for feature in FEATURES if feature in words)


def cores(online: str, cpuinfo: str) -> int:
    """Return the number of processors of ``/sys/devices/system/cpu/online``, as ``0-3,8``.

    Where that is no such list: how many ``/proc/cpuinfo`` lists.
    """
    if re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", online.strip()):
        ranges = [[int(n) for n in part.split("-")] for part in online.strip().split(",")]
        return sum(max(0, r[-1] - r[0] + 1) for r in ranges)
    return len(fields(cpuinfo, "processor"))


def memory_bytes(meminfo: str) -> int:
    """Return the total memory of ``/proc/meminfo``, or 0."""
    found = re.search(r"^MemTotal:\s+(\d{1,15}) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def os_name(os_release: str) -> str:
    """Return PRETTY_NAME of ``/etc/os-release``."""
    found = re.search(r"^PRETTY_NAME=(.*)$", os_release, re.MULTILINE)
    return plain(found[1].strip().strip("\"'")) if found else ""


def device_tree(text: str) -> list[str]:
    """Return the texts of a device-tree property, which zero bytes end."""
    return [name for name in (plain(part) for part in text.split("\0")) if name]


def soc(compatible: list[str]) -> str:
    """Return the chip: what the device tree's ``compatible`` names last, without its maker."""
    # The last may be a family (tegra23x), of which the one before is the member.
    chips = [name.partition(",")[2] for name in compatible]
    plain_chips = [chip for chip in chips if re.fullmatch(r"[A-Za-z0-9._-]{1,40}", chip)]
    return next((chip for chip in reversed(plain_chips) if not chip.endswith("x")), "")


def package_version(status: str, package: str) -> str:
    """Return the version of an installed package in ``/var/lib/dpkg/status``."""
    for stanza in re.split(r"\n\s*\n", status):
        lines = stanza.splitlines()
        if f"Package: {package}" in lines and "Status: install ok installed" in lines:
            versions = [line[9:] for line in lines if line.startswith("Version: ")]
            return plain(versions[0], 60) if versions else ""
    return ""


def series(version: str) -> str:
    """Return the first two numbers of a version, as ``2.36`` of ``2.36-9+deb12u4``."""
    found = re.match(r"(?:\d+:)?(\d{1,4}\.\d{1,4})(?!\d)", version)
    return found[1] if found else ""


def l4t(release: str) -> str:
    """Return the Linux for Tegra of ``/etc/nv_tegra_release``, as ``36.4.3``."""
    found = re.search(r"# R(\d{2,3}) \(release\), REVISION: (\d{1,4}(?:\.\d{1,4})*)", release)
    return f"{found[1]}.{found[2]}" if found else ""


def jetpack(status: str, l4t_version: str) -> str:
    """Return the JetPack of package ``nvidia-jetpack``, else of the Linux for Tegra."""
    found = re.match(r"\d{1,4}(\.\d{1,4})+", package_version(status, "nvidia-jetpack"))
    if found:
        return found[0]
    return JETPACKS.get(l4t_version) or _JETPACK_SERIES.get(l4t_version.split(".")[0], "")


def driver(version: str) -> str:
    """Return the driver's version of ``/proc/driver/nvidia/version``."""
    line = next((x for x in version.splitlines() if x.startswith("NVRM version:")), "")
    found = re.search(r"(?<![\w.])\d{1,6}(\.\d{1,6})+(?![\w.])", line)
    return found[0] if found else ""


def gpu(information: str) -> str:
    """Return the model of ``/proc/driver/nvidia/gpus/*/information``."""
    return plain(next(iter(fields(information, "Model")), ""))


def cuda(version_json: str) -> str:
    """Return the toolkit's version of ``/usr/local/cuda/version.json``, as ``12.6``."""
    try:
        return series(str(json.loads(version_json)["cuda"]["version"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
