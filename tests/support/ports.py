"""Ports for servers that bind theirs only once they have loaded: tests that run beside these are given others."""

from __future__ import annotations

import contextlib
import socket

from headway.server.bench.server_process import free_port

_claims: list[contextlib.ExitStack] = []


def claimed_port() -> int:
    return claimed_ports(1)


def claimed_ports(num_ports: int) -> int:
    """The first of so many free ports in a row. They stay claimed until this process ends.

    The claim is a UDP socket on the same number: other processes of the tests see it, and no server that listens on TCP minds it.
    """
    while True:
        first = free_port()
        with contextlib.ExitStack() as claims, contextlib.suppress(OSError):
            for port in range(first, first + num_ports):
                claim = claims.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                claim.bind(("127.0.0.1", port))
                socket.create_server(("127.0.0.1", port)).close()
            _claims.append(claims.pop_all())
            return first
