# SPDX-License-Identifier: Apache-2.0
"""What system this is, read from files below a root folder: `/`, or a recorded tree."""

from __future__ import annotations

import os
import platform
import stat
import struct
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import board_parsers as parse

# A status file of dpkg has some megabytes.
_MOST_BYTES = 1 << 24
_MOST_GPUS = 64


@dataclass(frozen=True)
class System:
    """One system; a text that is not known is empty, a number 0.

    Attributes
    ----------
    architecture : str
        ``x86_64`` or ``aarch64``, or whatever else the system calls itself.
    cpu : str
        The processor's name; of Arm the kinds of its cores.
    model, soc : str
        The device tree's model and chip (boards only).
    cores : int
        Processors that may be used.
    memory_bytes : int
    os, glibc, python : str
        Operating system, and versions as in ``2.36`` and ``3.11``.
    l4t, jetpack : str
        Linux for Tegra and JetPack of a Jetson.
    gpus : tuple of str
        NVIDIA's GPUs.
    driver, cuda : str
        Versions of NVIDIA's driver and of the CUDA toolkit.
    features : tuple of str
        Of the processor: `board_parsers.FEATURES`.
    onnxruntime : str
        Installed package and version, as ``onnxruntime 1.32.0``; for the running system only.
    providers : tuple of str
        Execution providers of that package.
    """

    architecture: str = ""
    cpu: str = ""
    model: str = ""
    soc: str = ""
    cores: int = 0
    memory_bytes: int = 0
    os: str = ""
    glibc: str = ""
    python: str = ""
    l4t: str = ""
    jetpack: str = ""
    gpus: tuple[str, ...] = ()
    driver: str = ""
    cuda: str = ""
    features: tuple[str, ...] = ()
    onnxruntime: str = ""
    providers: tuple[str, ...] = ()


def detect(root: str | os.PathLike[str] = "/") -> System:
    """Return what the files below `root` say, and for ``/`` what this process sees.

    Files that are missing, empty or something else leave their attributes empty.

    Parameters
    ----------
    root : path of a folder
    """
    top = Path(root)
    live = os.path.abspath(top) == os.path.abspath("/")
    cpuinfo = _read(top / "proc/cpuinfo")
    status = _read(top / "var/lib/dpkg/status")
    tree = ("proc/device-tree", "sys/firmware/devicetree/base")
    compatible = parse.device_tree(_first(top, *(f"{folder}/compatible" for folder in tree)))
    model = parse.device_tree(_first(top, *(f"{folder}/model" for folder in tree)))
    l4t = parse.l4t(_read(top / "etc/nv_tegra_release"))
    onnxruntime, providers = _onnxruntime() if live else ("", ())
    return System(
        architecture=_architecture() if live else parse.architecture(cpuinfo),
        cpu=parse.cpu(cpuinfo),
        model=model[0] if model else "",
        soc=parse.soc(compatible),
        cores=len(os.sched_getaffinity(0))
        if live
        else parse.cores(_read(top / "sys/devices/system/cpu/online"), cpuinfo),
        memory_bytes=parse.memory_bytes(_read(top / "proc/meminfo")),
        os=parse.os_name(_first(top, "etc/os-release", "usr/lib/os-release")),
        glibc=parse.series(platform.libc_ver()[1] if live else "")
        or parse.series(parse.package_version(status, "libc6")),
        python=f"{sys.version_info[0]}.{sys.version_info[1]}"
        if live
        else parse.series(parse.package_version(status, "python3")),
        l4t=l4t,
        jetpack=parse.jetpack(status, l4t),
        gpus=gpus(top),
        driver=parse.driver(_read(top / "proc/driver/nvidia/version")),
        cuda=parse.cuda(_read(top / "usr/local/cuda/version.json")),
        features=parse.features(cpuinfo),
        onnxruntime=onnxruntime,
        providers=providers,
    )


def _architecture() -> str:
    # A 64-bit kernel may run a 32-bit system, as Raspberry Pi OS does in its 32-bit form.
    bits = 8 * struct.calcsize("P")
    return platform.machine() if bits == 64 else f"{platform.machine()} with {bits}-bit Python"


def _onnxruntime() -> tuple[str, tuple[str, ...]]:
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            name = f"{package} {version(package)}"
            import onnxruntime

            return name, tuple(onnxruntime.get_available_providers())
        except (PackageNotFoundError, ImportError):
            continue
    return "", ()


def gpus(top: Path) -> tuple[str, ...]:
    """Return the models of NVIDIA's GPUs, as their driver's files below `top` name them."""
    try:
        folders = sorted((top / "proc/driver/nvidia/gpus").iterdir())[:_MOST_GPUS]
    except OSError:
        return ()
    models = (parse.gpu(_read(folder / "information")) for folder in folders)
    return tuple(model for model in models if model)


def _first(top: Path, *names: str) -> str:
    return next((text for text in (_read(top / name) for name in names) if text), "")


def _read(path: Path) -> str:
    """Text of a regular file, its first megabytes; empty where there is none."""
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""
