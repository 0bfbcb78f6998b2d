"""The image's HEALTHCHECK, also `headway health`: asks the server of this container on /ping. Standard library only, and little of it."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from headway.entrypoint.running_server import RunningServer, find_server

TIMEOUT_S = 2.0  # as SageMaker gives /ping
_MAX_ANSWER_BYTES = 64 * 1024


def main(environ: Mapping[str, str], proc: Path = Path("/proc")) -> int:
    """Exit status 0 if the server is ready, else 1; one line with the reason either way."""
    is_ready, reason = ask(find_server(environ, proc))
    sys.stdout.write(f"{'ready' if is_ready else 'not ready'}: {_printable(reason)}\n")
    return 0 if is_ready else 1


def ask(server: RunningServer, timeout_s: float = TIMEOUT_S) -> tuple[bool, str]:
    """(whether GET /ping is answered 200, what there is to say), within ``timeout_s`` whatever the other side does."""
    try:
        answer = _exchange(server, time.monotonic() + timeout_s)
    except TimeoutError:
        return False, f"{server.url} gave no answer within {timeout_s:g} s"
    except OSError as problem:
        if server.asks_for_certificates and _is_refusal(problem):
            return True, f"{server.url} takes clients with a certificate only: the server is alive, whether it is ready it does not say"
        return False, f"{server.url}: {problem.strerror or problem}"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if status is None:
        return False, f"{server.url} did not answer in HTTP"
    if status[1] == b"200":
        return True, server.url
    return False, f"{server.url} answered {status[1].decode()}: {_reason(body)}"


def _exchange(server: RunningServer, deadline: float) -> bytes:
    request = f"GET /ping HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n"
    answer = b""
    with _connected(server, deadline) as connection:
        connection.sendall(request.encode())
        while len(answer) < _MAX_ANSWER_BYTES:
            connection.settimeout(_left(deadline))
            if not (piece := connection.recv(4096)):
                break
            answer += piece
    return answer


def _connected(server: RunningServer, deadline: float) -> socket.socket:
    connection = (
        _connected_to(server.uds, deadline) if server.uds else socket.create_connection((server.host, server.port), _left(deadline))
    )
    if not server.certfile:
        return connection
    from headway.entrypoint.healthcheck_tls import secured  # the ssl module takes longer than all the rest

    connection.settimeout(_left(deadline))
    return secured(connection, server)


def _connected_to(uds: str, deadline: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_left(deadline))
    try:
        connection.connect(uds)
    except OSError:
        connection.close()
        raise
    return connection


def _is_refusal(problem: OSError) -> bool:
    """Whether the server ended the handshake, with an alert or without: as it does where it wants a certificate."""
    return isinstance(problem, ConnectionResetError) or any(word in str(problem) for word in ("_ALERT_", "EOF"))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(body: bytes) -> str:
    import json

    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace") or "no reason given"


def _printable(text: str) -> str:
    """In one line, and without what steers a terminal: a reason may quote names out of a model."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


if __name__ == "__main__":
    sys.exit(main(os.environ))
