"""HTTPS with real handshakes: what clients get, and which are refused."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from api_server import ApiServer
from certificates import Authority, TlsFiles, connected, handshake, status
from websockets.sync.client import connect

AUTHORITY, OTHER = Authority(), Authority()
# uvloop closes the connection where a handshake fails, without the alert that OpenSSL has written.
REFUSED = "(?i)EOF|alert"  # older versions of Python word it in another way
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    files = TlsFiles(tmp_path_factory.mktemp("tls"), AUTHORITY.identity())
    limits = {"client_header_timeout_s": 1.0, "client_read_timeout_s": 1.0}
    with ApiServer(tls=files.options, connections=limits, verify=AUTHORITY.client()) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Takes clients of OTHER's."""
    files = TlsFiles(tmp_path_factory.mktemp("mtls"), AUTHORITY.identity(), OTHER)
    with ApiServer(tls=files.options, verify=AUTHORITY.client(OTHER.identity())) as server:
        yield server


@pytest.mark.parametrize("version", VERSIONS)
def test_clients_that_trust_the_authority(server: ApiServer, version: ssl.TLSVersion) -> None:
    answer = httpx.get(f"{server.url}/version", verify=AUTHORITY.client(version=version))
    assert answer.status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.url}/version", verify=OTHER.client(version=version))


def test_a_stream_and_a_websocket(server: ApiServer) -> None:
    chat = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    assert server.post("/v1/chat/completions", chat).text.endswith("data: [DONE]\n\n")
    url = f"wss://localhost:{server.port}/invocations-bidirectional-stream"
    with connect(url, ssl=AUTHORITY.client()) as websocket:
        websocket.send('{"prompt": "x"}')
        assert "text_completion" in str(websocket.recv())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_versions_of_tls_are_refused(server: ApiServer) -> None:
    old = AUTHORITY.client(version=ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with closing(connected(server.port)) as raw, pytest.raises(ssl.SSLError, match=REFUSED):
        old.wrap_socket(raw, server_hostname="localhost")


def test_only_the_ciphers_asked_for(tmp_path: Path) -> None:
    options = {**TlsFiles(tmp_path, AUTHORITY.identity()).options, "ssl_ciphers": "ECDHE+CHACHA20"}
    with ApiServer(tls=options) as server:
        client = AUTHORITY.client(version=ssl.TLSVersion.TLSv1_2)
        with handshake(server.port, client) as connection:
            assert "CHACHA20" in connection.cipher()[0]  # type: ignore[index]
        client.set_ciphers("ECDHE+AESGCM")
        with closing(connected(server.port)) as raw, pytest.raises(ssl.SSLError, match=REFUSED):
            client.wrap_socket(raw, server_hostname="localhost")


@pytest.mark.parametrize("sent", [b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 60, b"SSH-2.0-x\r\n"])
def test_what_is_no_tls_harms_nobody(server: ApiServer, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with closing(connected(server.port)) as raw:
        raw.sendall(sent)
        try:
            received = b"".join(iter(lambda: raw.recv(4096), b""))
        except ConnectionResetError:
            received = b""
    assert b"HTTP" not in received
    assert server.client.get("/version").status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_go_on_is_cut(server: ApiServer, sent: bytes) -> None:
    with closing(connected(server.port)) as raw:
        raw.sendall(sent)
        with suppress(ConnectionResetError):
            assert raw.recv(1) == b""


def test_clients_that_keep_the_server_waiting_are_cut(server: ApiServer) -> None:
    with handshake(server.port, AUTHORITY.client()) as idle:
        assert idle.recv(1) == b""
    others = set(server.connections)
    with handshake(server.port, AUTHORITY.client()) as deaf:
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
        server.wait_for(lambda: bool(server.connections - others))
        server.wait_for(lambda: not server.connections - others)


@pytest.mark.parametrize("version", VERSIONS)
def test_mutual_tls(mutual: ApiServer, version: ssl.TLSVersion) -> None:
    def ask(client: ssl.SSLContext) -> httpx.Response:
        return httpx.get(f"{mutual.url}/version", verify=client)

    assert ask(AUTHORITY.client(OTHER.identity(), version)).status_code == 200
    for stranger in (AUTHORITY.client(None, version), AUTHORITY.client(AUTHORITY.identity(), version)):
        with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
            ask(stranger)
    assert mutual.client.get("/version").status_code == 200


@pytest.mark.parametrize(("mode", "without", "foreign"), [("1", True, False), ("none", True, True)])
def test_certificates_that_a_client_may_leave_out(tmp_path: Path, mode: str, without: bool, foreign: bool) -> None:
    options = {**TlsFiles(tmp_path, AUTHORITY.identity(), OTHER).options, "ssl_cert_reqs": mode}
    with ApiServer(tls=options) as server:
        for identity, is_taken in ((None, without), (AUTHORITY.identity(), foreign), (OTHER.identity(), True)):
            client = AUTHORITY.client(identity, ssl.TLSVersion.TLSv1_2)  # which tells a refusal in the handshake
            try:
                with handshake(server.port, client) as connection:
                    assert status(connection) == b"HTTP/1.1 200"
            except ssl.SSLError:
                assert not is_taken
            else:
                assert is_taken
