"""Messages between hosts: whole, in order, and from nobody else."""

from __future__ import annotations

import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait

import pytest

from headway.server.engine.executor.secure_link import Credentials, SecureLink, make_credentials, reach, welcome

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def credentials() -> Credentials:
    return make_credentials()


def linked(credentials: Credentials, others: Credentials | None = None) -> tuple[SecureLink, SecureLink]:
    """(the engine's side, the rank's side, which has ``others``)."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        there = pool.submit(reach, server.getsockname()[:2], others or credentials, PATIENCE_S)
        here = welcome(server.accept()[0], credentials.context(is_server=True), PATIENCE_S)
        return here, there.result()


def test_messages_of_any_length_both_ways(credentials: Credentials) -> None:
    engine, rank = linked(credentials)
    messages = [b"", b"a", os.urandom(70_000), os.urandom(3_000_000), b"z"]
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(lambda: [engine.send_bytes(message) for message in messages])
        assert [rank.recv_bytes() for _ in messages] == messages
        told.result()
        answered = pool.submit(lambda: [rank.send_bytes(message) for message in messages])
        arrived: list[bytes] = []
        while len(arrived) < len(messages):
            wait([engine.fileno()], PATIENCE_S)
            arrived += engine.arrived()
        answered.result()
    assert arrived == messages
    engine.close()
    rank.close()


def test_the_last_words_are_heard_before_the_end(credentials: Credentials) -> None:
    engine, rank = linked(credentials)
    rank.send_bytes(b"last")
    rank.close()
    wait([engine.fileno()], PATIENCE_S)
    engine.cut()
    assert engine.arrived() == [b"last"]
    with pytest.raises(EOFError):
        engine.arrived()
    engine.close()


def test_the_end_of_the_other_side_ends_a_wait(credentials: Credentials) -> None:
    engine, rank = linked(credentials)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(rank.recv_bytes)
        engine.cut()
        with pytest.raises(EOFError):
            waiting.result(PATIENCE_S)
    engine.close()
    rank.close()


def test_a_certificate_of_another_start_is_not_accepted(credentials: Credentials) -> None:
    with pytest.raises(ssl.SSLError):
        linked(credentials, make_credentials())


def test_plain_text_is_not_read(credentials: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as stranger:
        stranger.sendall(b"\0\0\0\1a" * 10)
        with server.accept()[0] as plain, pytest.raises(ssl.SSLError):
            welcome(plain, credentials.context(is_server=True), PATIENCE_S)


def test_nobody_comes_without_a_certificate(credentials: Credentials) -> None:
    """Who has none may believe to have been let in, as TLS 1.3 has it, until the first read."""
    context = ssl._create_unverified_context()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as stranger,
        ThreadPoolExecutor(1) as pool,
    ):
        handshake = pool.submit(context.wrap_socket, stranger)
        with server.accept()[0] as plain, pytest.raises(ssl.SSLError, match=r"(?i)peer did not return a certificate"):
            welcome(plain, credentials.context(is_server=True), PATIENCE_S)
        handshake.result(PATIENCE_S).close()


def test_the_key_is_not_shown(credentials: Credentials) -> None:
    assert "PRIVATE" in credentials.key
    assert "PRIVATE" not in repr(credentials)
