# SPDX-License-Identifier: Apache-2.0
"""Energy that the machine takes while something runs, from the meters that it has in itself."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

#: Seconds between two readings.
INTERVAL = 0.05

_NOTHING = "no meter found (RAPL, INA3221, INA238)"

# Rails that feed the others, outermost first: counting these as well would count twice.
_WHOLE_BOARD = ("VIN", "VDD_IN", "POM_5V_IN")
# On a Jetson AGX Orin this rail draws from VIN_SYS_5V0.
_INNER_RAILS = ("VDDQ_VDD2_1V8AO",)


#: More than a machine takes; and the time that a counter may lag behind.
_MOST_WATTS, _LEAST_SECONDS = 20e3, 1.0


@dataclass(frozen=True)
class Meter:
    """One thing whose energy can be told.

    Attributes
    ----------
    name : str
        As the system calls it, such as ``package-0`` or ``VDD_IN``.
    read : callable
        Returns joules counted so far, or watts; raises OSError or ValueError.
    counted : bool
        Whether it is part of the total; if not, another meter includes it.
    counter : bool
        Whether `read` counts joules.
    wraps_at : float
        Joules after which a counter begins at 0 again.
    """

    name: str
    read: Callable[[], float]
    counted: bool = True
    counter: bool = False
    wraps_at: float = math.inf

    def joules(self, before: float, after: float, seconds: float) -> float:
        """Return the energy between two readings.

        Raises
        ------
        ValueError
            A counter jumped: back, though it does not wrap, or by more than any machine takes.
        """
        if not self.counter:
            return (before + after) / 2 * seconds
        spent = after - before if after >= before else after - before + self.wraps_at
        if not spent <= _MOST_WATTS * max(seconds, _LEAST_SECONDS):
            raise ValueError(f"{self.name}: the counter jumped from {before:g} to {after:g} J")
        return spent


@dataclass(frozen=True)
class Meters:
    """The meters of a machine.

    Attributes
    ----------
    found : tuple of Meter
    missing : str
        Why there is none, or why one of several is not there; else empty.
    """

    found: tuple[Meter, ...]
    missing: str = ""

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the meters that make the total."""
        return tuple(meter.name for meter in self.found if meter.counted)


def find_meters(root: str | os.PathLike[str] = "/", gpu: bool = False) -> Meters:
    """Find what measures energy or power in this machine.

    Parameters
    ----------
    root : path
        Where ``sys/`` lies.
    gpu : bool
        Whether to ask NVIDIA's management library for an accelerator's energy, too.

    Returns
    -------
    Meters

    Notes
    -----
    - RAPL of x86 processors: the zones ``package-*`` and ``dram`` of ``/sys/class/powercap``.
    - INA3221 on Jetson boards: voltage times current of each rail (JetPack 5 and newer), or its
      power (JetPack 4). Where a rail feeds the whole module or board, it alone is counted.
    - INA238 on Jetson Thor: the power of the board's supply.
    - NVML: the energy counter of the one GPU that is visible; a board's rails include its GPU.
    """
    top = Path(root)
    found: list[Meter] = []
    missing = []
    kinds: list[Callable[[], list[Meter]]] = [lambda: _rapl(top), lambda: _rails(top)]
    if gpu:
        from .energy_gpu import gpu_meters

        kinds.append(lambda: gpu_meters() if all(meter.counter for meter in found) else [])
    for kind in kinds:
        try:
            meters = kind()
            for meter in meters:
                meter.read()
        except (OSError, ValueError) as error:
            missing.append(_reason(error))
        else:
            found += meters
    return Meters(tuple(found), "; ".join(missing) or ("" if found else _NOTHING))


