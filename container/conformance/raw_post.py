"""A large body sent by hand: a client library may hide the answer of a server that refuses the rest."""

from __future__ import annotations

import http.client
import socket
from urllib.parse import urlsplit

from headway.container.conformance.outcome import Failed
from headway.container.conformance.subject import Subject

_PIECE_BYTES = 256 * 1024


def post_large(subject: Subject, path: str, num_bytes: int) -> int:
    """The status of a JSON body of that size. Raises Failed where none comes."""
    host, port = subject.address
    headers = {
        "host": urlsplit(subject.url).netloc,
        "content-type": "application/json",
        "content-length": str(num_bytes),
        "connection": "close",
        **subject.key_headers,
    }
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    try:
        with socket.create_connection((host, port), timeout=subject.wishes.timeout_s) as plain:
            connection = subject.tls.wrap_socket(plain, server_hostname=host) if subject.tls else plain
            connection.sendall(head.encode())
            _send_body(connection, num_bytes)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"a body of {num_bytes} bytes is not answered: {type(error).__name__}: {error}") from error


def _send_body(connection: socket.socket, num_bytes: int) -> None:
    """Stops where the server wants no more: its answer is there to be read all the same."""
    text = b'{"messages": "'
    num_left = num_bytes - len(text) - 2
    try:
        connection.sendall(text)
        while num_left:
            piece = b"a" * min(num_left, _PIECE_BYTES)
            connection.sendall(piece)
            num_left -= len(piece)
        connection.sendall(b'"}')
    except (BrokenPipeError, ConnectionResetError):
        return
