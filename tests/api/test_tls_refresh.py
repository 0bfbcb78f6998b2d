"""Files that are renewed while the server runs: new connections get them, open ones go on, and nothing half written is used."""

from __future__ import annotations

import errno
import http.client
import logging
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api_server import ApiServer
from certificates import DAY, Authority, TlsFiles, handshake, replace, serial, status

from headway.server.api import file_watch
from headway.server.api.tls.server_tls import ServerTls
from headway.server.config.tls import TlsConfig

AUTHORITY, OTHER = Authority(), Authority()


@contextmanager
def load(server: ApiServer, client: ssl.SSLContext, num_threads: int = 4) -> Iterator[list[int]]:
    """Requests all the while, half of them on a connection that stays and half on new ones; how many there were of each thread."""
    is_over = threading.Event()
    counts, failures = [0] * num_threads, []

    def ask(index: int) -> None:
        kept = http.client.HTTPSConnection("localhost", server.port, timeout=60, context=client)
        try:
            while not is_over.is_set():
                connection = kept if index % 2 else http.client.HTTPSConnection("localhost", server.port, timeout=60, context=client)
                connection.request("POST", "/v1/completions", b'{"prompt": "x"}', {"content-type": "application/json"})
                answer = connection.getresponse()
                assert (answer.status, b"text_completion" in answer.read()) == (200, True)
                counts[index] += 1
                if connection is not kept:
                    connection.close()
        except Exception as failure:
            failures.append(failure)
        finally:
            kept.close()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_renewed_certificate_is_taken_over_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_EVERY_S", 0.02)
    first = AUTHORITY.identity()
    files = TlsFiles(tmp_path, first)
    client = AUTHORITY.client()
    with ApiServer(tls={**files.options, "enable_ssl_refresh": True}) as server, handshake(server.port, client) as old:
        assert server.tls is not None
        before = server.tls.expires_at()
        numbers = {serial(server.port, client)}
        with load(server, client) as counts:
            for day in range(31, 34):
                since = list(counts)
                server.wait_for(lambda since=since: all(now > then for now, then in zip(counts, since, strict=True)))  # type: ignore[misc]
                files.put(AUTHORITY.identity(until=day * DAY))
                server.wait_for(lambda: serial(server.port, client) not in numbers)
                numbers.add(serial(server.port, client))
        assert len(numbers) == 4
        assert server.tls.expires_at() > before
        assert status(old) == b"HTTP/1.1 200", "the connection from before goes on"


@pytest.fixture
def refreshing(tmp_path: Path) -> Iterator[tuple[ApiServer, TlsFiles]]:
    """Mutual TLS with clients of OTHER's; the test says when to look at the files."""
    files = TlsFiles(tmp_path, AUTHORITY.identity(), OTHER)
    with ApiServer(tls=files.options) as server:
        yield server, files


def test_an_authority_that_is_gone_is_trusted_no_more(refreshing: tuple[ApiServer, TlsFiles]) -> None:
    server, files = refreshing
    third = Authority()
    # One context for all: its session ticket would let the client in again without its certificate being looked at.
    before, after = AUTHORITY.client(OTHER.identity()), AUTHORITY.client(third.identity())
    with handshake(server.port, before) as old:
        assert status(old) == b"HTTP/1.1 200"
        session = old.session
        assert session is not None
        with handshake(server.port, before, session) as resumed:
            assert status(resumed) == b"HTTP/1.1 200"
            assert resumed.session_reused
        assert server.tls is not None
        replace(files.authorities, third.pem)
        server.tls.look()
        with handshake(server.port, before, session) as refused:
            assert status(refused) == b""
        with handshake(server.port, after) as new:
            assert status(new) == b"HTTP/1.1 200"
        assert status(old) == b"HTTP/1.1 200", "the connection from before goes on"


def test_a_pair_that_is_half_written_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    files = TlsFiles(tmp_path, AUTHORITY.identity())
    tls = ServerTls(TlsConfig(**files.options))
    current, expires_at = tls.context.current, tls.expires_at()

    def told() -> list[str]:
        tls.look()
        messages = [record.message for record in caplog.records]
        caplog.clear()
        assert (tls.context.current is current) == (tls.expires_at() == expires_at)
        return messages

    assert told() == []
    renewed = AUTHORITY.identity(until=40 * DAY)
    replace(files.certificate, renewed.cert_chain_pems[0].bytes())
    assert told() == [], "the key may come any moment"
    (sentence,) = told()
    assert "cannot be used; those read before stay in use" in sentence
    assert "do not match" in sentence
    assert told() == [], "once is enough"
    replace(files.key, renewed.private_key_pem.bytes()[:200])
    assert told() == []
    assert "cut off or broken" in told()[0]
    files.key.unlink()
    assert [told(), len(told()), told()] == [[], 1, []]
    assert tls.context.current is current
    replace(files.key, renewed.private_key_pem.bytes())
    (sentence,) = told()
    assert sentence.startswith("TLS: new connections get the renewed files; the certificate expires on ")
    assert tls.context.current is not current
    current, expires_at = tls.context.current, tls.expires_at()
    assert told() == []
    files.put(AUTHORITY.identity(since=-9 * DAY, until=-DAY))
    assert told() == []
    assert "expired on" in told()[0]
    assert tls.context.current is current


def test_a_moment_without_free_files_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(name: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    files = TlsFiles(tmp_path, AUTHORITY.identity())
    tls = ServerTls(TlsConfig(**files.options))
    current = tls.context.current
    files.put(AUTHORITY.identity())
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", none_left)
        tls.look()
        assert tls.context.current is current
    tls.look()
    assert tls.context.current is not current


def test_the_directory_swap_of_kubernetes(tmp_path: Path) -> None:
    """A mounted secret: cert.pem -> ..data/cert.pem, and ..data -> a directory that is swapped by a rename."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        TlsFiles(tmp_path / name, AUTHORITY.identity(until=40 * DAY))
    (tmp_path / "..data").symlink_to("first")
    for name in ("key.pem", "cert.pem"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    options = {"ssl_keyfile": str(tmp_path / "key.pem"), "ssl_certfile": str(tmp_path / "cert.pem")}
    client = AUTHORITY.client()
    with ApiServer(tls=options) as server:
        assert server.tls is not None
        before = serial(server.port, client)
        (tmp_path / "..data_tmp").symlink_to("second")
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")
        server.tls.look()
        assert serial(server.port, client) != before


def test_without_the_option_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_EVERY_S", 0.001)
    files = TlsFiles(tmp_path, AUTHORITY.identity())
    client = AUTHORITY.client()
    with ApiServer(tls=files.options, verify=client) as server:
        before = serial(server.port, client)
        files.put(AUTHORITY.identity())
        for _ in range(20):
            assert server.client.get("/version").status_code == 200
        assert serial(server.port, client) == before
