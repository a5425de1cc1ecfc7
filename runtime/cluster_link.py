# SPDX-License-Identifier: Apache-2.0
"""The way to a Dask scheduler: its address, TLS, and what is refused because it is open to all."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..ortops.errors import InputError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

#: Schemes of addresses, and whether they are encrypted.
_SCHEMES = {"tcp": False, "tls": True, "ws": False, "wss": True}
_OPEN = (
    "anybody who reaches it can run code on it and its workers: use TLS (tls://, --tls-ca, "
    "--tls-cert, --tls-key), or say --insecure in a network where you trust everybody"
)


@dataclass(frozen=True)
class Link:
    """How to reach a Dask scheduler.

    Attributes
    ----------
    address : str
        ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.
    tls_ca, tls_cert, tls_key : path or None
        PEM files: the authority's certificate, one's own, and its key. None: those that Dask's
        own configuration names.
    insecure : bool
        Also take a scheduler without TLS that other machines can reach.

    Raises
    ------
    InputError
        No such address, missing or bad files of TLS, or an open scheduler.
    """

    address: str
    tls_ca: str | os.PathLike[str] | None = None
    tls_cert: str | os.PathLike[str] | None = None
    tls_key: str | os.PathLike[str] | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        scheme, host, port = _parts(self.address)
        object.__setattr__(self, "address", f"{scheme}://{_bracketed(host)}:{port}")
        if not self.encrypted:
            if self.tls_ca or self.tls_cert or self.tls_key:
                raise InputError(
                    f"cluster {self.address}: expected tls://HOST:PORT with TLS files, got {scheme}"
                )
            self.check_open(self.address)

    @property
    def encrypted(self) -> bool:
        """Whether the connection is encrypted, and both sides show certificates."""
        return _SCHEMES[urlsplit(self.address).scheme]

    @property
    def loopback(self) -> bool:
        """Whether the scheduler is reached inside this machine only."""
        return is_loopback(self.address)

    def check_open(self, address: str) -> None:
        """Raise InputError if a scheduler with this address of its own is open to others."""
        if not (self.insecure or self.encrypted or is_loopback(address)):
            where = "" if address == self.address else f" listens at {address}, too, and"
            raise InputError(f"cluster {self.address}:{where} has no TLS: {_OPEN}")

    def security(self) -> Security | None:
        """Return the TLS settings as Dask takes them; None: no TLS.

        Raises
        ------
        InputError
            A file is missing, or holds something else.
        """
        if not self.encrypted:
            return None
        from distributed.security import Security

        files: dict[str, Any] = {}
        for role in ("client", "worker", "scheduler"):
            for end, path in (("cert", self.tls_cert), ("key", self.tls_key)):
                if path is not None:
                    files[f"tls_{role}_{end}"] = os.fspath(path)
        if self.tls_ca is not None:
            files["tls_ca_file"] = os.fspath(self.tls_ca)
        found: Any = Security(require_encryption=True, **files)
        options = {
            "--tls-ca": found.tls_ca_file,
            "--tls-cert": found.tls_client_cert,
            "--tls-key": found.tls_client_key,
        }
        for option, path in options.items():
            if path is None:
                raise InputError(f"cluster {self.address}: expected {option} FILE.pem")
            if "\n" not in path and not os.access(path, os.R_OK):
                raise InputError(f"{option} {path}: expected a readable PEM file")
        try:
            found.get_connection_args("client")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InputError(
                f"cluster {self.address}: expected PEM files that belong together in --tls-ca, "
                f"--tls-cert and --tls-key: {error}"
            ) from None
        security: Security = found
        return security


@contextlib.contextmanager
def connected(link: Link, timeout: float = 10.0) -> Iterator[Client]:
    """Connect to a scheduler for as long as the context lasts; Dask's own log is silent meanwhile.

    Parameters
    ----------
    link : Link
    timeout : float
        Seconds to wait for the scheduler.

    Raises
    ------
    InputError
        Nobody answers, the certificates are not accepted, or the scheduler is open.
    """
    from distributed import Client

    with quiet():
        try:
            client = Client(
                link.address, timeout=timeout, security=link.security(), set_as_default=False
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(no_scheduler(link, error)) from None
        try:
            link.check_open(client.scheduler_info()["address"])
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=2)


def no_scheduler(link: Link, error: BaseException) -> str:
    """Return the line that says why a scheduler cannot be reached."""
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return f"cluster {link.address}: TLS: {cause.reason or cause}: see --tls-ca, --tls-cert"
    return (
        f"cluster {link.address}: expected a Dask scheduler there (`dask scheduler`), got no "
        "answer: is it running, with TLS exactly if the address says tls://?"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what Dask logs and warns of: what matters here is said in one line of our own."""
    names = [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "distributed"]
    loggers = [logging.getLogger(name) for name in {"distributed", "distributed.client", *names}]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*(Sending large graph|Mismatched versions)")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def is_loopback(address: str) -> bool:
    """Return whether an address is inside this machine: what its host resolves to, not its text.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT``, say; ``inproc://`` is inside this process.

    Raises
    ------
    InputError
        No address, or its host is unknown.
    """
    if address.startswith("inproc://"):
        return True
    _, host, port = _parts(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cluster {address}: host {host!r}: {reason}") from None
    return all(ipaddress.ip_address(str(a[4][0]).split("%")[0]).is_loopback for a in found)


def _parts(address: str) -> tuple[str, str, int]:
    expected = f"cluster: expected tcp://HOST:PORT or tls://HOST:PORT, got {address!r}"
    text = address if "://" in address else f"tcp://{address}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError):
        raise InputError(expected) from None
    if parts.scheme not in _SCHEMES or not host or not port or parts.path.strip("/"):
        raise InputError(expected)
    return parts.scheme, host, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
