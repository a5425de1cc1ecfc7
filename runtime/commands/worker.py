# SPDX-License-Identifier: Apache-2.0
"""`noisystore worker`: this machine measures for a cluster."""

from __future__ import annotations

import argparse
import os
import sys

from .cluster_options import add_tls, link
from .common import natural, positive, print_json, progress

HELP = "measure points of sweeps for a Dask scheduler, as one worker of a cluster"
DESCRIPTION = """\
Join a Dask scheduler (`dask scheduler`) and measure points of `noisystore sweep --cluster`, one at
a time with all cores. Models and data come from the sweep, results go back to it: nothing is kept
here. Ctrl-C or SIGTERM ends it; others then measure what it had begun."""
EXAMPLE = (
    "noisystore worker tls://10.0.0.1:8786 --tls-ca ca.pem --tls-cert node.pem --tls-key node.key"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("scheduler", metavar="ADDRESS", help="tls://HOST:PORT or tcp://HOST:PORT")
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads of each operator (default: the cores that it may use)",
    )
    parser.add_argument("--name", help="of this worker, in messages (default: its address)")
    parser.add_argument(
        "--port",
        type=natural,
        default=0,
        metavar="N",
        help="where it listens for the scheduler and for other workers (default: any)",
    )
    parser.add_argument(
        "--wait",
        type=natural,
        default=60,
        metavar="SECONDS",
        help="for a scheduler that is not there yet, or not any more (default: %(default)s)",
    )
    add_tls(parser)


def run(args: argparse.Namespace) -> int:
    """Work until it is ended."""
    way = link(args, args.scheduler)
    from .. import cluster_serve, cluster_worker

    cluster_serve.serve(way, args.threads, args.name, args.port, args.wait, progress)
    if args.json:
        print_json({"scheduler": way.address, "measured": cluster_worker.measured})
    if cluster_worker.at_work:
        # Python's way out would take what ONNX Runtime is still running on, which aborts.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
