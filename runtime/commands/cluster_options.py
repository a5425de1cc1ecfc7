# SPDX-License-Identifier: Apache-2.0
"""Options of what runs on a cluster: the Dask scheduler, TLS files, kinds of workers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...ortops.errors import InputError
from .common import positive, require

if TYPE_CHECKING:
    from ..cluster import Cluster
    from ..cluster_link import Link


def add_tls(parser: argparse._ActionsContainer) -> None:
    """Declare the options that say how a scheduler may be reached."""
    for name, text in (
        ("ca", "certificate of the authority that signed all others"),
        ("cert", "own certificate"),
        ("key", "key of the own certificate"),
    ):
        parser.add_argument(
            f"--tls-{name}", metavar="FILE.pem", help=f"for tls://: {text} (default: Dask's)"
        )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="also take a scheduler without TLS that other machines reach: anybody there can run "
        "code on it and its workers",
    )


def link(args: argparse.Namespace, address: str) -> Link:
    """Return the way to a scheduler that the options say.

    Raises
    ------
    InputError
        `distributed` is not installed, or as `Link`.
    """
    require(["distributed"], "cluster")
    from ..cluster_link import Link

    return Link(address, args.tls_ca, args.tls_cert, args.tls_key, args.insecure)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a command that measures on a cluster."""
    group = parser.add_argument_group("on a cluster")
    group.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="tls://HOST:PORT or tcp://HOST:PORT of a Dask scheduler, whose workers measure "
        "(`noisystore worker`); --threads and --provider are then theirs",
    )
    group.add_argument(
        "--mixed",
        choices=("each", "any"),
        help="where its workers are of several kinds (machine, execution provider): every kind "
        "measures every point, or each point is measured once",
    )
    group.add_argument(
        "--patience",
        type=positive,
        metavar="SECONDS",
        help="end if no worker is ready for so long (default: 60)",
    )
    add_tls(group)


def cluster(args: argparse.Namespace) -> Cluster | None:
    """Return where the options say that points are measured; None: on this machine.

    Raises
    ------
    InputError
        Options of a cluster without one, or as `link`.
    """
    if args.cluster is None:
        names = ("mixed", "patience", "tls_ca", "tls_cert", "tls_key", "insecure")
        stray = [name for name in names if getattr(args, name)]
        if stray:
            option = stray[0].replace("_", "-")
            raise InputError(f"--{option}: expected --cluster ADDRESS with it, got none")
        return None
    way = link(args, args.cluster)
    from ..cluster import Cluster

    return Cluster(way, args.mixed, args.patience or 60.0)
