# SPDX-License-Identifier: Apache-2.0
"""Which schedulers are taken: addresses, loopback, TLS, and open ones that are refused."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest

pytest.importorskip("distributed")

from clusters import Machines

from noisystore.ortops import InputError
from noisystore.runtime import sweep
from noisystore.runtime.cluster import Cluster
from noisystore.runtime.cluster_link import Link, connected, is_loopback

OUTSIDE = "192.0.2.77:8786"


def own_address():
    """An address of this machine that others reach, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = probe.getsockname()[0]
        except OSError:
            return None
    return None if address.startswith("127.") else address


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """The files of docs/clusters.md, by its commands."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    request = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    for name, command in {
        "ca": [*request, "-x509", "-days", "365", "-subj", "/CN=my cluster"],
        "node": [*request, "-subj", "/CN=node"],
        "stranger": [*request, "-x509", "-days", "365", "-subj", "/CN=somebody else"],
    }.items():
        out = f"{name}.csr" if name == "node" else f"{name}.pem"
        command = [*command, "-keyout", f"{name}.key", "-out", out]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key"]
    sign += ["-CAcreateserial", "-days", "365", "-out", "node.pem"]
    subprocess.run(sign, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    "address",
    [
        *("", "tcp://", "tcp://host", "host", "http://host:1", "tcp://host:port", "tcp://:1"),
        *("tcp://host:99999", "tcp://[::1:1", "tcp://host:1/path", "tls://host:0", "\0"),
    ],
)
def test_bad_addresses(address, error, model_path, small_npz, tmp_path):
    with pytest.raises(InputError, match="cluster: expected tcp://HOST:PORT or tls://HOST:PORT"):
        Link(address)
    if address:
        words = ["--data", f"npz:{small_npz}", "-o", tmp_path / "r.sqlite", "--cluster", address]
        assert "cluster: expected tcp://HOST:PORT" in error("sweep", model_path, *words)
    assert not list(tmp_path.iterdir())


def test_loopback_is_what_the_host_resolves_to():
    for address in ("tcp://127.0.0.1:1", "tcp://127.9.8.7:1", "tcp://localhost:1", "tls://[::1]:1"):
        assert is_loopback(address)
    for address in (
        "tcp://10.0.0.1:1",
        f"tcp://{OUTSIDE}",
        "tcp://[2001:db8::1]:1",
        "tcp://0.0.0.0:1",
    ):
        assert not is_loopback(address)
    assert is_loopback("inproc://10.0.0.1/2/3")
    assert Link("localhost:8786").address == "tcp://localhost:8786"
    assert Link("tcp://[::1]:8786").address == "tcp://[::1]:8786"
    with pytest.raises(InputError, match=r"host 'localhost.invalid': "):
        Link("tcp://localhost.invalid:1")


def test_an_open_scheduler_is_refused(error, model_path, small_npz, tmp_path):
    reason = "has no TLS: anybody who reaches it can run code on it and its workers: use TLS"
    with pytest.raises(InputError, match=reason):
        Link(f"tcp://{OUTSIDE}")
    assert Link(f"tcp://{OUTSIDE}", insecure=True).insecure
    words = ["--data", f"npz:{small_npz}", "-o", tmp_path / "r.sqlite"]
    cluster = ["--cluster", f"tcp://{OUTSIDE}"]
    assert reason in error("sweep", model_path, *words, *cluster)
    assert reason in error("worker", f"tcp://{OUTSIDE}")
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_is_open_elsewhere_too_is_refused(
    error, model_path, small_data, small_npz, tmp_path
):
    """Reached inside this machine, but it listens to others, as `dask scheduler` does by itself."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with Machines(tmp_path, options=()) as machines:
        inside = f"tcp://127.0.0.1:{machines.address.rsplit(':', 1)[1]}"
        reason = f"listens at tcp://{address}:.*, too, and has no TLS"
        with pytest.raises(InputError, match=reason):
            sweep(model_path, small_data, "1e-3", cluster=inside, progress=False)
        assert "too, and has no TLS" in error("worker", inside)
        with connected(Link(inside, insecure=True)) as client:
            assert client.status == "running"
        machines.address = inside
        machines.worker("a", "--insecure")
        machines.joined("a")
        found = sweep(
            model_path,
            small_data,
            "1e-3",
            trials=1,
            cluster=Cluster(Link(inside, insecure=True)),
            progress=False,
        )
        assert found.measured == 1