@dataclass
class Energy(contextlib.AbstractContextManager["Energy"]):
    """Takes readings from entry to exit, in a thread of its own, and adds them up.

    Parameters
    ----------
    meters : sequence of Meter
        At least one.
    clock : callable
        Seconds.
    interval : float or None
        Seconds between readings; None: no thread, `sample` is called by others.

    Attributes
    ----------
    joules : dict of float
        By name of the meter.
    seconds : float
        Between first and last reading.
    failure : str
        Why the sums are worth nothing; else empty.
    """

    meters: Sequence[Meter]
    clock: Callable[[], float] = time.perf_counter
    interval: float | None = INTERVAL
    joules: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""

    def __post_init__(self) -> None:
        self.joules = {meter.name: 0.0 for meter in self.meters}
        self._last: list[tuple[float, float]] = []
        self._start = 0.0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def total(self) -> float:
        """Joules of all meters that count."""
        return sum(self.joules[meter.name] for meter in self.meters if meter.counted)

    def sample(self) -> None:
        """Take one reading of every meter, and add what it says about the time since the last."""
        if self.failure:
            return
        try:
            # Each meter has its own time: a slow one must not spoil the others.
            now = [(self.clock(), meter.read()) for meter in self.meters]
            spent = [
                meter.joules(before[1], after[1], after[0] - before[0])
                for meter, before, after in zip(self.meters, self._last or now, now, strict=True)
            ]
        except (OSError, ValueError) as error:
            self.failure = _reason(error)
            return
        if not self._last:
            self._start = now[0][0]
        for meter, joules in zip(self.meters, spent, strict=True):
            self.joules[meter.name] += joules
        self._last = now
        self.seconds = now[0][0] - self._start

    def __enter__(self) -> Energy:
        self.sample()
        if self.interval is not None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def _run(self) -> None:
        while not self._done.wait(self.interval):
            self.sample()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._done.set()
            self._thread.join()
        self.sample()


def _rapl(top: Path) -> list[Meter]:
    """Energy counters of processors and their memory.

    A zone ``intel-rapl:0:1`` lies in ``intel-rapl:0``. The zones ``core`` and ``uncore`` are part
    of their package, and ``psys`` includes it.
    """
    meters = []
    zones = top / "sys/class/powercap"
    for zone in sorted(zones.glob("intel-rapl:*")):
        name = _text(zone / "name")
        if name != "dram" and not name.startswith("package"):
            continue
        if name == "dram":
            name = f"{_text(zones / zone.name.rpartition(':')[0] / 'name')}/dram"
        wraps_at = _number(zone / "max_energy_range_uj") * 1e-6
        read = _scaled(zone / "energy_uj", 1e-6)
        meters.append(Meter(name, read, counter=True, wraps_at=wraps_at))
    return meters


def _rails(top: Path) -> list[Meter]:
    """Rails of Jetson boards."""
    drivers = top / "sys/bus/i2c/drivers"
    rails: dict[str, Callable[[], float]] = {}
    for label in sorted(drivers.glob("ina3221/*/hwmon/hwmon*/in[123]_label")):
        channel = label.name[2]
        voltage, current = (label.with_name(f"{q}{channel}_input") for q in ("in", "curr"))
        name = _text(label)
        if name != "NC" and _works(voltage):
            rails[name] = _product(voltage, current)
    for label in sorted(drivers.glob("ina3221x/*/iio:device*/rail_name_[012]")):
        name = _text(label)
        if name != "NC":
            rails[name] = _scaled(label.with_name(f"in_power{label.name[-1]}_input"), 1e-3)
    for power in sorted(drivers.glob("ina238/*/hwmon/hwmon*/power1_input")):
        rails["VIN"] = _scaled(power, 1e-6)
    whole = [name for name in _WHOLE_BOARD if name in rails][:1]
    counted = whole or [name for name in rails if name not in _INNER_RAILS]
    return [Meter(name, read, counted=name in counted) for name, read in rails.items()]


def _works(path: Path) -> bool:
    """Return whether a channel is on: the driver says "no data" for those that are not."""
    try:
        _text(path)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return False
        raise
    return True


def _scaled(path: Path, unit: float) -> Callable[[], float]:
    return lambda: _number(path) * unit


def _product(voltage: Path, current: Path) -> Callable[[], float]:
    """Power in watts of millivolts and milliamperes."""
    return lambda: _number(voltage) * _number(current) * 1e-6


def _number(path: Path) -> float:
    text = _text(path)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: expected a number, got {text[:20]!a}")
    return value


def _text(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(256).decode(errors="replace").strip()


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"no permission to read {error.filename}"
    if isinstance(error, OSError):
        return f"cannot read {error.filename}: {error.strerror}"
    return str(error)
