"""The pages' own commands: certificates made by openssl, clients with and without one, a Unix socket; from the start to the end."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer

from headway.entrypoint.healthcheck import ask
from headway.entrypoint.running_server import RunningServer

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).resolve().parents[2] / "docs/network.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the openssl commands of docs/network.md were run."""
    folder = tmp_path_factory.mktemp("openssl")
    for commands in re.findall(r"```sh\n(.+?)```", PAGE.read_text(), re.DOTALL):
        subprocess.run(["bash", "-e", "-c", commands], cwd=folder, capture_output=True, timeout=120, check=True)
    return folder


def test_mutual_tls_over_a_unix_socket(made: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        uds = f"{folder}/h.sock"
        pair = ["--ssl-certfile", f"{made}/server.pem", "--ssl-keyfile", f"{made}/server.key"]
        needed = ["--ssl-ca-certs", f"{made}/ca.pem", "--ssl-cert-reqs", "2"]
        client = ssl.create_default_context(cafile=f"{made}/ca.pem")
        client.load_cert_chain(f"{made}/client.pem", f"{made}/client.key")
        with LiveServer("demo", "--uds", uds, "--api-key", "k", *pair, *needed) as server:
            with httpx.Client(transport=httpx.HTTPTransport(verify=client, uds=uds), base_url="https://localhost", timeout=60) as web:
                server.wait_for(lambda: Path(uds).exists())
                server.wait_for(lambda: web.get("/ping").status_code == 200, 120)
                assert web.get("/v1/models").status_code == 401
                assert web.get("/v1/models", headers={"authorization": "Bearer k"}).json()["data"][0]["id"] == "demo"
                (line,) = [line for line in web.get("/metrics").text.splitlines() if line.startswith("headway:tls_certificate_expiry")]
                ends = ssl.cert_time_to_seconds(openssl_end(made / "server.pem"))
                assert float(line.split()[-1]) == ends
            running = RunningServer(uds=uds, certfile=f"{made}/server.pem", keyfile=f"{made}/server.key", asks_for_certificates=True)
            assert ask(running) == (True, f"https://localhost/ping over {uds}"), "with the server's own certificate"
            curl = ["curl", "-sS", "--unix-socket", uds, "--cacert", f"{made}/ca.pem", "https://localhost/ping"]
            assert subprocess.run(curl, capture_output=True, timeout=120, check=False).returncode != 0, "without a certificate"
            curl += ["--cert", f"{made}/client.pem", "--key", f"{made}/client.key"]
            subprocess.run(curl, capture_output=True, timeout=120, check=True)
            assert f"curl --unix-socket {uds} https://localhost/v1" in server.log()
            assert server.stop() == 0
        assert not Path(uds).exists()


def openssl_end(certificate: Path) -> str:
    command = ["openssl", "x509", "-noout", "-enddate", "-in", str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.strip().removeprefix("notAfter=")


def test_an_end_before_it_is_ready_takes_the_socket_along(made: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, LiveServer("demo", "--uds", f"{folder}/h.sock") as server:
        server.wait_for(lambda: Path(f"{folder}/h.sock").exists())
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(f"{folder}/h.sock")
        assert server.stop() == 0
        assert not Path(f"{folder}/h.sock").exists()


@pytest.mark.parametrize(
    ("certificate", "key", "sentence"),
    [
        ("server.pem", "client.key", "key and certificate do not match: the certificate of CN=localhost was made for another key"),
        ("server.csr", "server.key", "holds no certificate"),
        ("none.pem", "server.key", "cannot be read: No such file or directory"),
    ],
)
def test_bad_files_end_the_start(made: Path, certificate: str, key: str, sentence: str) -> None:
    with LiveServer("demo", "--ssl-certfile", str(made / certificate), "--ssl-keyfile", str(made / key)) as server:
        assert server.process.wait(timeout=60) == 2
        last = server.log().splitlines()[-1]
    assert last.startswith("headway: error: --ssl-")
    assert sentence in last
