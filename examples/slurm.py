# SPDX-License-Identifier: Apache-2.0
"""Sweep a model with the nodes of a SLURM cluster, by dask-jobqueue.

Each job has a worker a core, and each worker measures one point at a time on one thread. The
scheduler runs here, on the node that submits; it and the workers show the certificate that
docs/clusters.md makes, in a folder that all nodes see. Results are written here alone. The same
command goes on where it stopped: after Ctrl-C, or when the jobs have reached their time limit.

    pip install '.[cluster]' dask-jobqueue
    python examples/slurm.py vgg-a.onnx --data cifar10:DIR --jobs 8 --cores 16 --memory 24GB \\
        --queue batch --walltime 01:00:00 --interface ib0 --tls tls -o vgg-a.sqlite
"""

import argparse
import signal
import sys
from pathlib import Path

from dask_jobqueue import SLURMCluster
from dask_jobqueue.local import LocalCluster
from distributed import Client
from distributed.security import Security

from noisystore.ortops.errors import InputError
from noisystore.runtime import fit_midpoint, sweep

# dask-jobqueue has made Ctrl-C a silent exit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def arguments(words=None):
    """Return what the user asks for."""
    parser = argparse.ArgumentParser(
        description="Sweep an annotated ONNX model with the nodes of a SLURM cluster."
    )
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("--data", required=True, metavar="D", help="as of `noisystore sweep`")
    parser.add_argument("--rates", default="1e-8:1e-1:4/decade", metavar="R")
    parser.add_argument("--trials", type=int, default=5, metavar="N")
    parser.add_argument("--images", type=int, metavar="N", help="the first N (default: all)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.sqlite")
    jobs = parser.add_argument_group("jobs")
    jobs.add_argument("--jobs", type=int, default=4, metavar="N", help="default: %(default)s")
    jobs.add_argument(
        "--cores", type=int, default=8, metavar="N", help="of a job, a worker each (default: 8)"
    )
    jobs.add_argument(
        "--memory",
        default="16GB",
        metavar="M",
        help="of a job: each worker holds the model and the data (default: %(default)s)",
    )
    jobs.add_argument("--walltime", default="01:00:00", metavar="T", help="default: %(default)s")
    jobs.add_argument("--queue", metavar="NAME", help="SLURM's partition")
    jobs.add_argument("--account", metavar="NAME")
    jobs.add_argument(
        "--interface", metavar="NAME", help="network that all nodes share, such as ib0"
    )
    jobs.add_argument(
        "--prologue",
        action="append",
        default=[],
        metavar="LINE",
        help="of the job before its workers start, such as 'module load python'; may be repeated",
    )
    jobs.add_argument(
        "--tls",
        required=True,
        metavar="DIR",
        help="folder of ca.pem, node.pem and node.key that all nodes see",
    )
    jobs.add_argument(
        "--scratch", default="/tmp", metavar="DIR", help="of each node (default: %(default)s)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", action="store_true", help="print the job script, and end")
    what.add_argument("--local", action="store_true", help="the same jobs, as processes here")
    return parser.parse_args(words)


def security(folder):
    """Return the TLS settings of scheduler, workers and client, who share one certificate."""
    files = {name: folder.resolve() / name for name in ("ca.pem", "node.pem", "node.key")}
    for file in files.values():
        if not file.is_file():
            raise InputError(f"--tls: expected {file}, which is not there: see docs/clusters.md")
    roles = {}
    for role in ("scheduler", "worker", "client"):
        roles[f"tls_{role}_cert"] = str(files["node.pem"])
        roles[f"tls_{role}_key"] = str(files["node.key"])
    return Security(tls_ca_file=str(files["ca.pem"]), require_encryption=True, **roles)


def cluster_of(args):
    """Return a cluster whose jobs are not submitted yet."""
    options = {
        "cores": args.cores,
        "processes": args.cores,  # so that each has one thread
        "memory": args.memory,
        "interface": args.interface,
        "local_directory": args.scratch,
        "security": security(Path(args.tls)),
        "protocol": "tls://",
        "scheduler_options": {"dashboard": False},
    }
    if args.local:
        return LocalCluster(**options)
    return SLURMCluster(
        **options,
        walltime=args.walltime,
        queue=args.queue,
        account=args.account,
        job_script_prologue=args.prologue,
    )


def main(args):
    """Submit, sweep, fit, print."""
    with cluster_of(args) as cluster, Client(cluster) as client:
        if args.show:
            print(cluster.job_script())
            return
        cluster.scale(jobs=args.jobs)
        print(f"{args.jobs} jobs submitted; waiting for the first", file=sys.stderr)
        client.wait_for_workers(1)
        swept = sweep(
            args.model,
            args.data,
            args.rates,
            trials=args.trials,
            images=args.images,
            results=args.output,
            cluster=client,
            threads=1,
            progress=True,
        )
    print(f"{swept.measured} of {len(swept.points)} points measured now, in {swept.seconds:.0f} s")
    fit = fit_midpoint(swept)
    if fit.midpoint is None:
        print(f"midpoint {fit.bound} {fit.limit:.3g}")
    else:
        print("midpoint {:.3g} (95% interval {:.3g} to {:.3g})".format(fit.midpoint, *fit.interval))


if __name__ == "__main__":
    try:
        main(arguments())
    except InputError as error:
        sys.exit(f"slurm.py: error: {error}")
    except KeyboardInterrupt as error:
        sys.exit(f"slurm.py: {error or 'interrupted'}")