def test_tls_files(certificates, tmp_path, error):
    def files(ca="ca.pem", cert="node.pem", key="node.key"):
        return [certificates / name for name in (ca, cert, key)]

    with pytest.raises(InputError, match="expected tls://HOST:PORT with TLS files, got tcp"):
        Link("tcp://localhost:1", *files())
    with pytest.raises(InputError, match=r"expected --tls-ca FILE.pem"):
        Link("tls://localhost:1").security()
    with pytest.raises(InputError, match=r"--tls-cert .*none.pem: expected a readable PEM file"):
        Link("tls://localhost:1", *files(cert="none.pem")).security()
    for name in ("ca", "cert", "key"):
        (certificates / "text.txt").write_text("no PEM file")
        with pytest.raises(InputError, match="expected PEM files that belong together"):
            Link("tls://localhost:1", *files(**{name: "text.txt"})).security()
    with pytest.raises(InputError, match="expected PEM files that belong together"):
        Link("tls://localhost:1", *files(key="ca.key")).security()
    assert Link(f"tls://{OUTSIDE}", *files()).security() is not None
    assert "expected --tls-ca FILE.pem" in error("worker", f"tls://{OUTSIDE}")


def test_a_sweep_over_tls(certificates, ok, error, model_path, small_npz, tmp_path):
    ca, cert, key = (certificates / name for name in ("ca.pem", "node.pem", "node.key"))
    options = ["--protocol", "tls", "--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key]
    with Machines(tmp_path, options=["--host", "tls://127.0.0.1", *options]) as machines:
        assert machines.address.startswith("tls://127.0.0.1:")
        tls = ["--tls-ca", ca, "--tls-cert", cert, "--tls-key", key]
        worker = machines.worker("a", *tls)
        machines.joined("a")
        words = ["sweep", model_path, "--data", f"npz:{small_npz}", "--rates", "1e-4,1e-2"]
        words += ["--trials", "2", "--threads", "1"]
        there = ok(*words, "--cluster", machines.address, *tls, "-o", tmp_path / "there.sqlite")
        here = ok(*words, "-o", tmp_path / "here.sqlite")
        assert (there["measured"], there["sweep"]) == (4, here["sweep"])
        assert worker.poll() is None
        # Without a certificate of that authority nobody gets in.
        plain = machines.address.replace("tls", "tcp")
        other = tmp_path / "other.sqlite"
        said = error(*words, "--cluster", plain, "-o", other)
        assert "got no answer: is it running, with TLS exactly if the address says tls://?" in said
        strange = ["--tls-ca", ca, "--tls-cert", certificates / "stranger.pem"]
        strange += ["--tls-key", certificates / "stranger.key"]
        said = error(*words, "--cluster", machines.address, *strange, "-o", other)
        assert "cluster tls://127.0.0.1" in said
        wrong = ["--tls-ca", certificates / "stranger.pem", "--tls-cert", cert, "--tls-key", key]
        said = error(*words, "--cluster", machines.address, *wrong, "-o", other)
        assert "TLS: CERTIFICATE_VERIFY_FAILED" in said
        said = error("worker", machines.address, *wrong, "--wait", "0")
        assert "TLS: CERTIFICATE_VERIFY_FAILED" in said


def test_nobody_answers(error, model_path, small_npz, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        # Bound, and not listening: nobody else takes the port.
        words = ["--data", f"npz:{small_npz}", "-o", tmp_path / "r.sqlite", "--cluster", address]
        assert "expected a Dask scheduler there" in error("sweep", model_path, *words)
        assert "(waited 0 s)" in error("worker", address, "--wait", "0")
        assert not list(tmp_path.iterdir())
        words = ["--data", f"npz:{small_npz}", "-o", tmp_path, "--cluster", address]
        assert "expected a file name, got a folder" in error("sweep", model_path, *words)


def test_workers_of_one_machine_are_not_a_cluster(model_path, small_npz, tmp_path, error):
    words = ["sweep", model_path, "--data", f"npz:{small_npz}", "-o", tmp_path / "r.sqlite"]
    message = error(*words, "--cluster", "tcp://127.0.0.1:1", "--workers", "2")
    assert 'workers: expected 1 or "auto" with a cluster, whose own workers measure' in message
    assert not list(tmp_path.iterdir())


def test_conditions_of_a_cell_are_of_one_kind_of_machine(model_path, small_npz, tmp_path, error):
    words = ["sweep", model_path, "--data", f"npz:{small_npz}", "-o", tmp_path / "r.sqlite"]
    words += ["--cluster", "tcp://127.0.0.1:1", "--rates-from", tmp_path / "rates.json"]
    assert "--rates-from: expected one kind of machine" in error(*words, "--mixed", "each")
