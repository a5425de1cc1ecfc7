# SPDX-License-Identifier: Apache-2.0
"""Energy meters, on listings of system files that other people published."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from sensor_files import lay_out, put

from noisystore.runtime import energy
from noisystore.runtime.energy import Energy, find_meters

RAPL = "sys/class/powercap"
ORIN_NANO = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("listing", "counted", "readings"),
    [
        ("x86-haswell", ["package-0", "package-0/dram"], [21903.611938, 2469.474853]),
        (
            "x86-two-packages",
            ["package-0", "package-0/dram", "package-1", "package-1/dram"],
            [190522.318022, 40110.238011, 188004.101711, 39820.011907],
        ),
        ("jetson-orin-nano", ["VDD_IN"], [5.08, 1.016, 1.50368]),
        (
            "jetson-agx-orin",
            ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
            [2.39712, 0.79904, 4.729536, 0.39744],
        ),
        ("jetson-nano", ["POM_5V_IN"], [2.254, 0.040, 0.442]),
        ("jetson-thor", ["VIN"], [3.012, 5.04, 30.024]),
    ],
)
def test_what_is_counted_and_read(tmp_path, listing, counted, readings):
    meters = find_meters(lay_out(listing, tmp_path))
    assert meters.missing == ""
    assert list(meters.counted) == counted
    # Joules of counters, watts of rails.
    assert [meter.read() for meter in meters.found] == pytest.approx(readings)
    assert all(meter.counter == listing.startswith("x86") for meter in meters.found)


def test_counters_wrap_around(tmp_path):
    meters = find_meters(lay_out("x86-haswell", tmp_path)).found
    package, memory = (tmp_path / RAPL / f"intel-rapl:{zone}/energy_uj" for zone in ("0", "0:2"))
    clock = Clock()
    put(package, 262143999938 - 1_500_000)
    with Energy(meters, clock, interval=None) as spent:
        clock.now += 2
        put(package, 500_000)  # 2 J
        put(memory, 2469474853 + 250_000)
        spent.sample()
        clock.now += 3
        put(package, 1_000_000)
    assert spent.seconds == 5
    assert spent.joules == pytest.approx({"package-0": 2 + 0.5, "package-0/dram": 0.25})
    assert spent.total == pytest.approx(2 + 0.5 + 0.25)


def test_a_counter_that_jumps_is_no_energy(tmp_path):
    """One that was set to 0 looks as if it had gone once around; one without an end goes back."""
    meters = find_meters(lay_out("x86-haswell", tmp_path)).found
    package = tmp_path / RAPL / "intel-rapl:0/energy_uj"
    clock = Clock()
    put(package, 5_000_000)
    with Energy(meters, clock, interval=None) as spent:
        clock.now += 1
        put(package, 0)
    assert spent.failure == "package-0: the counter jumped from 5 to 0 J"
    gpu = energy.Meter("gpu", lambda: 0.0, counter=True)
    assert gpu.joules(4, 5, 1) == 1
    with pytest.raises(ValueError, match="gpu: the counter jumped from 5 to 4 J"):
        gpu.joules(5, 4, 1)


def test_power_is_integrated(tmp_path):
    meters = find_meters(lay_out("jetson-orin-nano", tmp_path)).found
    current = tmp_path / ORIN_NANO / "curr1_input"
    put(tmp_path / ORIN_NANO / "in1_input", 5000)
    clock = Clock()
    put(current, 1000)
    with Energy(meters, clock, interval=None) as spent:
        clock.now += 1
        put(current, 2000)
        spent.sample()
        clock.now += 0.5
        put(current, 400)
        spent.sample()
        clock.now += 2
    # 5 to 10 W in 1 s, 10 to 2 W in 0.5 s, 2 W for 2 s.
    assert spent.joules["VDD_IN"] == pytest.approx(7.5 + 3 + 4)
    assert spent.total == spent.joules["VDD_IN"]
    assert spent.joules["VDD_SOC"] == pytest.approx(5.08 * 0.296 * 3.5)


def test_a_thread_takes_the_readings(tmp_path):
    meters = find_meters(lay_out("jetson-nano", tmp_path)).found
    power = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input"
    put(power, 2000)
    expected = 0.0
    with Energy(meters, interval=0.01) as spent:
        for milliwatts in (2000, 60000, 2000):
            put(power, milliwatts)
            start = time.perf_counter()
            time.sleep(0.3)
            expected += milliwatts / 1000 * (time.perf_counter() - start)
    assert spent.failure == ""
    assert spent.seconds >= 0.9
    # First and last reading alone would give 1.8 J instead of 19 J.
    assert spent.total == pytest.approx(expected, rel=0.25)


def test_a_meter_that_breaks_down(tmp_path):
    meters = find_meters(lay_out("jetson-orin-nano", tmp_path)).found
    current = tmp_path / ORIN_NANO / "curr1_input"
    with Energy(meters, interval=0.005) as spent:
        put(current, "4?")
        time.sleep(0.1)
        put(current, 1000)
    assert spent.failure == f"{current}: expected a number, got '4?'"


def test_nothing_there(tmp_path):
    meters = find_meters(tmp_path)
    assert meters.found == ()
    assert meters.missing == "no meter found (RAPL, INA3221, INA238)"


@pytest.mark.parametrize("content", ["", "package energy", "nan", "\xff", "-inf"])
def test_damaged_counters(tmp_path, content):
    path = lay_out("x86-haswell", tmp_path) / RAPL / "intel-rapl:0/energy_uj"
    put(path, content)
    meters = find_meters(tmp_path)
    assert meters.found == ()
    assert meters.missing.startswith(f"{path}: expected a number, got '")
    assert meters.missing.isascii()


def test_files_that_are_missing(tmp_path):
    # Without one of its counters a sum would be too small: none is given.
    path = lay_out("x86-two-packages", tmp_path) / RAPL / "intel-rapl:1/max_energy_range_uj"
    path.unlink()
    meters = find_meters(tmp_path)
    assert meters.found == ()
    assert meters.missing == f"cannot read {path}: {os.strerror(errno.ENOENT)}"


def test_one_kind_of_several(tmp_path):
    # A kind that cannot be read does not spoil another.
    lay_out("jetson-nano", lay_out("x86-haswell", tmp_path))
    (tmp_path / RAPL / "intel-rapl:0/energy_uj").unlink()
    meters = find_meters(tmp_path)
    assert meters.counted == ("POM_5V_IN",)
    assert "energy_uj" in meters.missing


def test_no_permission():
    # In a folder that everybody may enter: pytest's own is closed to others.
    with tempfile.TemporaryDirectory() as name:
        root = lay_out("x86-haswell", Path(name))
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o755)
        path = root / RAPL / "intel-rapl:0/energy_uj"
        path.chmod(0o400 if os.geteuid() == 0 else 0)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            meters = find_meters(root)
        finally:
            os.seteuid(was)
    assert meters.found == ()
    assert meters.missing == f"no permission to read {path}"


def test_channels_that_are_off(tmp_path, monkeypatch):
    # Only the driver of a real chip answers "no data".
    lay_out("jetson-agx-orin", tmp_path)
    off = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon4/in2_input"
    read = energy._text

    def text(path):
        if path == off:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), str(path))
        return read(path)

    monkeypatch.setattr(energy, "_text", text)
    meters = find_meters(tmp_path)
    assert [meter.name for meter in meters.found] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    assert meters.missing == ""


NVML = """
#include <string.h>
static unsigned long long energy = 5000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = &energy; return index == 0 ? 0 : 2; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = &energy; return strcmp(uuid, "GPU-1b2c") == 0 ? 0 : 6; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) {
  strncpy(name, "Test 100", size); return device == &energy ? 0 : 2; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *value) {
  if (STATUS != 0) return STATUS;
  *value = energy; energy += 2500; return device == &energy ? 0 : 2; }
