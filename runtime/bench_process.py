# SPDX-License-Identifier: Apache-2.0
"""Start-up time and memory of a model, measured in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .memory import PeakMemory
from .session import NoisySession

_CODE = (
    "import time; start = time.perf_counter(); "
    "from noisystore.runtime.bench_process import child; child(start)"
)


def start_up(session: NoisySession, x: npt.NDArray[Any], *, quick: bool = False) -> dict[str, Any]:
    """Time a fresh process until its first answer, Python's own start aside.

    Parameters
    ----------
    session : NoisySession
        Whose file and settings the process takes.
    x : array [N, ...]
        Its first input.
    quick : bool
        One process instead of five.

    Returns
    -------
    dict
        Medians in seconds, ``import_seconds`` (package, library and ONNX Runtime),
        ``session_seconds`` (loading the model), ``first_seconds`` (first inference, all rates 0),
        and ``images``, N; or ``reason``: why there are none.
    """
    said = [_in_a_process(session, x, 0.0) for _ in range(1 if quick else 5)]
    failed = [one for one in said if "reason" in one]
    if failed:
        return failed[0]
    names = ("import_seconds", "session_seconds", "first_seconds")
    return {**{n: statistics.median(one[n] for one in said) for n in names}, "images": len(x)}


def memory(session: NoisySession, x: npt.NDArray[Any], rate: float) -> dict[str, Any]:
    """Measure the memory of a fresh process that runs one batch.

    Parameters
    ----------
    session : NoisySession
        Whose file and settings the process takes.
    x : array [N, ...]
        The batch.
    rate : float
        Bit error rate.

    Returns
    -------
    dict
        In bytes, ``peak`` (largest resident set of the process), ``growth`` (by how much that
        exceeds what was resident before the batch ran), ``image`` (growth over N), each None where
        the system does not tell; and ``images``, N; or ``reason``: why there are none.
    """
    said = _in_a_process(session, x, rate)
    if "reason" in said:
        return said
    growth = said["growth"]
    image = None if growth is None else growth / len(x)
    return {"peak": said["peak"], "growth": growth, "image": image, "images": len(x)}


def _in_a_process(session: NoisySession, x: npt.NDArray[Any], rate: float) -> dict[str, Any]:
    maker = session.maker
    with tempfile.TemporaryDirectory(prefix="noisystore-") as folder:
        batch = Path(folder) / "x.npy"
        np.save(batch, x)
        task = {
            "model": str(session.path),
            "providers": [[name, dict(options)] for name, options in maker.providers],
            "threads": maker.threads,
            "libraries": list(maker.libraries),
            "batch": str(batch),
            "rate": rate,
        }
        command = [sys.executable, "-c", _CODE, json.dumps(task)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:  # such as under an emulator
            return {"reason": f"this Python starts no other programs ({error.strerror})"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"reason": f"the process ended with status {done.returncode}: {last[:200]}"}
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def child(start: float) -> None:
    """Do the task of the first argument, and print what was measured.

    Parameters
    ----------
    start : float
        Time before the first import.
    """
    import onnxruntime  # noqa: F401

    from .. import ortops

    ortops.library_version()
    imported = time.perf_counter()
    task = json.loads(sys.argv[1])
    x = np.load(task["batch"])
    before = time.perf_counter()
    session = NoisySession(
        task["model"],
        [(name, options) for name, options in task["providers"]],
        task["threads"],
        task["libraries"],
    )
    loaded = time.perf_counter()
    with PeakMemory() as used:
        begin = time.perf_counter()
        session.run(x, task["rate"])
        ran = time.perf_counter()
    print(
        json.dumps(
            {
                "import_seconds": imported - start,
                "session_seconds": loaded - before,
                "first_seconds": ran - begin,
                "peak": used.peak,
                "growth": used.growth,
            }
        )
    )
