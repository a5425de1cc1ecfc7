# SPDX-License-Identifier: Apache-2.0
"""The command line `noisystore`: parses, runs one command, turns failures into one line."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..ortops.errors import InputError
from . import run_log
from .texts import printable

_LONGEST_ERROR = 1000  # characters
#: Commands in the order of the help page; each is a module of `commands`, which is `LONG` where it
#: has a log.
COMMANDS = (
    "demo",
    "train",
    "retrain",
    "export",
    "annotate",
    "quantize",
    "harden",
    "inspect",
    "sweep",
    "worker",
    "fit",
    "report",
    "results",
    "midpoint",
    "sensitivity",
    "protect",
    "rram",
    "reproduce",
    "bench",
    "bundle",
    "verify",
    "board",
)

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_PIPE = 1, 2, 141

DESCRIPTION = """\
How many bit errors in memory does a neural network stand? Export a PyTorch model with noisy
memory sites, sweep the bit error rate in ONNX Runtime, and fit the midpoint noise level."""

EPILOG = """\
example:
  noisystore demo

exit status: 0 done, 1 a check failed, 2 bad input (one line says what to do), 130 interrupted"""


class Parser(argparse.ArgumentParser):
    """Parser whose complaints are `InputError`s, and whose options may not be abbreviated."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as `InputError`, with the page that helps."""
        raise InputError(f"{message} (see {self.prog} --help)")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_text())
        parser.exit()


def version_text() -> str:
    """Versions of package, library and noise model, and what there is code for, in one line."""
    from .. import ortops
    from ..ortops.noise_inputs import NOISE_MODEL

    capabilities = " ".join(ortops.cuda_architectures())
    return (
        f"noisystore {package_version()}, operator library {ortops.library_version()}, "
        f"noise model {NOISE_MODEL}, {ortops.instruction_set()}, "
        + (f"CUDA code for {capabilities}" if capabilities else "no CUDA")
    )


def package_version() -> str:
    """Version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("noisystore")
    except PackageNotFoundError:
        return "(not installed)"


def build_parser() -> Parser:
    """Build the parser of all commands; imports no heavy module."""
    parser = Parser(prog="noisystore", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions and exit")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=Parser
    )
    for name in COMMANDS:
        command = importlib.import_module(f".commands.{name}", __package__)
        sub = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=f"example:\n  {command.EXAMPLE}",
        )
        command.add_arguments(sub)
        if getattr(command, "LONG", False):
            run_log.add_log(sub)
        sub.add_argument(
            "--json",
            action="store_true",
            help="print the result as JSON on standard output, progress on standard error",
        )
        sub.set_defaults(run=command.run, long=getattr(command, "LONG", False))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; None: those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 a check failed, 2 bad input, 130 interrupted, 141 the reader of
        standard output went away.
    """
    args = argparse.Namespace()
    # None where the shell closed them (`>&-`).
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        parser = build_parser()
        parser.parse_args(argv, namespace=args)
        if getattr(args, "run", None) is None:
            parser.error("expected a command")
        status = _run_long(args) if args.long else int(args.run(args))
        sys.stdout.flush()
        return status
    except SystemExit as done:
        return int(done.code or 0)
    except InputError as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt as error:
        # A sweep says itself what it keeps, and which signal stopped it.
        said = str(error) or f"interrupted: {getattr(args, 'kept', 'nothing was written')}"
        return _fail(said, 128 + getattr(error, "signal", signal.SIGINT), "noisystore: ")
    except BrokenPipeError:
        _drop_output()
        return EXIT_PIPE
    except OSError as error:
        _drop_output()
        reason = error.strerror or str(error)
        where = f"{os.fspath(error.filename)!s}: " if error.filename is not None else ""
        return _fail(f"{where}{reason}", EXIT_BAD_INPUT)
    except MemoryError:
        return _fail("out of memory: fewer images at a time may do (--batch-size)", EXIT_BAD_INPUT)


def _run_long(args: argparse.Namespace) -> int:
    """Run a command that may take hours: it has a log, and outlives its terminal."""
    options = {k: v for k, v in vars(args).items() if k not in ("command", "run", "long")}
    log = None if args.log is None else os.path.abspath(args.log)
    for name, value in options.items():
        if name != "log" and isinstance(value, str) and os.path.abspath(value) == log:
            raise InputError(f"log {value}: expected a file of its own, got that of --{name}")
    with run_log.long_run(args.log, args.command, options):
        return int(args.run(args))


def _drop_output() -> None:
    """Let go of a standard output that cannot be written: Python would fail on it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int, prefix: str = "noisystore: error: ") -> int:
    # What files and libraries say may hold anything, at any length.
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST_ERROR:
        line = line[: _LONGEST_ERROR - 3] + "..."
    print(f"{prefix}{line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
