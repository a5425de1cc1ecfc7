# SPDX-License-Identifier: Apache-2.0
"""examples/slurm.py: the job script that it submits, and its jobs as processes of this machine."""

import importlib.util
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import stable

from noisystore.runtime import Results, sweep

pytest.importorskip("distributed")
# Not imported: that changes what Ctrl-C does in the process.
if importlib.util.find_spec("dask_jobqueue") is None:
    pytest.skip("needs dask_jobqueue", allow_module_level=True)

EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm.py"
RATES = "1e-4:1e-1:1/decade"


def example(*words):
    return subprocess.run(
        [sys.executable, EXAMPLE, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """The folder that docs/clusters.md makes, by its commands."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    page = (EXAMPLE.parents[1] / "docs" / "clusters.md").read_text()
    for command in re.findall(r"^    (openssl .*)", page, re.MULTILINE):
        subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)
    return folder


def test_the_job_script(tls, tmp_path):
    """A worker a core, each with one thread, that show the certificate; the job has the options."""
    options = ["--cores", 16, "--memory", "24GB", "--walltime", "02:00:00", "--queue", "batch"]
    options += ["--account", "us", "--interface", "lo", "--scratch", tmp_path, "--tls", tls]
    options += ["--prologue", "module load python", "--prologue", "ulimit -c 0"]
    done = example("m.onnx", "--data", "digits", "-o", tmp_path / "r", *options, "--show")
    assert done.returncode == 0, done.stderr
    head, worker = done.stdout.strip().rsplit("\n", 1)
    assert head.splitlines()[0].startswith("#!")
    assert re.findall(r"^#SBATCH (-[ptAn]|--[a-z-]+=?) ?(.*)", head, re.MULTILINE) == [
        ("-p", "batch"),
        ("-A", "us"),
        ("-n", "1"),
        ("--cpus-per-task=", "16"),
        ("--mem=", "23G"),
        ("-t", "02:00:00"),
    ]
    assert head.splitlines()[-2:] == ["module load python", "ulimit -c 0"]
    words = shlex.split(worker)
    assert words[:3] == [sys.executable, "-m", "distributed.cli.dask_worker"]
    assert words[3].startswith("tls://127.0.0.1:")
    given = dict(itertools.pairwise(words))
    assert (given["--nworkers"], given["--nthreads"]) == ("16", "1")
    assert (given["--interface"], given["--local-directory"]) == ("lo", str(tmp_path))
    assert given["--tls-ca-file"] == str(tls / "ca.pem")
    assert (given["--tls-cert"], given["--tls-key"]) == (
        str(tls / "node.pem"),
        str(tls / "node.key"),
    )
    assert not (tmp_path / "r").exists()


def test_its_jobs_measure_what_this_machine_does(tls, tmp_path, model_path, small_npz, small_data):
    path = tmp_path / "r.sqlite"
    words = [model_path, "--data", f"npz:{small_npz}", "--rates", RATES, "--trials", 2, "-o", path]
    words += ["--local", "--jobs", 2, "--cores", 2, "--memory", "2GB", "--interface", "lo"]
    words += ["--scratch", tmp_path, "--tls", tls]
    done = example(*words)
    assert done.returncode == 0, done.stderr
    assert "8 of 8 points measured now" in done.stdout
    assert re.search(r"midpoint [0-9.e-]+ \(95% interval", done.stdout)
    here = sweep(model_path, f"npz:{small_npz}", RATES, trials=2, threads=1, progress=False)
    with Results(path) as results:
        assert stable(results.rows()) == stable(here.points)
    again = example(*words)
    assert "0 of 8 points measured now" in again.stdout, again.stderr


def test_bad_input(tmp_path, model_path, small_npz):
    words = [model_path, "--data", f"npz:{small_npz}", "-o", tmp_path / "r", "--local"]
    done = example(*words, "--tls", tmp_path)
    assert done.returncode == 1
    said = f"slurm.py: error: --tls: expected {tmp_path / 'ca.pem'}, which is not there"
    assert done.stderr.startswith(said)
    assert not list(tmp_path.iterdir())


def test_help():
    done = example("--help")
    assert done.returncode == 0
    assert "Sweep an annotated ONNX model with the nodes of a SLURM cluster." in done.stdout
