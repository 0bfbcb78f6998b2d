"""A large body sent by hand, as any client would address it."""

from __future__ import annotations

import socket
import threading

import pytest

from headway.container.conformance.raw_post import post_large
from headway.container.conformance.subject import Subject, Wishes


@pytest.mark.parametrize(("family", "host", "written"), [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]")])
def test_the_host_is_written_as_in_the_address(family: socket.AddressFamily, host: str, written: str) -> None:
    received = bytearray()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            while not received.endswith(b'a"}'):
                received.extend(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")

    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"{host} can't be had: {error}")
    with listener:
        address = f"{written}:{listener.getsockname()[1]}"
        thread = threading.Thread(target=answer)
        thread.start()
        with Subject(f"http://{address}", Wishes(timeout_s=10)) as subject:
            assert post_large(subject, "/invocations", 1000) == 413
        thread.join()
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert f"\r\nhost: {address}\r\n".encode() in head
    assert len(body) == 1000