const char *nvmlErrorString(int status) { return status == 3 ? "Not Supported" : "Not Found"; }
"""

ASK = """
import json, sys
from noisystore.runtime.energy import Energy, find_meters
meters = find_meters(sys.argv[1], gpu=True)
joules = {}
if meters.found:
    with Energy(meters.found, interval=None) as spent:
        pass
    joules = spent.joules
print(json.dumps([meters.counted, meters.missing, joules]))
"""


@pytest.mark.parametrize(
    ("count", "status", "visible", "names", "missing"),
    [
        (1, 0, "", ["GPU Test 100"], ""),
        (2, 0, "GPU-1b2c", ["GPU Test 100"], ""),
        (2, 0, "0", [], "there are 2; set CUDA_VISIBLE_DEVICES"),
        (2, 0, "GPU-other", [], "nvmlDeviceGetHandleByUUID: Not Found"),
        (1, 3, "", [], "nvmlDeviceGetTotalEnergyConsumption: Not Supported"),
    ],
)
def test_counters_of_a_gpu(tmp_path, count, status, visible, names, missing):
    """The driver's library is replaced by one that is compiled here; the calls are real."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler")
    (tmp_path / "nvml.c").write_text(NVML)
    options = [f"-DCOUNT={count}", f"-DSTATUS={status}", "-shared", "-fPIC"]
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, *options, tmp_path / "nvml.c", "-o", library], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [sys.executable, "-c", ASK, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    counted, said, joules = json.loads(done.stdout)
    assert counted == names
    assert missing in said
    if names:
        assert joules == {"GPU Test 100": pytest.approx(2.5)}
        assert said == ""


def test_rails_of_a_board_include_its_gpu(tmp_path):
    # The management library of a Jetson has no counter: that is no loss.
    meters = find_meters(lay_out("jetson-orin-nano", tmp_path), gpu=True)
    assert (meters.counted, meters.missing) == (("VDD_IN",), "")


def test_no_driver_of_a_gpu(tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a driver")
    meters = find_meters(lay_out("x86-haswell", tmp_path), gpu=True)
    assert meters.counted == ("package-0", "package-0/dram")
    assert meters.missing == "no energy of a GPU: no libnvidia-ml.so.1"
